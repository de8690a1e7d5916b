"""The pictures in docs/images/ are there and small; TensorBoard as a browser shows it."""

import os
import pathlib
import re
import struct

import pytest

from agent57_jax.monitoring import metrics
from docs import make_images

ROOT = make_images.ROOT


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
