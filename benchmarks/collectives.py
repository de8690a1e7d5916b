"""What devices send each other in one update and one act, read from the compiled programs.

    python -m benchmarks.collectives --config=configs/zaxxon.py --config.num_devices=8

Prints one line of JSON: the number of collective operations in each program, and the megabytes of their results on one device. On a
machine with fewer devices, XLA_FLAGS=--xla_force_host_platform_device_count=8 simulates them.
"""

import json
import math
import re
from typing import Any

from agent57_jax import config
from agent57_jax.commands import command_line
from benchmarks import options

_CONFIG = options.config()
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
ALONE = re.compile(r"replica_groups=(?:\{\{\d+\}(?:,\{\d+\})*\}|\[\d+,1\]<=)")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


def counted(program: str) -> tuple[int, int]:
    """Collective operations in a compiled program's text, and the bytes of their results on one device.

    An operation inside a loop counts once. One among groups of a single device sends nothing and does not count.
    """
    number = size = 0
    for line in program.splitlines():
        found = re.search(rf"= (.*?) (?:{'|'.join(COLLECTIVES)})(?:-start)?\(", line)
        if found and not ALONE.search(line):
            number += 1
            for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found.group(1)):
                size += BYTES[kind] * math.prod(int(x) for x in shape.split(",") if x)
    return number, size


def lowered(run: Any) -> dict[str, Any]:
    """The update and the act of a `parts.Parts`, lowered for the arguments of a run."""
    import numpy as np

    from agent57_jax.agent.learner import acting_parameters
    from benchmarks import parts

    number = np.uint32(0)
    timestep = parts.random_timestep(run.spec, run.settings.envs_per_group)
    state, shared = run.programs.init_actor(run.programs.actor_index(0)), run.programs.init_shared()
    acting = acting_parameters(run.learner)
    return {
        "an update": run.programs.update.lower(run.learner, run.replay, run.update_metrics, run.root, number, np.int32(1)),
        "an act": run.programs.act.lower(acting, state, shared, run.replay, timestep, run.root, number, np.int32(0)),
    }


def main() -> None:
    """Compiles both programs for the settings' devices and counts."""
    settings = command_line.complete_settings(_CONFIG.value)
    command_line.prepare_jax(whole_device=False)

    import jax

    from benchmarks import parts

    found = config.device_problems(settings, settings.num_devices or len(jax.devices()))
    if found:
        command_line.fail("; ".join(found))
    run = parts.Parts(settings, with_environments=False)
    record: dict[str, float] = {}
    for name, program in lowered(run).items():
        record[f"collectives {name}"], size = counted(program.compile().as_text())
        record[f"MB {name}"] = size / 1e6
    print(json.dumps(record))


if __name__ == "__main__":
    command_line.run(main)
