"""Trains an agent.

python -m agent57_jax train --config=zaxxon[:PROFILE|:AGENT|:PROFILE,AGENT] [--workdir=runs/zaxxon] [--config.total_steps=N ...]

The same command resumes from the last checkpoint in the folder. --doctor only checks the machine.

To train with several processes, start each one with --distributed under Slurm, Open MPI or Kubernetes, or with --coordinator=HOST:PORT
--num_processes=N --process_id=I (docs/scaling.md).
"""

import sys
import traceback

from absl import flags

from agent57_jax.commands import command_line, doctor

_CONFIG = command_line.define_config()
_WORKDIR = command_line.define_path("workdir", "folder of the run; default: runs/ and the config's name")
_DOCTOR = flags.DEFINE_bool("doctor", False, "only check this machine, and with --config also the task")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "one of several processes, which the scheduler introduces to each other")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, for one of several processes")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "number of processes that train together", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "number of this process, from 0", lower_bound=0)
_STOPPED = flags.DEFINE_integer("stopped_exit_code", 0, "of a run stopped by a signal, for schedulers that restart what fails")


def is_one_of_several() -> bool:
    """Whether the flags ask for several processes; inconsistent ones end the process."""
    count, number = _NUM_PROCESSES.value, _PROCESS_ID.value
    given = [_COORDINATOR.value is not None, count is not None, number is not None]
    if any(given) and not all(given):
        command_line.fail("--coordinator, --num_processes and --process_id belong together: give all three")
    if any(given) and _DISTRIBUTED.value:
        command_line.fail("--distributed asks the scheduler; leave it out where --coordinator is given")
    if count is not None and number is not None and number >= count:
        command_line.fail(f"--process_id {number} must be below --num_processes {count}")
    return any(given) or _DISTRIBUTED.value


def main() -> None:
    """Trains, or checks the machine."""
    if _DOCTOR.value:
        command_line.prepare_jax(whole_device=True)
        settings = command_line.complete_settings(_CONFIG.value) if _CONFIG.value is not None else None
        sys.exit(doctor.run(settings, _WORKDIR.value or "runs"))
    distributed = is_one_of_several()
    settings = command_line.complete_settings(_CONFIG.value)
    workdir = _WORKDIR.value or command_line.default_workdir()
    command_line.prepare_jax(whole_device=True)

    import jax

    from agent57_jax import config, interface, parallel, types
    from agent57_jax.training import folder_lock, trainer
    from agent57_jax.training.shutdown import Shutdown

    shutdown = Shutdown()
    try:
        if distributed:
            parallel.start_processes(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        is_finished = interface.train(settings, workdir, shutdown)
    except trainer.LostProcessError as error:
        command_line.fail_at_once(str(error), code=1)
    except trainer.TrainingError as error:
        if distributed:
            parallel.end_within(parallel.LOST_SECONDS)
        command_line.fail(str(error), code=1)
    except folder_lock.FolderInUseError as error:
        # Not 2, as for wrong settings: a later start may succeed. A stop while waiting is not a failure.
        if shutdown.requested:
            command_line.fail(f"stopped by a signal: {error}", _STOPPED.value)
        command_line.fail(str(error), code=1)
    except (config.SettingsError, OSError, types.RunError) as error:
        command_line.fail(str(error))
    except jax.errors.JaxRuntimeError as error:
        if not distributed:
            raise
        command_line.fail_at_once(f"another process is gone, or this one failed by itself: {' '.join(str(error).split())[:300]}", code=1)
    except Exception:
        if not distributed:
            raise
        traceback.print_exc()
        command_line.fail_at_once("this process failed, for the reason above; the others end too", code=1)
    if distributed:
        parallel.end_within(parallel.LOST_SECONDS)
    if not is_finished:
        sys.exit(_STOPPED.value)


if __name__ == "__main__":
    command_line.run(main)
