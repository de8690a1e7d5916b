"""The project's environments as Stable-Baselines3 wants them: the same emulator options as ours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from agent57_jax.config import EnvironmentSettings
from agent57_jax.environments import factory
from agent57_jax.types import LAST, HostEnvironment, TimeStep
from benchmarks.peer_settings import Peer

FRAMES = 4  # stacked for Atari


class HostVecEnv(VecEnv):
    """Adapters of one environment each, as one VecEnv. They step at the same time, each on its own thread.

    A VecEnv resets what ended within the same step. An adapter shows FIRST in the step after LAST, so those that ended, and only those,
    make one step more.
    """

    def __init__(self, environments: Sequence[HostEnvironment], clip_rewards: bool = False) -> None:
        """`clip_rewards`: show the sign of the reward; `info["episode"]` has the raw return all the same."""
        self._environments = environments
        self._clip_rewards = clip_rewards
        spec = environments[0].spec
        self._dtype = spec.observation_dtype
        low, high = (0, 255) if self._dtype == np.uint8 else (-np.inf, np.inf)
        space = spaces.Box(low, high, spec.observation_shape, self._dtype.type)
        super().__init__(len(environments), space, spaces.Discrete(spec.num_actions))

    def reset(self) -> np.ndarray:
        """Starts all episodes anew."""
        for environment in self._environments:
            environment.reset()
        self.reset_infos: list[dict[str, Any]] = [{} for _ in self._environments]
        return np.concatenate([environment.recv().observation for environment in self._environments])

    def step_async(self, actions: np.ndarray) -> None:
        """Starts a step in every environment."""
        for environment, action in zip(self._environments, actions, strict=True):
            environment.send(np.array([action], np.int32))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Waits for the step: observations, rewards, whether episodes ended, and about those that did `info`."""
        steps = [environment.recv() for environment in self._environments]
        rewards = np.array([step.reward[0] for step in steps], np.float32)
        dones = np.array([step.step_type[0] == LAST for step in steps])
        infos = [self._info(step) if done else {"TimeLimit.truncated": False} for step, done in zip(steps, dones, strict=True)]
        observations = [step.observation[0] for step in steps]
        ended = np.flatnonzero(dones).tolist()
        for i in ended:
            self._environments[i].send(np.zeros(1, np.int32))  # ignored: FIRST comes next
        for i in ended:
            observations[i] = self._environments[i].recv().observation[0]
        return np.stack(observations), np.sign(rewards) if self._clip_rewards else rewards, dones, infos

    @staticmethod
    def _info(last: TimeStep) -> dict[str, Any]:
        return {
            "terminal_observation": last.observation[0],
            "TimeLimit.truncated": bool(last.discount[0] == 1),
            "episode": {"r": float(last.episode_return[0]), "l": int(last.episode_length[0]), "t": 0.0},
        }

    def close(self) -> None:
        """Ends the emulators."""
        for environment in self._environments:
            environment.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """What VecEnv asks of its environments: only how they render, which is not at all."""
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Environments have no attributes to set."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Environments have no methods to call."""
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No Gymnasium wrapper is around them."""
        return [False for _ in self._get_indices(indices)]


def make(
    settings: EnvironmentSettings, count: int, seed: int, stream: str, skip: int, peer: Peer, is_atari: bool, normalizer: Any = None
) -> Any:
    """A VecEnv of `count` environments of a stream, behind what the zoo puts around the task.

    Args:
      skip: environments of the stream that others own.
      normalizer: the VecNormalize of training, whose statistics these environments are to show and leave as they are; None: they are for
        training.
    """
    environments = [factory.make_host_environment(settings, 1, seed, stream, skip=skip + i) for i in range(count)]
    is_training = stream == "training"
    wrapped: Any = HostVecEnv(environments, clip_rewards=is_atari and is_training)
    if is_atari:
        wrapped = VecFrameStack(wrapped, FRAMES)
    if peer.normalize:
        wrapped = VecNormalize(wrapped, gamma=peer.arguments["gamma"], **peer.normalize)
        if not is_training:
            wrapped.training, wrapped.norm_reward = False, False
            if normalizer is not None and normalizer.norm_obs:
                wrapped.obs_rms = normalizer.obs_rms
    return wrapped
