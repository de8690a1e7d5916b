"""The project's environments for Stable-Baselines3, with the same emulator options."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from agent57_jax.config import EnvironmentKind, EnvironmentSettings
from agent57_jax.environments import factory
from agent57_jax.environments.envpool import EnvPoolEnvironment
from agent57_jax.types import LAST, HostEnvironment, TimeStep
from benchmarks.peer_settings import Peer

FRAMES = 4  # stacked for Atari


class HostVecEnv(VecEnv):
    """A batch of our environments as a VecEnv, which resets an environment in the step that ends its episode.

    Our adapters show FIRST in the step after LAST. The EnvPool adapter can restart single rows at once. For other kinds each environment
    has its own adapter, and only those that ended make one more step. Adapters step at the same time.
    """

    def __init__(self, adapters: Sequence[HostEnvironment], clip_rewards: bool = False) -> None:
        """`clip_rewards`: show the sign of the reward; `info["episode"]` still has the raw return."""
        self._adapters = adapters
        self._clip_rewards = clip_rewards
        spec = adapters[0].spec
        low, high = (0, 255) if spec.observation_dtype == np.uint8 else (-np.inf, np.inf)
        space = spaces.Box(low, high, spec.observation_shape, spec.observation_dtype.type)
        sizes = [adapter.num_envs for adapter in adapters]
        self._ends = np.cumsum(sizes)[:-1]
        super().__init__(sum(sizes), space, spaces.Discrete(spec.num_actions))

    def reset(self) -> np.ndarray:
        """Starts new episodes everywhere."""
        for adapter in self._adapters:
            adapter.reset()
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        return np.concatenate([adapter.recv().observation for adapter in self._adapters])

    def step_async(self, actions: np.ndarray) -> None:
        """Starts a step in every environment."""
        for adapter, part in zip(self._adapters, np.split(actions, self._ends), strict=True):
            adapter.send(part.astype(np.int32))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Waits for the step: observations, rewards, which episodes ended, and their `info`."""
        steps = [adapter.recv() for adapter in self._adapters]
        infos = [self._info(step, row) for step in steps for row in range(len(step.reward))]
        observations = [_restarted(adapter, step) for adapter, step in zip(self._adapters, steps, strict=True)]
        rewards = np.concatenate([step.reward for step in steps])
        dones = np.concatenate([step.step_type == LAST for step in steps])
        return np.concatenate(observations), np.sign(rewards) if self._clip_rewards else rewards, dones, infos

    @staticmethod
    def _info(step: TimeStep, row: int) -> dict[str, Any]:
        if step.step_type[row] != LAST:
            return {"TimeLimit.truncated": False}
        return {
            "terminal_observation": step.observation[row].copy(),
            "TimeLimit.truncated": bool(step.discount[row] == 1),
            "episode": {"r": float(step.episode_return[row]), "l": int(step.episode_length[row]), "t": 0.0},
        }

    def close(self) -> None:
        """Closes the emulators."""
        for adapter in self._adapters:
            adapter.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """VecEnv asks only for the render mode; there is none."""
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """There are no attributes to set."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """There are no methods to call."""
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """There are no Gymnasium wrappers."""
        return [False for _ in self._get_indices(indices)]


def _restarted(adapter: HostEnvironment, step: TimeStep) -> np.ndarray:
    """The observations [E, ...] of a step, with the first one of the next episode where one has ended."""
    ended = np.flatnonzero(step.step_type == LAST)
    if not len(ended):
        return np.asarray(step.observation)
    if adapter.num_envs == 1:
        adapter.send(np.zeros(1, np.int32))  # ignored: FIRST comes next
        return np.asarray(adapter.recv().observation)
    assert isinstance(adapter, EnvPoolEnvironment)
    observation = step.observation.copy()
    observation[ended] = adapter.restart(ended)
    return np.asarray(observation)


def make(
    settings: EnvironmentSettings, count: int, seed: int, stream: str, skip: int, peer: Peer, is_atari: bool, normalizer: Any = None
) -> Any:
    """A VecEnv of `count` environments of a stream, with the zoo's wrappers for the task.

    Args:
      skip: environments of the stream that others own.
      normalizer: the VecNormalize of training, whose statistics these environments use without changing them.
    """
    size = count if settings.kind is EnvironmentKind.ENVPOOL else 1
    adapters = [factory.make_host_environment(settings, size, seed, stream, skip=skip + first) for first in range(0, count, size)]
    is_training = stream == "training"
    wrapped: Any = HostVecEnv(adapters, clip_rewards=is_atari and is_training)
    if is_atari:
        wrapped = VecFrameStack(wrapped, FRAMES)
    if peer.normalize:
        wrapped = VecNormalize(wrapped, gamma=peer.arguments["gamma"], **peer.normalize)
        if not is_training:
            wrapped.training, wrapped.norm_reward = False, False
            if normalizer is not None and normalizer.norm_obs:
                wrapped.obs_rms = normalizer.obs_rms
    return wrapped
