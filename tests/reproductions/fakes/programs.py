"""A figure of four runs, and reproductions.atari57, with fake trainings and evaluations; as a process: `programs.py figure|suite ...`."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator
from unittest import mock

from reproductions import atari57, common, records
from reproductions.common import Figure, Profile, Run, Training

FAKES = pathlib.Path(__file__).parent


def summarise(runs: list[Run]) -> dict[str, object]:
    returns = [run.evaluation["mean"] for run in runs]
    return {"returns": returns, "expectations": {"all is well": records.expectation("1", min(returns), min(returns) == 1)}}


def draw(record: object, path: pathlib.Path) -> None:
    path.write_text("picture")


TRAININGS = tuple(Training(f"seed{seed}", "configs/random_coin.py:smoke,ngu", {"policy.beta_max": 0.5}, seed) for seed in range(4))
FIGURE = Figure("fake", {"cpu": Profile(TRAININGS, workers=2, episodes=3)}, summarise, draw)


@contextlib.contextmanager
def faked(home: pathlib.Path) -> Iterator[None]:
    """Fake programs, and the figure's folders in `home`."""
    folders = {"RUNS": home / "runs", "RESULTS": home / "results"}
    with (
        mock.patch.multiple(common, **folders, TRAIN=FAKES / "train.py", EVALUATE=FAKES / "evaluate.py"),
        mock.patch.object(records, "_device_kind", return_value="fake device"),
        mock.patch.dict(os.environ, PYTHONPATH=str(common.ROOT)),
    ):
        yield


def main(name: str, home: pathlib.Path, arguments: list[str]) -> None:
    with faked(home), mock.patch.object(sys, "argv", [name, *arguments]):
        if name == "figure":
            common.reproduce(FIGURE)
        else:
            atari57.main()


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(os.environ["FAKE_HOME"]), sys.argv[2:])
