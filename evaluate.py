"""Plays greedy episodes with a run's last checkpoint and writes RUN/evaluation.json.

python evaluate.py --workdir=RUN [--episodes=N] [--seed=S]
"""

from absl import flags

from agent57_jax import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_EPISODES = flags.DEFINE_integer("episodes", 100, "greedy episodes to play", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the environments and of the few random actions", lower_bound=0)


def main() -> None:
    """Wires a run's folder to the evaluator."""
    if not _WORKDIR.value:
        command_line.fail("--workdir is missing: the folder of a run, for example --workdir=runs/zaxxon")
    command_line.prepare_jax(whole_device=False)

    from agent57_jax import checkpoint, config, judging, types

    try:
        result = judging.evaluate(_WORKDIR.value, _EPISODES.value, _SEED.value)
    except (config.SettingsError, OSError, checkpoint.CheckpointError) as error:
        command_line.fail(str(error))
    except types.HostEnvironmentError as error:
        command_line.fail(str(error), code=1)
    score = "" if result["hns"] is None else f", human-normalised {result['hns']:.3f}"
    print(f"{result['game']}: mean return {result['mean']:.2f} over {len(result['returns'])} greedy episodes{score} ({result['path']})")


if __name__ == "__main__":
    command_line.run(main)
