"""The quickstart of README.md, unchanged: a fresh clone, a set-up of its own, a training run, a video, a scoreboard.

It installs the packages of requirements.lock, from where pip is set up to take them.
"""

import json
import os
import pathlib
import subprocess
import time

import pytest

from tests.document_commands import ROOT, blocks, words_in

MINUTES = 15
README = (ROOT / "README.md").read_text()
# What the tests around have set, and no newcomer has.
OURS = ("XLA_FLAGS", "VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")


def newcomers() -> list[str]:
    """The commands of README's section that begins with a clone."""
    sections = [[line for block in blocks(section) for line in block.splitlines()] for section in README.split("\n## ")]
    return next(lines for lines in sections if lines and lines[0].startswith("git clone "))


def test_the_section_has_what_a_newcomer_does() -> None:
    clone, change, *rest = newcomers()
    assert clone.startswith("git clone ADDRESS ") and change.startswith("cd ")
    assert [words[0] for command in rest for words in words_in(command)] == ["make", "python", "python"]


@pytest.mark.slow
def test_a_newcomer_gets_from_clone_to_scoreboard(tmp_path: pathlib.Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in OURS and not key.startswith(("JAX_", "PYTEST_"))}
    folder, start = tmp_path, time.monotonic()
    for command in newcomers():
        if command.startswith("cd "):
            folder /= command.removeprefix("cd ")
            continue
        left = 60 * MINUTES - (time.monotonic() - start)
        begun = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command.replace("ADDRESS", str(ROOT))],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=left,
            check=False,
        )
        print(f"{time.monotonic() - begun:6.1f} s  {command}")
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"

    run = folder / "runs/zaxxon"
    assert [path for path in (run / "checkpoints").iterdir() if (path / "meta").exists()]
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["updates"] > 0
    assert len(json.loads((run / "evaluation.json").read_text())["returns"]) == 2
    video = (folder / "zaxxon.mp4").read_bytes()
    assert video[4:8] == b"ftyp" and len(video) > 10_000
    page = (folder / "runs/scoreboard/scoreboard.html").read_text()
    assert "Zaxxon-v5" in page and "<video" in page
    board = json.loads((folder / "runs/scoreboard/scoreboard.json").read_text())
    assert [found["task"] for found in board["runs"]] == ["Zaxxon-v5"]
    status = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert status.split() == ["??", "zaxxon.mp4"]
