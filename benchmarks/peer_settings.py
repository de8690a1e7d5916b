"""The hyperparameters of the peers, as rl-baselines3-zoo publishes them for each task.

Sources: the files ppo.yml, dqn.yml, qrdqn.yml and ppo_lstm.yml of its release 2.9.2, folder hyperparams. A task that the zoo does not tune
gets the nearest published set; `Peer.source` names it. Two things differ, to save memory: QR-DQN's Atari replay has 100,000 transitions
like DQN's (its default of a million takes 56 GB), and a replay of images stores each image once.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

IMAGE_BUFFER = 100_000  # transitions of a replay
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Linear(NamedTuple):
    """A number that falls to 0 over the training run: the zoo's `lin_`."""

    start: float


class Peer(NamedTuple):
    """One agent on one task."""

    source: str  # of the numbers
    policy: str  # of Stable-Baselines3
    zoo_steps: int  # the zoo's number of training steps; exploration falls over a share of them
    num_envs: int
    arguments: Mapping[str, Any]  # of the algorithm; `Linear` for schedules
    normalize: Mapping[str, bool] = _NOTHING  # arguments of VecNormalize, which is not used without any


_SMALL_NETWORK: Mapping[str, Any] = {"net_arch": [256, 256]}

# ppo.yml
_PPO_CARTPOLE = {
    "n_steps": 32,
    "batch_size": 256,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "n_epochs": 20,
    "ent_coef": 0.0,
    "learning_rate": Linear(0.001),
    "clip_range": Linear(0.2),
}
_PPO_LUNAR_LANDER = {"n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4, "ent_coef": 0.01}
_PPO_MINIGRID = {
    "n_steps": 128,
    "batch_size": 64,
    "gae_lambda": 0.95,
    "gamma": 0.99,
    "n_epochs": 10,
    "ent_coef": 0.0,
    "learning_rate": 2.5e-4,
    "clip_range": 0.2,
}
_PPO_ATARI = {
    "n_steps": 128,
    "n_epochs": 4,
    "batch_size": 256,
    "learning_rate": Linear(2.5e-4),
    "clip_range": Linear(0.1),
    "vf_coef": 0.5,
    "ent_coef": 0.01,
}
# Procgen's own paper, Cobbe et al. 2020, App. C: 64 environments of 256 steps in 8 batches, rewards normalised.
_PPO_PROCGEN = {
    "n_steps": 256,
    "n_epochs": 3,
    "batch_size": 2048,
    "learning_rate": 5e-4,
    "clip_range": 0.2,
    "gamma": 0.999,
    "gae_lambda": 0.95,
    "ent_coef": 0.01,
}
_ALL = {"norm_obs": True, "norm_reward": True}  # the zoo's `normalize: true`
_REWARDS = {"norm_obs": False, "norm_reward": True}

# ppo_lstm.yml
_SMALL_LSTM: Mapping[str, Any] = {
    "ortho_init": False,
    "activation_fn": "ReLU",  # of torch.nn
    "lstm_hidden_size": 64,
    "enable_critic_lstm": True,
    "net_arch": {"pi": [64], "vf": [64]},
}
_RECURRENT_CARTPOLE = {**_PPO_CARTPOLE, "policy_kwargs": _SMALL_LSTM}
_RECURRENT_LUNAR_LANDER = {
    **_PPO_LUNAR_LANDER,
    "n_steps": 512,
    "batch_size": 128,
    "policy_kwargs": _SMALL_LSTM,
}

# dqn.yml
_DQN_CARTPOLE = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "policy_kwargs": _SMALL_NETWORK,
}
_DQN_LUNAR_LANDER = {
    "learning_rate": 6.3e-4,
    "batch_size": 128,
    "buffer_size": 50_000,
    "learning_starts": 0,
    "gamma": 0.99,
    "target_update_interval": 250,
    "train_freq": 4,
    "gradient_steps": -1,
    "exploration_fraction": 0.12,
    "exploration_final_eps": 0.1,
    "policy_kwargs": _SMALL_NETWORK,
}
_FRAMES = {"buffer_size": IMAGE_BUFFER, "optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
_DQN_ATARI = {
    **_FRAMES,
    "learning_rate": 1e-4,
    "batch_size": 32,
    "learning_starts": 100_000,
    "target_update_interval": 1000,
    "train_freq": 4,
    "gradient_steps": 1,
    "exploration_fraction": 0.1,
    "exploration_final_eps": 0.01,
}
# qrdqn.yml
_QRDQN_CARTPOLE = {**_DQN_CARTPOLE, "policy_kwargs": {"net_arch": [256, 256], "n_quantiles": 10}}
_QRDQN_LUNAR_LANDER = {
    "learning_rate": Linear(1.5e-3),
    "batch_size": 128,
    "buffer_size": 100_000,
    "learning_starts": 10_000,
    "gamma": 0.995,
    "target_update_interval": 1,
    "train_freq": 256,
    "gradient_steps": -1,
    "exploration_fraction": 0.24,
    "exploration_final_eps": 0.18,
    "policy_kwargs": {"net_arch": [256, 256], "n_quantiles": 170},
}
_QRDQN_ATARI = {**_FRAMES, "learning_starts": 50_000, "exploration_fraction": 0.025}

_MINIGRID = "MiniGrid"
_ATARI = "Atari"
_PROCGEN = "Procgen"
# Task, or kind of task, and agent -> settings.
PEERS: Mapping[tuple[str, str], Peer] = {
    ("CartPole-v1", "ppo"): Peer("ppo.yml: CartPole-v1", "MlpPolicy", 100_000, 8, _PPO_CARTPOLE),
    ("CartPole-v1", "dqn"): Peer("dqn.yml: CartPole-v1", "MlpPolicy", 50_000, 1, _DQN_CARTPOLE),
    ("CartPole-v1", "qrdqn"): Peer("qrdqn.yml: CartPole-v1", "MlpPolicy", 50_000, 1, _QRDQN_CARTPOLE),
    ("CartPole-v1", "recurrent_ppo"): Peer(
        "ppo_lstm.yml: CartPoleNoVel-v1, the nearest", "MlpLstmPolicy", 100_000, 8, _RECURRENT_CARTPOLE, _ALL
    ),
    ("LunarLander-v3", "ppo"): Peer("ppo.yml: LunarLander-v3", "MlpPolicy", 1_000_000, 16, _PPO_LUNAR_LANDER),
    ("LunarLander-v3", "dqn"): Peer("dqn.yml: LunarLander-v3", "MlpPolicy", 100_000, 1, _DQN_LUNAR_LANDER),
    ("LunarLander-v3", "qrdqn"): Peer("qrdqn.yml: LunarLander-v3", "MlpPolicy", 100_000, 1, _QRDQN_LUNAR_LANDER),
    ("LunarLander-v3", "recurrent_ppo"): Peer(
        "ppo_lstm.yml: LunarLanderNoVel-v2, the nearest", "MlpLstmPolicy", 5_000_000, 32, _RECURRENT_LUNAR_LANDER, _ALL
    ),
    (_MINIGRID, "ppo"): Peer("ppo.yml: the set of all MiniGrid tasks", "MlpPolicy", 100_000, 8, _PPO_MINIGRID, _ALL),
    (_MINIGRID, "dqn"): Peer("dqn.yml: LunarLander-v3, the nearest", "MlpPolicy", 100_000, 1, _DQN_LUNAR_LANDER),
    (_MINIGRID, "qrdqn"): Peer("qrdqn.yml: LunarLander-v3, the nearest", "MlpPolicy", 100_000, 1, _QRDQN_LUNAR_LANDER),
    (_MINIGRID, "recurrent_ppo"): Peer("ppo.yml: MiniGrid, the nearest", "MlpLstmPolicy", 100_000, 8, _PPO_MINIGRID, _ALL),
    (_ATARI, "ppo"): Peer("ppo.yml: atari", "CnnPolicy", 10_000_000, 8, _PPO_ATARI),
    (_ATARI, "dqn"): Peer("dqn.yml: atari", "CnnPolicy", 10_000_000, 1, _DQN_ATARI),
    (_ATARI, "qrdqn"): Peer("qrdqn.yml: atari", "CnnPolicy", 10_000_000, 1, _QRDQN_ATARI),
    (_ATARI, "recurrent_ppo"): Peer("ppo_lstm.yml: atari", "CnnLstmPolicy", 10_000_000, 8, _PPO_ATARI),
    (_PROCGEN, "ppo"): Peer("Cobbe et al. 2020, App. C, with CnnPolicy", "CnnPolicy", 25_000_000, 64, _PPO_PROCGEN, _REWARDS),
    (_PROCGEN, "dqn"): Peer("dqn.yml: atari, the nearest", "CnnPolicy", 10_000_000, 1, _DQN_ATARI),
    (_PROCGEN, "qrdqn"): Peer("qrdqn.yml: atari, the nearest", "CnnPolicy", 10_000_000, 1, _QRDQN_ATARI),
    (_PROCGEN, "recurrent_ppo"): Peer(
        "Cobbe et al. 2020, App. C, with CnnLstmPolicy", "CnnLstmPolicy", 25_000_000, 64, _PPO_PROCGEN, _REWARDS
    ),
}
_KINDS = {"configs/minigrid.py": _MINIGRID, "configs/pong.py": _ATARI, "configs/boxing.py": _ATARI, "configs/coinrun.py": _PROCGEN}


def is_atari(config: str) -> bool:
    """Whether a config's tasks get AtariWrapper's treatment: four stacked frames and, in training, the sign of the reward."""
    return _KINDS.get(config) == _ATARI


def of(task: str, config: str, agent: str) -> Peer:
    """The settings of a peer on a task; `config` is the task's file in configs/."""
    return PEERS[_KINDS.get(config, task), agent]
