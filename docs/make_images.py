"""Takes the pictures in docs/images/ from real runs: the panel in a terminal, TensorBoard, and the page of the scoreboard.

    python -m docs.make_images --panel=RUN --tensorboard=RUN --scoreboard RUNS...       # or some of them

The runs stay as they are: the panel is that of a copy, which trains on for a while. TensorBoard and the page are photographed in Debian's
Chromium (packages chromium and chromium-driver). `docs/images/dataflow.svg` is drawn by hand.
"""

import argparse
import contextlib
import fcntl
import io
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import rich._export_format
import rich.console
import rich.text
from PIL import Image

from agent57_jax import paths

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "images"
COLUMNS, LINES = 110, 30  # of the terminal
CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Settings of a run as a config file, for any number of steps.
CONFIG = """import json
import pathlib

from agent57_jax import config


def get_config():
    values = json.loads(pathlib.Path({path!r}).read_text())
    return config.from_dict(values | {{"total_steps": {total_steps}}})
"""
# All texts of a page, those in shadow trees among them.
TEXTS = """const found = [];
const visit = (node) => {
  if (node.shadowRoot) visit(node.shadowRoot);
  for (const child of node.childNodes) {
    if (child.nodeType === Node.TEXT_NODE && child.textContent.trim()) found.push(child.textContent.trim());
    else if (child.nodeType === Node.ELEMENT_NODE) visit(child);
  }
};
visit(document.body);
return found"""
# The widths of all pictures of a page; 0 for one that is not loaded.
PICTURES = """const found = [];
const visit = (node) => {
  if (node.shadowRoot) visit(node.shadowRoot);
  for (const child of node.children) {
    if (child.tagName === "IMG") found.push(child.naturalWidth);
    visit(child);
  }
};
visit(document.body);
return found"""


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What the condition gives as soon as it is true.

    Raises:
      TimeoutError: if it does not become true.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise TimeoutError(f"not so after {seconds:.0f} seconds: {condition}")


# The panel --------------------------------------------------------------------------------------------------------------------------


def train_on(run: pathlib.Path, seconds: float) -> str:
    """What a terminal of COLUMNS x LINES gets from a training that resumes a copy of the run; a finished run goes on to twice its steps."""
    with tempfile.TemporaryDirectory() as home:
        copy = pathlib.Path(home, "runs", run.name)
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("videos"))
        steps = json.loads((copy / "metrics.jsonl").read_text().splitlines()[-1])["steps"]
        total_steps = json.loads((copy / "config.json").read_text())["total_steps"]
        settings = CONFIG.format(path=str(copy / "config.json"), total_steps=total_steps if steps < total_steps else 2 * steps)
        pathlib.Path(home, "settings.py").write_text(settings)
        command = [sys.executable, str(ROOT / "train.py"), "--config=settings.py", f"--workdir=runs/{run.name}"]
        environment = {key: value for key, value in os.environ.items() if key not in ("CI", "COLUMNS", "LINES", "NO_COLOR")}
        environment |= {"TERM": "xterm-256color", "XDG_RUNTIME_DIR": home}  # without the latter SDL, of some environments, prints a line
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        process = subprocess.Popen(command, cwd=home, env=environment, stdin=its, stdout=its, stderr=its)
        os.close(its)
        try:
            shown = read(ours, seconds)
            process.send_signal(signal.SIGINT)  # saves and ends
            read(ours, 60.0)
        finally:
            process.kill()
            process.wait()
            os.close(ours)
    return shown


def read(terminal: int, seconds: float) -> str:
    """What comes from a terminal within some seconds, or until its program ends."""
    output, end = b"", time.monotonic() + seconds
    with contextlib.suppress(OSError):  # how it says that nobody is there
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                output += os.read(terminal, 65536)
    return output.decode(errors="ignore")


def screen(output: str) -> str:
    """What is seen in the end of a terminal's output: the lines that were printed, and the last whole panel; colours stay."""
    output = re.sub(r"\x1b\[[0-9;?]*[A-HJKhl]|\r", "", output)
    start, end = r"(?:\x1b\[[0-9;]*m)*╭", r"╯(?:\x1b\[0m)?"
    panels = re.findall(rf"(?s){start}.*?{end}", output)
    if not panels:
        raise ValueError(f"no panel was drawn:\n{output[-2000:]}")
    printed = re.sub(rf"(?s){start}.*?(?:{end}\n?|\Z)", "", output)
    lines = [*printed.splitlines(), *panels[-1].splitlines()]
    return "\n".join(lines[-LINES:])


def draw(text: str, title: str) -> str:
    """A terminal's text as SVG. It names no font of the network, as rich's own would."""
    console = rich.console.Console(record=True, file=io.StringIO(), width=COLUMNS, force_terminal=True, highlight=False)
    for line in text.splitlines():
        console.print(rich.text.Text.from_ansi(line), soft_wrap=True)
    form = re.sub(r"(?s)@font-face \{\{.*?\}\}\s*", "", rich._export_format.CONSOLE_SVG_FORMAT)
    drawn = console.export_svg(title=title, code_format=form, unique_id="panel")
    return "\n".join(line.rstrip() for line in drawn.splitlines() if line.strip()) + "\n"


# The browser ------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window, with the logs of what it says and asks for."""
    from selenium import webdriver

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or "chromium"
        for switch in (*SWITCHES, f"--user-data-dir={profile}"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        try:
            yield driver
        finally:
            driver.quit()


def resize(driver: Any, width: int, height: int) -> None:
    """Gives the page a window of this many pixels."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def photograph(driver: Any, path: pathlib.Path) -> None:
    """Saves what the window shows, in 256 colours."""
    driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    time.sleep(2.0)  # what moves comes to rest
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


@contextlib.contextmanager
def tensorboard(runs: pathlib.Path) -> Iterator[str]:
    """The address of a TensorBoard that shows a folder."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={runs.name}", "--port=0", "--load_fast=false"]
    with tempfile.TemporaryFile("a+") as said:
        process = subprocess.Popen(command, cwd=runs.parent, stdout=subprocess.DEVNULL, stderr=said)

        def address() -> str | None:
            said.seek(0)  # of the process as well, but it appends
            text = said.read()
            if process.poll() is not None:
                raise RuntimeError(f"TensorBoard ended: {text}")
            found = re.search(r"at (http://\S+)", text)
            return found and found.group(1)

        try:
            yield wait_for(address)
        finally:
            process.terminate()
            process.wait(timeout=30)


def texts(driver: Any) -> list[str]:
    """All texts of a page, those that no search of the document finds among them."""
    found: list[str] = driver.execute_script(TEXTS)
    return found


def open_prepared_page(driver: Any, address: str) -> None:
    """Opens TensorBoard's Custom Scalars and waits until a chart has found its curves."""
    driver.get(f"{address}#custom_scalars")
    wait_for(lambda: [text for text in texts(driver) if re.fullmatch(r"Matches \([1-9]\d*\)", text)])


def open_pictures(driver: Any, address: str) -> None:
    """Opens TensorBoard's Images and waits until those in view are loaded."""
    driver.get("about:blank")  # else only the part behind the # would change, and what is loaded might be the former page's
    driver.get(f"{address}#images")
    wait_for(lambda: (widths := driver.execute_script(PICTURES)) and all(widths))


def photograph_tensorboard(run: pathlib.Path) -> None:
    """docs/images/tensorboard_*.png."""
    with tempfile.TemporaryDirectory() as home, browser() as driver:
        (pathlib.Path(home) / "runs" / run.name).mkdir(parents=True)
        (pathlib.Path(home) / "runs" / run.name / "tensorboard").symlink_to((run / "tensorboard").resolve())
        with tensorboard(pathlib.Path(home, "runs")) as address:
            resize(driver, 1200, 1110)
            open_prepared_page(driver, address)
            photograph(driver, FOLDER / "tensorboard_scalars.png")
            resize(driver, 1200, 860)
            open_pictures(driver, address)
            photograph(driver, FOLDER / "tensorboard_images.png")


def photograph_scoreboard(runs: Sequence[pathlib.Path]) -> None:
    """docs/images/scoreboard*.png."""
    with tempfile.TemporaryDirectory() as home, browser() as driver:
        pathlib.Path(home, "runs").mkdir()
        for run in runs:
            pathlib.Path(home, "runs", run.name).symlink_to(run.resolve())
        command = [sys.executable, "-m", "agent57_jax.scoreboard", *(f"runs/{run.name}" for run in runs)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=home, env=environment, stdout=subprocess.DEVNULL, check=True)
        driver.get(pathlib.Path(home, "runs/scoreboard/scoreboard.html").as_uri())
        resize(driver, 400, 900)
        photograph(driver, FOLDER / "scoreboard_narrow.png")
        resize(driver, 1200, 900)
        photograph(driver, FOLDER / "scoreboard.png")
        driver.execute_script("document.getElementById('learning-curves').scrollIntoView()")
        photograph(driver, FOLDER / "scoreboard_curves.png")


def main() -> None:
    """Takes the pictures that are asked for."""
    parser = argparse.ArgumentParser(description="Take the pictures in docs/images/ from real runs.")
    parser.add_argument("--panel", type=paths.path, metavar="RUN", help="a run of which a copy trains on in a terminal")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long it trains on (120)")
    parser.add_argument("--tensorboard", type=paths.path, metavar="RUN", help="the run that TensorBoard shows")
    parser.add_argument("--scoreboard", type=paths.path, metavar="RUNS", nargs="+", help="the runs on the scoreboard")
    arguments = parser.parse_args()
    if arguments.panel:
        (FOLDER / "panel.svg").write_text(draw(screen(train_on(arguments.panel, arguments.seconds)), "train.py"))
    if arguments.tensorboard:
        photograph_tensorboard(arguments.tensorboard)
    if arguments.scoreboard:
        photograph_scoreboard(arguments.scoreboard)


if __name__ == "__main__":
    main()
