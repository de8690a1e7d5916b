"""Stands in for train.py: the same flags, files and signals, and no training.

FAKE_FAIL names a seed or a game whose run fails; FAKE_SLOW makes a run last until a signal comes.
"""

import json
import os
import pathlib
import signal
import time

from absl import flags

from agent57_jax import config
from agent57_jax.commands import command_line

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")


def main() -> None:
    settings = command_line.complete_settings(_CONFIG.value)
    folder = pathlib.Path(_WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopped.append(number))
    (folder / "config.json").write_text(config.to_json(settings))
    with (folder / "starts.txt").open("a") as file:
        file.write(f"{sorted(os.sched_getaffinity(0))}\n")
    print("GPU", os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("XLA_CLIENT_MEM_FRACTION"), flush=True)
    if os.environ.get("FAKE_FAIL") in (str(settings.seed), settings.environment.task_id):
        print("the loss was not finite")
        raise SystemExit(1)

    while os.environ.get("FAKE_SLOW") and not stopped:
        print("training", flush=True)
        time.sleep(0.05)
    steps = 0
    with (folder / "metrics.jsonl").open("a") as file:
        for part in (1,) if stopped else (1, 2):
            steps = settings.total_steps * part // 2
            counters = {"frames": 4 * steps, "steps": steps, "updates": steps // 10, "episodes": part, "seconds": 3.0 * part}
            file.write(json.dumps(counters | {"evaluation/return": 0.5 * part}) + "\n")
    saved = len(list((folder / "checkpoints").glob("*")))
    meta = folder / "checkpoints" / str(saved + 1) / "meta" / "metadata"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"format": 2, "content": {"counters": {"steps": steps}}}))


if __name__ == "__main__":
    command_line.run(main)
