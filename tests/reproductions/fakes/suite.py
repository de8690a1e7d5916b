"""reproductions.atari57 with fake trainings and evaluations."""

import pathlib
from unittest import mock

from reproductions import atari57, common

FAKES = pathlib.Path(__file__).parent

if __name__ == "__main__":
    with mock.patch.multiple(common, TRAIN=FAKES / "train.py", EVALUATE=FAKES / "evaluate.py"):
        atari57.main()
