"""Bad input, as a person would give it: one line that says what to do, exit code 2, and nothing is started or lost."""

import pathlib
import subprocess
import time

import pytest

from tests.test_command_line import ZAXXON, run

SMOKE = f"{ZAXXON}:smoke"
COIN = "--config=configs/random_coin.py:smoke"
LANDER = "--config=configs/lunar_lander.py:smoke"
MAZE = "--config=configs/disco_maze.py:smoke"
GYMNASIUM = "--config=configs/gymnasium.py:smoke"


def expect_refusal(done: subprocess.CompletedProcess[str], message: str, problems: int = 1) -> None:
    """Exit code 2 and nothing but lines of error, one for each problem, the message among them."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == problems, done.stderr
    assert all(line.startswith("error: ") for line in lines), done.stderr
    assert any(message in line for line in lines), done.stderr


# Command lines: (arguments, part of the message).
COMMAND_LINES = [
    ([], "--config is missing"),
    (["--config="], "--config is missing"),
    (["--config=configs/zaxxo.py"], "no config file configs/zaxxo.py"),
    (["--config=configs"], "configs"),
    ([f"{ZAXXON}:big"], "no profile or agent 'big', did you mean "),
    ([f"{ZAXXON}:laptop,smoke"], "'laptop,smoke' names two of a kind; one profile (paper, laptop, smoke, box)"),
    ([f"{ZAXXON}:ngu,r2d2"], "'ngu,r2d2' names two of a kind"),
    ([f"{ZAXXON}:ngu,laptop", "--config.replay.period=200"], "replay.period 200 is larger than replay.trace 10: timesteps would be lost"),
    ([f"{ZAXXON}:r2d2", "--config.learner.cross_mixture=0.5"], "learner.cross_mixture is 0.5, but must be 0 with one policy"),
    ([f"{ZAXXON}:r2d2", "--config.policy.separate_networks=True"], "policy.separate_networks must be false without an intrinsic reward"),
    ([ZAXXON, "runs/zaxxon"], "'runs/zaxxon' is not understood"),
    ([ZAXXON, "--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
    ([ZAXXON, "config.seed=3"], "'config.seed=3' must begin with two dashes: --config.seed=3"),
    ([ZAXXON, "--config.seed"], "seed"),
]

# Overrides that the settings themselves refuse.
OVERRIDES = [
    ("replay.capcity=5", "no setting 'replay.capcity'. Did you mean replay.capacity?"),
    ("sede=1", "no setting 'sede'. Did you mean seed?"),
    ("environment=5", "environment"),
    ("seed=1e6", "invalid literal for int() with base 10: '1e6'"),
    ("seed=1.5", "1.5"),
    ("seed=-1", "seed is -1, but must lie in [0, 4294967295]"),
    ("seed=4294967296", "seed is 4294967296, but must lie in [0, 4294967295]"),
    ("seed=99999999999999999999", "seed is 99999999999999999999, but must lie in [0, 4294967295]"),
    ("environment.max_episode_steps=2147483648", "environment.max_episode_steps is 2147483648, but must be at most 2147483647"),
    ("network.conv_features=(32,64,99999999999)", "network.conv_features is [32, 64, 99999999999], but must be at most 2147483647"),
    ("total_steps=0", "total_steps is 0, but must be at least 1"),
    ("num_devices=0", "num_devices is 0, but must be at least 1"),
    ("environment.kind=atari", "value should be one of <envpool|"),
    ("environment.num_envs=0", "environment.num_envs is 0, but must be at least 1"),
    ("environment.num_groups=0", "environment.num_groups is 0, but must be at least 1"),
    ("environment.num_groups=3", "is not divisible by environment.num_groups 3"),
    ("environment.num_groups=512", "environment.num_groups is 512, more than environment.num_envs 256"),
    ("environment.num_threads=-2", "environment.num_threads is -2, but must be at least 1"),
    ("environment.max_episode_steps=0", "environment.max_episode_steps is 0, but must be at least 1"),
    ("environment.action_repeat_frames=0", "environment.action_repeat_frames is 0, but must be at least 1"),
    ("environment.noop_max=0", "environment.noop_max is 0, but must be at least 1"),
    ("environment.repeat_action_probability=1.5", "environment.repeat_action_probability is 1.5, but must lie in [0, 1]"),
    ("network.lstm_size=0", "network.lstm_size is 0, but must be at least 1"),
    ("network.conv_features=(32,64)", "must have the same length"),
    ("network.conv_strides=(4,0,1)", "network.conv_strides is (4, 0, 1), but must be at least 1 in every layer"),
    ("network.conv_kernels=large", "conv_kernels"),
    ("network.torso=transformer", "value should be one of <convolutions|dense>"),
    ("policy.num_policies=0", "policy.num_policies is 0, but must be at least 1"),
    ("policy.num_policies=300", "the replay stores at most 255"),
    ("policy.beta_max=-0.1", "policy.beta_max is -0.1, but must be at least 0"),
    ("policy.beta_max=nan", "policy.beta_max is nan"),
    ("policy.beta_max=inf", "policy.beta_max is inf"),
    ("policy.gamma_0=1.0", "all below 1"),
    ("policy.gamma_1=0.99995", "policy.gamma_0 >= gamma_1 >= gamma_2 must hold"),
    ("policy.gamma_2=-0.5", "policy.gamma_2 is -0.5, but must lie in [0, 1]"),
    ("policy.discounts=fast", "value should be one of <agent57|ngu>"),
    ("policy.separate_networks=perhaps", "perhaps"),
    ("bandit.window_episodes=0", "bandit.window_episodes is 0, but must be at least 1"),
    ("bandit.exploration=1.01", "bandit.exploration is 1.01, but must lie in [0, 1]"),
    ("bandit.group_size=3", "are not divisible by bandit.group_size 3"),
    ("actor.epsilon_base=-1", "actor.epsilon_base is -1"),
    ("actor.refresh_period=0", "actor.refresh_period is 0, but must be at least 1"),
    ("novelty.memory_capacity=0", "novelty.memory_capacity is 0, but must be at least 1"),
    ("novelty.num_neighbours=0", "novelty.num_neighbours is 0, but must be at least 1"),
    ("novelty.kernel_epsilon=0", "novelty.kernel_epsilon is 0.0, but must be positive"),
    ("novelty.max_factor=0.5", "novelty.max_factor is 0.5, but must be at least 1"),
    ("novelty.train_timesteps=200", "exceeds replay.trace 160"),
    ("replay.capacity=many", "replay.capacity is 'many', but must be a whole number of timesteps or 'auto'"),
    ("replay.capacity=5", "replay.capacity 5 cannot hold replay.min_sequences 6250"),
    ("replay.capacity=-5", "replay.capacity -5 cannot hold"),
    ("replay.trace=0", "replay.trace is 0, but must be at least 1"),
    ("replay.period=200", "replay.period 200 is larger than replay.trace 160: timesteps would be lost"),
    ("replay.burn_in=-1", "replay.burn_in is -1, but must be at least 0"),
    ("replay.samples_per_insert=0", "replay.samples_per_insert is 0.0, but must be positive"),
    ("replay.samples_per_insert=inf", "replay.samples_per_insert is inf"),
    ("replay.priority_exponent=-1", "replay.priority_exponent is -1"),
    ("replay.eta=2", "replay.eta is 2"),
    ("learner.batch_size=0", "learner.batch_size is 0, but must be at least 1"),
    ("learner.learning_rate=0", "learner.learning_rate is 0.0, but must be positive"),
    ("learner.learning_rate=nan", "learner.learning_rate"),
    ("learner.learning_rate=inf", "learner.learning_rate is inf"),
    ("learner.adam_b1=1", "learner.adam_b1 and adam_b2 must be below 1"),
    ("learner.trace_lambda=1.5", "learner.trace_lambda is 1.5, but must lie in [0, 1]"),
    ("learner.target_period_updates=0", "learner.target_period_updates is 0, but must be at least 1"),
    ("evaluation.num_envs=0", "evaluation.num_envs is 0, but must be at least 1"),
    ("evaluation.epsilon=-0.1", "evaluation.epsilon is -0.1, but must lie in [0, 1]"),
    ("checkpoint.keep=0", "checkpoint.keep is 0, but must be at least 1"),
    ("checkpoint.period_seconds=-1", "checkpoint.period_seconds is -1"),
    ("logging.period_seconds=nan", "logging.period_seconds is nan"),
    ("logging.tensorboard=2", "2"),
    ("precision.compute=float8", "value should be one of <float32|bfloat16>"),
]

# Overrides that are more than one problem at once.
PROBLEMS = {
    "environment.num_envs=0": 2,
    "environment.num_groups=512": 2,
    "bandit.window_episodes=0": 2,
    "policy.beta_max=nan": 2,
    "learner.learning_rate=nan": 2,
    "replay.trace=0": 3,
}

# What only the task or the machine can tell.
TASKS = [
    ([SMOKE, "--config.environment.task_id=Zaxon-v5"], "EnvPool has no task 'Zaxon-v5'; did you mean Zaxxon-v5"),
    ([SMOKE, "--config.environment.task_id="], "EnvPool has no task ''"),
    ([SMOKE, "--config.environment.task_id=Pendulum-v1"], "Pendulum-v1"),
    ([SMOKE, "--config.num_devices=64"], "num_devices is 64, but JAX sees only"),
    ([SMOKE, "--config.network.torso=dense"], "needs vector observations"),
    ([SMOKE, "--config.network.conv_kernels=(80,40,30)"], "network.conv_"),
    ([SMOKE, "--config.replay.capacity=1000000000000"], "timesteps fit"),
    ([LANDER, "--config.network.torso=convolutions"], "set network.torso=dense"),
    ([GYMNASIUM, "--config.environment.task_id=CartPoll-v1"], "Gymnasium has no environment 'CartPoll-v1'; did you mean CartPole-v1"),
    ([GYMNASIUM, "--config.environment.task_id=corridr:Corridor"], "corridr:Corridor needs module 'corridr'"),
    ([GYMNASIUM, "--config.environment.task_id=tests.environments.toys:Picture"], "network.torso=dense needs vector observations"),
    ([COIN, "--config.environment.grid_size=2"], "environment.grid_size is 2, but must be at least 3"),
    ([MAZE, "--config.environment.grid_size=8"], "environment.grid_size of a maze must be odd and at least 5"),
]

# Config files of somebody's own.
CONFIG_FILES = {
    "no get_config": ("x = 1\n", "get_config"),
    "not Python": ("def get_config(:\n", "SyntaxError"),
    "not text": ("\x00\x01", "null bytes"),
    "another type": ("def get_config():\n    return {}\n", "does not return agent57_jax.config.Settings"),
    "a mistake in it": ("def get_config():\n    return 1 / 0\n", "ZeroDivisionError"),
    "an unknown setting": (
        "from agent57_jax.config import Settings\ndef get_config():\n    s = Settings()\n    s.sede = 1\n    return s\n",
        "Settings has no setting 'sede'. Did you mean seed?",
    ),
    "another module missing": ("import there_is_no_such_module\n", "there_is_no_such_module"),
}


@pytest.mark.parametrize(("arguments", "message"), COMMAND_LINES, ids=[" ".join(arguments) or "none" for arguments, _ in COMMAND_LINES])
def test_command_lines(arguments: list[str], message: str, tmp_path: pathlib.Path) -> None:
    start = time.monotonic()
    expect_refusal(run("train.py", *arguments, f"--workdir={tmp_path}/run"), message)
    assert time.monotonic() - start < 5, "it waits for JAX"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("override", "message"), OVERRIDES, ids=[override for override, _ in OVERRIDES])
def test_overrides_that_cannot_work(override: str, message: str, tmp_path: pathlib.Path) -> None:
    start = time.monotonic()
    done = run("train.py", ZAXXON, f"--config.{override}", f"--workdir={tmp_path}/run")
    expect_refusal(done, message, PROBLEMS.get(override, 1))
    assert time.monotonic() - start < 5, "it waits for JAX"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("arguments", "message"), TASKS, ids=[arguments[-1] for arguments, _ in TASKS])
def test_what_only_the_task_or_the_machine_can_tell(arguments: list[str], message: str, tmp_path: pathlib.Path) -> None:
    expect_refusal(run("train.py", *arguments, f"--workdir={tmp_path}/run"), message)


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_config_files(name: str, tmp_path: pathlib.Path) -> None:
    text, message = CONFIG_FILES[name]
    path = tmp_path / "own.py"
    path.write_text(text)
    expect_refusal(run("train.py", f"--config={path}", f"--workdir={tmp_path}/run"), message)


def test_a_config_file_that_returns_nothing(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("def get_config():\n    pass\n")
    done = run("train.py", f"--config={path}", f"--workdir={tmp_path}/run")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    # The library that reads it says so first, with a line of its own log.
    assert done.stderr.splitlines()[-1] == f"error: {path} does not return agent57_jax.config.Settings"


def test_several_problems_are_a_line_each() -> None:
    done = run("train.py", ZAXXON, "--config.seed=-1", "--config.replay.eta=2", "--config.checkpoint.keep=0")
    expect_refusal(done, "replay.eta is 2", problems=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed=4294967296"], "--seed=4294967296"),
        (["--seed=99999999999999999999"], "--seed=99999999999999999999"),
        (["--seed=-1"], "--seed=-1"),
        (["--episodes=2147483648"], "--episodes=2147483648"),
    ],
    ids=str,
)
def test_numbers_of_an_evaluation(arguments: list[str], message: str, tmp_path: pathlib.Path) -> None:
    expect_refusal(run("evaluate.py", *arguments, f"--workdir={tmp_path}"), message)


def test_seeds_of_somebody_who_watches(tmp_path: pathlib.Path) -> None:
    expect_refusal(run("-m", "agent57_jax", "watch", "--seed=4294967296", f"--workdir={tmp_path}"), "--seed=4294967296")


@pytest.mark.parametrize("platforms", ["cuda", "gpu", "rocm", "gpo"])
def test_devices_that_are_not_here(platforms: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    expect_refusal(run("train.py", COIN, f"--workdir={tmp_path}/run"), f"JAX finds no device: JAX_PLATFORMS={platforms} asks for what")
    assert not (tmp_path / "run").exists()


def test_a_backslash_in_the_name_of_a_folder(tmp_path: pathlib.Path) -> None:
    expect_refusal(run("train.py", COIN, f"--workdir={tmp_path}/a\\b"), "has a backslash in its name")
    assert not list(tmp_path.iterdir())
