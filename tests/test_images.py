"""The pictures in docs/images/: how they are taken, and that they are there; TensorBoard as a browser shows it."""

import io
import os
import pathlib
import re
import struct

import pytest
from rich.console import Console as Terminal

from agent57_jax.monitoring import metrics
from agent57_jax.monitoring.console import Console
from docs import make_images

ROOT = make_images.ROOT
PANEL = "\x1b[34m╭─\x1b[0m runs/a ─╮\n│ {} │\n╰──────────╯"
BACK = "\r\x1b[2K" + 2 * "\x1b[1A\x1b[2K"  # what rich sends before it draws anew


def test_a_screen_has_what_was_printed_and_the_last_whole_panel() -> None:
    output = f"first\n\x1b[?25l{PANEL.format(1)}{BACK}12:00:00 saved\n{PANEL.format(2)}{BACK}{PANEL.format(3)}{BACK}{PANEL.format(4)[:30]}"
    assert make_images.screen(output.replace("\n", "\r\n")).splitlines() == ["first", "12:00:00 saved", *PANEL.format(3).splitlines()]
    with pytest.raises(ValueError, match="no panel was drawn"):
        make_images.screen("Traceback")


def test_the_projects_own_panel_is_found() -> None:
    written = io.StringIO()
    terminal = Terminal(file=written, force_terminal=True, width=make_images.COLUMNS, height=make_images.LINES, highlight=False)
    console = Console(100, "runs/a", ["a header"], terminal)
    for steps in (10, 20):
        counters = {"frames": 4 * steps, "steps": steps, "updates": 1, "episodes": 2, "seconds": 1.0 * steps}
        console.update(counters, {"episode/return": 3.0})
        console.say(f"at {steps}")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", make_images.screen(written.getvalue()))
    console.close()
    lines = shown.splitlines()
    assert lines[:2] == ["runs/a", "a header"] and [line[9:] for line in lines[2:4]] == ["at 10", "at 20"]
    assert lines[4].startswith("╭─ runs/a") and lines[-1].startswith("╰") and "20.0%" in lines[5] and shown.count("╭") == 1


def test_a_drawn_terminal_needs_no_network() -> None:
    drawn = make_images.draw("\x1b[33mwarning\x1b[0m [brackets]\nline 2", "python train.py")
    assert "warning" in drawn and "[brackets]" in drawn and "line&#160;2" in drawn
    assert "url(#" in drawn and "url(http" not in drawn and "@font-face" not in drawn


def test_pictures_of_the_documents_are_there_and_small() -> None:
    pictures = [path for path in make_images.FOLDER.iterdir() if path.suffix in (".png", ".svg")]
    text = "".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    assert {path.name for path in pictures} == set(re.findall(r"\]\((?:docs/)?images/([\w.]+)\)", text))
    assert sum(path.stat().st_size for path in pictures) < 500_000
    for path in pictures:
        if path.suffix == ".png":
            data = path.read_bytes()
            width, height = struct.unpack(">II", data[16:24])
            assert 300 <= width <= 1200 and 300 <= height <= 1300 and data[25] == 3, path  # colours from a palette
    assert "url(http" not in (make_images.FOLDER / "panel.svg").read_text()


@pytest.mark.slow
def test_tensorboard_shows_the_prepared_page_and_the_heat_maps(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("selenium.webdriver")
    if make_images.CHROMIUM is None or make_images.DRIVER is None:
        without = "no Chromium with its driver on this machine"
        if os.environ.get("CI", "").lower() not in ("", "0", "false"):
            pytest.fail(f"{without}, and a CI must not leave TensorBoard's page untested")
        pytest.skip(without)
    writer = metrics.MetricsWriter(tmp_path / "runs" / "a", None, tensorboard=True)
    for steps in range(100, 600, 100):
        counters = {"frames": 4 * steps, "steps": steps, "updates": steps, "episodes": steps, "seconds": 1.0 * steps}
        writer.write(counters, {"episode/return": 1.0 * steps, "arm/pulls_0": 2.0, "arm/return_0": 1.0, "arm/pulls_1": 1.0})
    writer.close()
    with make_images.browser() as driver, make_images.tensorboard(tmp_path / "runs") as address:
        make_images.resize(driver, 1200, 900)
        make_images.open_prepared_page(driver, address)
        texts = make_images.texts(driver)
        at = [texts.index(category) for category in metrics.layout()]
        assert at == sorted(at)  # the categories, in the order of the declarations
        assert "Matches (1)" in texts[texts.index("return") : texts.index("episode length")]
        make_images.open_pictures(driver, address)
        texts = make_images.texts(driver)
        assert {"heat_map/arm_share", "heat_map/arm_return"} <= set(texts)
        assert len(driver.execute_script(make_images.PICTURES)) == 2
        said = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert not said
