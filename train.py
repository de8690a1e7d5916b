"""Trains an agent.

python train.py --config=configs/zaxxon.py[:PROFILE|:AGENT|:PROFILE,AGENT] [--workdir=runs/zaxxon] [--config.total_steps=N ...]

The same command resumes from the last checkpoint in the folder.
"""

from absl import flags

from agent57_jax import command_line

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; default: runs/ and the config's name")


def main() -> None:
    """Wires settings, signals and trainer."""
    settings = command_line.complete_settings(_CONFIG.value)
    workdir = _WORKDIR.value or f"runs/{command_line.config_name()}"
    command_line.prepare_jax(whole_device=True)

    from agent57_jax import checkpoint, config, parallel, trainer

    shutdown = trainer.Shutdown()
    try:
        training = trainer.Trainer(settings, workdir, shutdown)
    except (config.SettingsError, OSError, parallel.DeviceError, checkpoint.CheckpointError) as error:
        command_line.fail(str(error))
    try:
        training.run()
    except (trainer.TrainingError, checkpoint.CheckpointError) as error:
        command_line.fail(str(error), code=1)


if __name__ == "__main__":
    command_line.run(main)
