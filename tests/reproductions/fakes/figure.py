"""A figure of four fake runs; its folders lie where FAKE_HOME says."""

import os
import pathlib
from unittest import mock

from reproductions import common, records
from reproductions.common import Figure, Profile, Run, Training

HOME = pathlib.Path(os.environ["FAKE_HOME"])
FAKES = pathlib.Path(__file__).parent


def summarise(runs: list[Run]) -> dict[str, object]:
    returns = [run.evaluation["mean"] for run in runs]
    return {"returns": returns, "expectations": {"all is well": records.expectation("1", min(returns), min(returns) == 1)}}


def draw(record: object, path: pathlib.Path) -> None:
    path.write_text("picture")


TRAININGS = tuple(Training(f"seed{seed}", "configs/random_coin.py:smoke,ngu", {"policy.beta_max": 0.5}, seed) for seed in range(4))
FIGURE = Figure("fake", {"cpu": Profile(TRAININGS, workers=2, episodes=3)}, summarise, draw)

if __name__ == "__main__":
    with (
        mock.patch.multiple(common, RUNS=HOME / "runs", RESULTS=HOME / "results", TRAIN=FAKES / "train.py", EVALUATE=FAKES / "evaluate.py"),
        mock.patch.object(records, "_device_kind", return_value="fake device"),
    ):
        common.reproduce(FIGURE)
