"""The page: its text, and how it behaves in a browser."""

import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from agent57_jax.scoreboard import board, page, runs
from docs.make_images import CHROMIUM, DRIVER, SWITCHES
from tests.scoreboard.synthetic import write_run


def write_page(folder: pathlib.Path, *folders: pathlib.Path) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    record = board.build([runs.read(run) for run in folders], [(pathlib.Path("<b>odd"), "<i>reason")], folder)
    path = folder / "scoreboard.html"
    path.write_text(page.render(record, folder), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        without = "no Chromium with its driver on this machine"
        if os.environ.get("CI", "").lower() not in ("", "0", "false"):
            pytest.fail(f"{without}, and a CI must not leave the page untested")
        pytest.skip(without)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def resize(browser: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The browser with a page of three runs of two games and one of another task, among them names that would be tags."""
    home = tmp_path_factory.mktemp("page")
    folders = [
        write_run(home / "runs" / "<img src=x onerror=alert(1)>", "Boxing-v5", 0, mean=50.0),
        write_run(home / "runs" / ("b" * 60), "Boxing-v5", 1, mean=70.0),
        write_run(home / "runs" / "c", mean=-3.0, evaluation={"frames_trained": 400_000}, total_steps=10**9),  # long notes
        write_run(home / "runs" / "d", "</script><script>alert(1)</script>", 0, mean=1.0),
    ]
    resize(browser, 1200)
    path = write_page(home / "board", *folders)
    browser.get("about:blank")
    browser.get_log("performance")  # what the browser asked for before
    browser.get(path.as_uri())
    return browser


def column(browser: Any, title: str, name: str) -> list[str]:
    script = """
    const region = document.querySelector(`[aria-label="${arguments[0]}"]`);
    const at = [...region.querySelectorAll("thead th")].findIndex((th) => th.innerText.trim().startsWith(arguments[1]));
    return [...region.querySelectorAll("tbody tr")].map((row) => row.cells[at].textContent);"""
    found: list[str] = browser.execute_script(script, title, name)
    return found


def header(browser: Any, title: str, name: str) -> Any:
    return browser.find_element("xpath", f"//*[@aria-label='{title}']//thead//button[normalize-space()='{name}']")


def test_it_opens_without_errors_and_without_the_network(opened: Any) -> None:
    assert opened.title == "Scoreboard: 4 runs"
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    requested = [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    assert requested, "the log of requests is empty, so that it shows nothing"
    assert all(url.startswith("data:") or url.endswith("/scoreboard.html") for url in requested), requested


def test_names_stay_text(opened: Any) -> None:
    assert "onerror=alert(1)" in opened.find_element("id", "scores").text  # shown, not obeyed: nothing was logged or asked
    assert opened.execute_script("return [...document.images].length") == 0
    assert "</script><script>alert(1)</script>" in column(opened, "Other tasks", "task")
    assert opened.execute_script("return document.querySelectorAll('script').length") == 2


def test_curves_and_heat_maps_are_drawn(opened: Any) -> None:
    points = "return [...document.querySelectorAll(arguments[0])].map((path) => (path.getAttribute('d').match(/[ML]/g) || []).length)"
    assert opened.execute_script(points, "figure.curves path.evaluation") == [20] * 4  # one a run, with all its lines
    assert opened.execute_script(points, "figure.curves path.training") == [20] * 4
    assert opened.execute_script("return document.querySelectorAll('figure.curves circle').length") == 4
    paths = "[...document.querySelectorAll('figure.curves path.evaluation')].map((path) => path.getBBox())"
    assert opened.execute_script(f"return {paths}.every((box) => box.x >= 0 && box.x + box.width <= 360 && box.height > 20)")
    drawn = "return [...document.querySelectorAll('details.bandit')].map((details) => details.querySelectorAll('rect.cell').length)"
    cells = opened.execute_script(drawn)
    assert min(cells[:2]) > 50 and cells[2:] == [0, 0]
    opened.find_elements("css selector", "details.bandit summary")[3].click()
    assert opened.execute_script(f"return new Promise(done => setTimeout(() => done((() => {{{drawn}}})()), 200))")[3] > 50


def test_a_click_on_a_header_sorts(opened: Any) -> None:
    before = column(opened, "Games", "game")
    assert before == ["Boxing-v5", "Pong-v5"]
    header(opened, "Games", "our HNS").click()
    assert column(opened, "Games", "our HNS") == ["499.2%", "50.1%"]
    header(opened, "Games", "our HNS").click()
    assert column(opened, "Games", "our HNS") == ["50.1%", "499.2%"]
    assert column(opened, "Games", "game") == ["Pong-v5", "Boxing-v5"]
    # What has no value stays last, in both directions.
    header(opened, "Games", "± seeds").click()
    assert column(opened, "Games", "± seeds") == ["14.1", "-"]
    header(opened, "Games", "± seeds").click()
    assert column(opened, "Games", "± seeds") == ["14.1", "-"]
    header(opened, "Games", "game").click()
    assert column(opened, "Games", "game") == before


def test_the_keyboard_sorts_too(opened: Any) -> None:
    button = header(opened, "Runs", "score")
    button.send_keys("\ue007")  # Enter
    scores = [float(text) for text in column(opened, "Runs", "score")]
    assert scores == sorted(scores, reverse=True)
    assert opened.execute_script("return arguments[0].parentElement.getAttribute('aria-sort')", button) == "descending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_400_pixels_and_both_schemes(opened: Any, scheme: str) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    resize(opened, 400)
    assert opened.execute_script("return innerWidth") == 400
    assert opened.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    text, ground = opened.execute_script("const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]")
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (text, ground)]
    assert abs(brightness[0] - brightness[1]) > 400 and (brightness[0] > brightness[1]) == (scheme == "dark")


@pytest.mark.parametrize("width", [400, 1200])
def test_text_is_large_enough_to_read(opened: Any, width: int) -> None:
    resize(opened, width)
    script = """
    return [...document.querySelectorAll("body *")].flatMap((element) => {
      const words = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
      if (!words.length || !element.checkVisibility() || element.closest("title")) return [];
      const svg = element.closest("svg");  // a picture is scaled with its text
      const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
      return [[element.tagName, parseFloat(getComputedStyle(element).fontSize) * scale]];
    });"""
    sizes = opened.execute_script(script)
    assert {"text", "TD", "FIGCAPTION", "BUTTON"} <= {name for name, _ in sizes}
    assert [(name, size) for name, size in sizes if size < 12] == []


def test_a_column_that_stays_leaves_room_for_the_others_at_400_pixels(opened: Any) -> None:
    resize(opened, 400)
    script = """
    return [...document.querySelectorAll(".scroll")].filter((region) => region.scrollWidth > region.clientWidth).map((region) => {
      region.scrollLeft = region.scrollWidth;
      const first = region.querySelector("tbody th").getBoundingClientRect(), all = region.getBoundingClientRect();
      const long = [...region.querySelectorAll("td.long")].map((cell) => cell.getBoundingClientRect().width);
      return [region.ariaLabel, first.left - all.left, region.clientWidth - first.width, Math.max(0, ...long)];
    });"""
    found = opened.execute_script(script)
    assert {"Games", "Runs"} <= {name for name, *_ in found} and any(longest for *_, longest in found)
    for name, left, room, longest in found:
        assert -1 <= left <= 2, name  # it stays
        assert room >= 200, name
        assert longest <= room, name  # sentences can be read without scrolling to and fro


def test_one_run_that_has_only_begun(browser: Any, tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a", "Pong-v5", lines=1, arms=1)
    browser.get(write_page(tmp_path / "board", folder).as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.querySelectorAll('figure.curves path.evaluation').length") == 1
    assert browser.execute_script("return document.getElementById('bandits')") is None


def test_videos_are_within_the_page_or_links(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = write_run(tmp_path / "runs" / "a", mean=1.0), write_run(tmp_path / "runs" / "b", seed=1, mean=1.0)
    for folder, size in ((small, 99), (large, 101)):
        (folder / "videos").mkdir()
        (folder / "videos" / 'e "1".mp4').write_bytes(b"x" * size)
    monkeypatch.setattr(page, "MAX_VIDEO_BYTES", 100)
    text = write_page(tmp_path / "board", small, large).read_text()
    assert text.count("<video") == 1 and text.count("data:video/mp4;base64,eHh4") == 1
    assert 'href="../runs/b/videos/e%20%221%22.mp4"' in text and "../runs/a/videos/e%20" not in text
    monkeypatch.setattr(page, "MAX_VIDEO_BYTES", 1_000)
    for room, shown in ((98, 0), (199, 1), (200, 2)):  # 99 and 101 bytes
        monkeypatch.setattr(page, "MAX_VIDEOS_BYTES", room)
        assert write_page(tmp_path / "board", small, large).read_text().count("<video") == shown


def test_a_video_that_vanishes_is_skipped(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a", mean=1.0)
    (folder / "videos").mkdir()
    for name in ("000001_steps8_return1.mp4", "000002_steps9_return1.mp4"):
        (folder / "videos" / name).write_bytes(b"x")
    found = [runs.read(folder)]
    (folder / "videos" / "000001_steps8_return1.mp4").unlink()  # between reading and computing
    record = board.build(found, [], tmp_path)
    assert len(record["runs"][0]["videos"]) == 1
    (folder / "videos" / "000002_steps9_return1.mp4").unlink()  # between computing and writing
    assert "<video" not in page.render(record, tmp_path)


def test_nothing_on_the_page_comes_from_outside(tmp_path: pathlib.Path) -> None:
    text = write_page(tmp_path / "board", write_run(tmp_path / "a", mean=1.0)).read_text()
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", text) and "@import" not in text and "url(" not in text
    assert re.findall(r"https?://[^\"' ]+", text) == ["http://www.w3.org/2000/svg"]  # a name, never fetched
    assert "&lt;b&gt;odd" in text and "<b>odd" not in text and "<i>reason" not in text
