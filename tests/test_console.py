"""The panel on a terminal, the lines elsewhere, and that neither falls over a narrow or a dumb terminal."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from rich.console import Console as Terminal

from agent57_jax.monitoring.console import PLAIN_WIDTH, Console, duration, short

ROOT = Path(__file__).parent.parent
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"

VALUES = {
    "throughput/frames_per_second": 12_345.6,
    "throughput/updates_per_second": 3.21,
    "throughput/steps_per_second": 3_086.4,
    "throughput/share_environment": 0.12,
    "throughput/share_acting": 0.31,
    "throughput/share_learning": 0.33,
    "throughput/share_evaluation": 0.09,
    "throughput/share_saving": 0.001,
    "throughput/share_host": 0.15,
    "episode/return": 1_234.5,
    "episode/length": 890.0,
    "episode/hns": 0.13,
    "evaluation/return": 4_321.0,
    "evaluation/hns": 0.47,
    "evaluation/episodes": 15.0,
    "evaluation/arm": 0.0,
    "loss/extrinsic": 0.0123,
    "loss/intrinsic": 0.5,
    "loss/embedding": 2.89,
    "loss/distillation": 1e-5,
    "novelty/alpha": 1.02,
    "replay/fill": 0.255,
    "replay/timesteps": 1_275_000.0,
    "replay/sequences": 15_900.0,
    "replay/age": 640.0,
    "memory/device_bytes": 3.0 * 2**30,
    "memory/device_limit_bytes": 80.0 * 2**30,
    "memory/host_bytes": 1.5 * 2**30,
    "arm/pulls_0": 1.0,
    "arm/pulls_7": 3.0,
    "arm/return_7": 55.0,
}


def counters(steps, seconds):
    return {"frames": 4 * steps, "steps": steps, "updates": steps // 8, "episodes": steps // 100, "seconds": seconds}


def make(width=120, height=40, **options):
    file = io.StringIO()
    terminal = Terminal(file=file, width=width, height=height, highlight=False, **options)
    return Console(1_000_000, "Zaxxon [v5]", ["8 devices [data]"], terminal=terminal, device="NVIDIA H100 x 8"), file


LIVE = {"force_terminal": True, "force_interactive": True, "_environ": {"TERM": "xterm-256color"}}


def live(width=120, height=40, **options):
    return make(width, height, **LIVE, **options)


def assert_all_in(parts, text):
    assert not [part for part in parts if part not in text], text


def last_panel(file):
    """The lines of the last panel, from border to border."""
    lines = visible(file.getvalue()).replace("\r", "").replace("╯╭", "╯\n╭").splitlines()
    start = max(i for i, line in enumerate(lines) if line.startswith("╭"))
    return lines[start : next(i for i in range(start, len(lines)) if lines[i].startswith("╰")) + 1]


def visible(text):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_log_file_gets_one_line_an_update():
    console, file = make()
    console.say("restored [bold]checkpoint[/bold] 12")
    console.update(counters(250_000, 100.0), VALUES)
    console.update(counters(260_000, 110.0), {})
    console.close()
    lines = file.getvalue().splitlines()
    assert lines[:2] == ["Zaxxon [v5]", "8 devices [data]"]
    assert re.fullmatch(r"\d\d:\d\d:\d\d restored \[bold\]checkpoint\[/bold\] 12", lines[2])
    assert len(lines) == 5
    said = ("25.0% 4m03s left  steps 250.0k", "updates 31.2k", "12.3k/s frames", "return 1234.5", "evaluation 4321", "loss 0.0123")
    assert_all_in(said, lines[3])
    assert "steps 260.0k" in lines[4]
    assert "12m20s left" in lines[4]  # 740,000 steps at the 1,000 a second that were measured
    assert "\x1b" not in file.getvalue()
    assert max(map(len, lines)) <= PLAIN_WIDTH


def test_plain_line_never_exceeds_its_width():
    console, file = make(width=20)
    wide = dict.fromkeys(VALUES, -1.23456789e-300)
    console.update(counters(10**15, 1e9), wide)
    console.close()
    last = file.getvalue().splitlines()[-1]
    assert 100 < len(last) <= PLAIN_WIDTH


@pytest.mark.parametrize("width", [120, 80, 40, 12, 3, 1])
def test_panel_survives_any_width(width):
    console, file = live(width)
    console.update(counters(0, 0.0), {})
    console.update(counters(250_000, 100.0), VALUES)
    console.say("a line that is longer than a narrow terminal", warning=True)
    console.update(counters(2_000_000, 110.0), {"loss/extrinsic": float("nan"), "episode/return": float("inf")})
    console.close()
    assert file.getvalue().count(HIDE_CURSOR) == 1
    assert file.getvalue().count(SHOW_CURSOR) == 1


def test_panel_shows_what_matters_without_threads():
    before = threading.active_count()
    console, file = live()
    console.update(counters(250_000, 100.0), VALUES)
    said = ("Zaxxon [v5]", "25.0%", "4m03s left", "12.3k frames/s", "3.21 updates/s", "return 1234.5", "return 4321", "hns 0.47")
    assert_all_in((*said, "7: 75% (55)  0: 25% (-)", "extrinsic 0.0123", "alpha 1.02", "25.5% full"), visible(file.getvalue()))
    said = ("NVIDIA H100 x 8  3.0 of 80.0 GiB  host 1.5 GiB", "learning 33%  acting 31%  host 15%  environments 12%  evaluation 9%")
    assert_all_in(said, visible(file.getvalue()))
    console.say("the replay is small", warning=True)
    file.truncate(0)
    console.update(counters(250_100, 101.0), {"arm/pulls_0": 16.0})
    assert threading.active_count() == before
    # Values stay until newer ones come.
    assert_all_in(("warning: the replay is small", "return 4321", "0: 85% (-)  7: 15% (55)"), visible(file.getvalue()))
    console.close()
    console.close()


WARNING = "environment.num_threads is 64, more than the 2 CPUs that this process may use: emulators will mostly wait"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 24), (40, 12), (24, 24), (200, 10)])
def test_panel_fits_its_terminal_with_every_part_whole(width, height):
    console, file = live(width, height)
    console.say(WARNING, warning=True)
    console.update(counters(250_000, 100.0), VALUES)
    panel = last_panel(file)
    console.close()
    assert len(panel) < height
    assert {len(line) for line in panel} == {width}
    inside = "\n".join(line[2:-2] for line in panel[2:-1])
    assert "…" not in inside or width < 40
    if width >= 40:
        assert_all_in(("12.3k frames/s", "return 1234.5", "return 4321", "hns 0.47"), inside)
    if height == 24 and width >= 40:
        assert_all_in(("NVIDIA H100 x 8", "3.0 of 80.0 GiB", "learning 33%", "7: 75% (55)", "25.5% full", "warning:"), inside)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_panel_needs_no_character_that_the_terminal_lacks(encoding):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    terminal = Terminal(file=file, width=30, height=40, highlight=False, **LIVE)
    console = Console(1_000_000, "runs/a_name_that_is_longer_than_the_terminal", terminal=terminal, device="NVIDIA H100 80GB HBM3 x 8")
    console.say(WARNING, warning=True)
    console.update(counters(250_000, 100.0), VALUES)
    console.close()
    assert not terminal.quiet
    shown = visible(file.buffer.getvalue().decode(encoding))
    assert "return 4321" in shown and "NVIDIA H100 80" in shown


def test_an_instant_says_nothing_of_speed():
    console, file = make()
    console.update(counters(250_000, 100.0), VALUES)
    console.update(counters(250_000, 100.01), {"throughput/frames_per_second": 0.0, "episode/return": 7.0})
    console.update(counters(250_000, 103.0), {"throughput/frames_per_second": 0.0})
    console.close()
    lines = file.getvalue().splitlines()
    assert "12.3k/s frames" in lines[-2] and "return 7 " in lines[-2]
    assert " 0/s frames" in lines[-1]


def test_arms_of_long_ago_fade():
    console, file = live()
    console.update(counters(10, 1.0), {"arm/pulls_3": 100.0, "arm/pulls_5": 0.0})
    for step in range(11, 60):
        console.update(counters(step, step / 10), {"arm/pulls_3": 0.0, "arm/pulls_5": 1.0})
    assert re.search(r"arms +5: 9\d% \(-\)  3: \d%", "\n".join(last_panel(file)))
    console.close()


# What a run does; its output may go away after the first line.
SCRIPT = """
import sys
from agent57_jax.monitoring.console import Console
console = Console(100, "title", ["header"])
sys.stdin.readline()
for step in range(3):
    console.update({"frames": 4, "steps": 50 + step, "updates": 1, "episodes": 1, "seconds": 1.0 + step}, {"episode/return": 3.0})
    console.say("a line")
    print("from elsewhere", flush=True)
console.close()
print("went on", file=sys.stderr)
"""


@pytest.mark.parametrize("output", ["pipe", "full disk", "terminal"])
def test_a_run_outlives_its_output(output):
    reader, writer = pty.openpty() if output == "terminal" else os.pipe()
    if output == "full disk":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    command = [sys.executable, "-c", SCRIPT]
    environment = {**os.environ, "TERM": "xterm", "CI": "false", "PYTHONUNBUFFERED": ""}  # the buffer's rest comes at the end
    streams = {"stdin": subprocess.PIPE, "stdout": writer, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=ROOT, **streams) as process:
        os.close(writer)
        if output != "full disk":
            assert b"title" in os.read(reader, 100)
        os.close(reader)
        errors = process.communicate("go\n", timeout=60)[1]
    assert process.returncode == 0 and errors.splitlines()[-1] == "went on", errors
    assert errors.count("the run continues") == 1 and "Traceback" not in errors and "Exception ignored" not in errors, errors


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), SystemExit(1)])  # the second one is rich's, for a broken pipe
def test_a_terminal_may_be_gone_before_the_panel_begins(error, monkeypatch, capsys):
    def fail(terminal, show):
        raise error

    monkeypatch.setattr(Terminal, "show_cursor", fail)  # the first that the panel writes
    console, _ = live()
    console.say("a line")
    console.close()
    assert capsys.readouterr().err.count("the run continues") == 1


def test_warnings_of_others_stay_in_the_panel():
    root, show = logging.getLogger(), warnings.showwarning
    mine = logging.StreamHandler(sys.stderr)
    root.addHandler(mine)
    console, file = live()
    logging.getLogger("a.library").warning("it is %s", "slow")
    logging.getLogger("a.library").info("nobody asked")
    for _ in range(1000):
        logging.getLogger("a.library").warning("it is %s", "slow")
    warnings.showwarning(UserWarning("donated\nbuffers"), UserWarning, "/a/folder/module.py", 12)
    try:
        raise RuntimeError("the cause")
    except RuntimeError:
        logging.getLogger("writer").exception("not saved")
    console.update(counters(10, 1.0), VALUES)
    panel = "\n".join(last_panel(file))
    shown = visible(file.getvalue())
    console.close()
    for text in ("warning: a.library: it is slow", "warning: module.py:12: UserWarning: donated buffers", "warning: writer: not saved"):
        assert text in panel and shown.count(text) == 2, text  # above the panel, and in it
    assert "nobody asked" not in shown and "RuntimeError: the cause" in shown
    assert warnings.showwarning is show and mine in root.handlers and len(root.handlers) == len(set(root.handlers))
    root.removeHandler(mine)
    before = file.getvalue()
    logging.getLogger("a.library").warning("after the end")
    assert file.getvalue() == before


def run_in_terminal(term, ci="false"):
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": term, "CI": ci, "COLUMNS": "60", "LINES": "30"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.DEVNULL, stdout=follower, env=environment, cwd=ROOT)
    os.close(follower)
    output = b""
    try:
        while part := os.read(leader, 65_536):
            output += part
    except OSError:  # Linux says so when the other side is closed
        pass
    os.close(leader)
    assert process.wait() == 0
    return output.decode()


def test_a_real_terminal_gets_a_panel_and_its_cursor_back_and_all_else_gets_lines():
    output = run_in_terminal("xterm-256color")
    assert output.count(HIDE_CURSOR) == output.count(SHOW_CURSOR) == 1
    assert_all_in(("╭─ title", "from elsewhere"), visible(output))
    environment = {**os.environ, "FORCE_COLOR": "1", "TTY_INTERACTIVE": "1"}
    command = [sys.executable, "-c", SCRIPT]
    piped = subprocess.check_output(command, stdin=subprocess.DEVNULL, text=True, env=environment, cwd=ROOT)
    for output in (run_in_terminal("dumb"), run_in_terminal("xterm-256color", ci="true"), piped):
        assert "\x1b" not in output and "50.0% ? left  steps 50" in output


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        *((short, None, "-"), (short, 0, "0"), (short, 9_999, "9999"), (short, 12_345, "12.3k"), (short, 90e9, "90.0G")),
        *((short, -12_345.0, "-12.3k"), (short, 0.0123, "0.0123"), (short, 123.456, "123.5"), (short, float("nan"), "nan")),
        *((duration, -3, "0s"), (duration, 45.2, "45s"), (duration, 200, "3m20s"), (duration, 18_120, "5h02m")),
        *((duration, 1_051_200, "12d04h"), (duration, float("inf"), "?")),
    ],
)
def test_numbers_are_short(function, value, text):
    assert function(value) == text
