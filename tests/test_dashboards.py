"""TensorBoard's prepared page, histograms and pictures as they lie in the events; Weights & Biases without a network."""

import io
import math
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.layout_pb2 import Layout

from agent57_jax.agent.replay import PRIORITY_EDGES
from agent57_jax.config import SettingsError
from agent57_jax.monitoring import metrics
from agent57_jax.monitoring.dashboards import Histogram
from agent57_jax.monitoring.metrics import MetricsWriter
from agent57_jax.training import reporting

ROOT = pathlib.Path(__file__).resolve().parent.parent


def counters(steps: int) -> dict[str, int | float]:
    return {"frames": 4 * steps, "steps": steps, "updates": 1, "episodes": 2, "seconds": 0.5}


def events(folder: pathlib.Path) -> list[Any]:
    """All events, in the order of the files."""
    found = []
    for file in sorted((folder / "tensorboard").iterdir(), key=lambda path: int(path.suffix[1:])):
        data = file.read_bytes()
        while data:  # a record: length (8 bytes), its checksum (4), the event, its checksum (4)
            length = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def summaries(folder: pathlib.Path) -> list[tuple[int, Any]]:
    """(step, value) of all events that show something."""
    return [(event.step, value) for event in events(folder) for value in event.summary.value]


def test_tensorboard_gets_scalars_by_steps_and_purges_on_resume(tmp_path: pathlib.Path) -> None:
    writer = MetricsWriter(tmp_path, None, tensorboard=True)
    writer.write(counters(100), {"loss/extrinsic": 0.5, "loss/intrinsic": math.nan, "action/ratio_move left": 0.25})
    writer.close()
    progress = {"frames": 400.0, "updates": 1.0, "episodes": 2.0, "seconds": 0.5}
    shown = {"loss/extrinsic": 0.5, "action/ratio_move_left": 0.25, **{f"progress/{key}": value for key, value in progress.items()}}
    found = {(step, value.tag, value.simple_value) for step, value in summaries(tmp_path)}
    assert found == {(0, "custom_scalars__config__", 0.0), *((100, tag, value) for tag, value in shown.items())}
    writer = MetricsWriter(tmp_path, 100, tensorboard=True)
    writer.write(counters(110), {"loss/extrinsic": 55.0})
    writer.close()
    # TensorBoard hides events of this step and beyond that come before the start.
    assert 101 in [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    found = {(step, value.tag, value.simple_value) for step, value in summaries(tmp_path)}
    assert {(100, "loss/extrinsic", 0.5), (110, "loss/extrinsic", 55.0)} <= found


def test_every_start_lays_out_the_page(tmp_path: pathlib.Path) -> None:
    MetricsWriter(tmp_path, None, tensorboard=True).close()
    MetricsWriter(tmp_path, 0, tensorboard=True).close()
    found = [value for _, value in summaries(tmp_path) if value.tag == "custom_scalars__config__"]
    assert len(found) == 2  # one would do, but the first start may have ended before it was written
    assert found[0].metadata.plugin_data.plugin_name == "custom_scalars"
    page = Layout.FromString(found[0].tensor.string_val[0])
    charts = {category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart} for category in page.category}
    assert charts == metrics.layout()
    assert list(charts) == ["score", "arms", "actions", "values", "novelty", "replay", "throughput"]
    assert all(charts.values())


def test_a_relative_folder_is_never_a_store_of_tensorboardx(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    MetricsWriter("s3:run", None, tensorboard=True).close()
    assert summaries(tmp_path / "s3:run")


def test_a_chart_holds_its_metrics_and_no_others() -> None:
    tags = ["loss/extrinsic", "loss/extrinsic_other", "arm/return_0", "arm/return_31", "arm/return_0_x", "action/ratio_move_left"]
    charts = {f"{category}/{chart}": patterns for category, found in metrics.layout().items() for chart, patterns in found.items()}

    def shown(chart: str) -> list[str]:
        # As the plugin looks for them.
        return [tag for tag in tags if any(re.compile(pattern).match(tag) for pattern in charts[chart])]

    assert shown("values/losses") == ["loss/extrinsic"]
    assert shown("arms/return per arm") == ["arm/return_0", "arm/return_31"]
    assert shown("actions/share of each action in an episode") == ["action/ratio_move_left"]


def test_a_histogram_keeps_counts_and_edges(tmp_path: pathlib.Path) -> None:
    writer = MetricsWriter(tmp_path, None, tensorboard=True)
    edges = np.array([0.0, 1.0, 10.0, 100.0, 1000.0])
    some, none = Histogram(edges, np.array([0.0, 3.0, 0.0, 2.0])), Histogram(edges, np.zeros(4))
    writer.write(counters(10), {}, {"replay/priorities": some, "replay/none": none})
    writer.close()
    ((step, value),) = [(step, value) for step, value in summaries(tmp_path) if value.HasField("histo")]
    assert (step, value.tag) == (10, "replay/priorities")
    assert list(value.histo.bucket_limit) == [1.0, 10.0, 100.0, 1000.0]
    assert list(value.histo.bucket) == [0.0, 3.0, 0.0, 2.0]
    assert (value.histo.num, value.histo.min, value.histo.max) == (5, 1, 1000)


def test_the_replays_counts_get_edges_around_them() -> None:
    counts = np.arange(len(PRIORITY_EDGES) + 1, dtype=np.float32)
    made = reporting.histograms(counts)["replay/priorities"]
    assert len(made.edges) == len(made.counts) + 1
    np.testing.assert_allclose(np.diff(np.log(made.edges)), np.log(10) / 6, rtol=1e-4)
    np.testing.assert_array_equal(made.edges[1:-1], PRIORITY_EDGES)


def pictures(folder: pathlib.Path) -> list[tuple[int, str]]:
    return [(step, value.tag) for step, value in summaries(folder) if value.HasField("image")]


def test_pictures_of_the_arms_come_with_every_tenth_more_at_the_end_and_after_a_resume(tmp_path: pathlib.Path) -> None:
    writer = MetricsWriter(tmp_path, None, tensorboard=True)
    writer.write(counters(1), {"loss/extrinsic": 1.0})
    for step in range(2, 41):
        writer.write(counters(step), {"arm/pulls_0": 1.0, "arm/return_0": 2.0, "arm/pulls_1": 3.0, "arm/return_1": 5.0})
    writer.close()
    drawn = [step for step, tag in pictures(tmp_path) if tag == "heat_map/arm_share"]
    assert drawn == [*range(2, 12), 13, 15, 17, 19, 21, 24, 27, 30, 33, 37, 40]
    writer = MetricsWriter(tmp_path, 30, tensorboard=True)
    writer.close()
    assert pictures(tmp_path)[-2:] == [(30, "heat_map/arm_share"), (30, "heat_map/arm_return")]
    images = [value.image for step, value in summaries(tmp_path) if value.HasField("image") and step == 30]
    assert len(images) == 4
    # The same lines, read again, make the same picture.
    assert images[0].encoded_image_string == images[2].encoded_image_string
    image = Image.open(io.BytesIO(images[2].encoded_image_string))
    assert image.size == (images[2].width, images[2].height)


WANDB = """
import sys
import numpy as np
from agent57_jax.monitoring.dashboards import Histogram
from agent57_jax.monitoring.metrics import MetricsWriter
for resume, steps in ((None, (10, 20)), (10, (15, 30))):
    writer = MetricsWriter(sys.argv[1], resume, False, "a_project", {"replay.trace": 160})
    for step in steps:
        values = {"loss/extrinsic": 0.5, "arm/pulls_0": 1.0, "arm/return_0": 2.0}
        counters = {"frames": step, "steps": step, "updates": 1, "episodes": 2, "seconds": 0.5}
        writer.write(counters, values, {"replay/priorities": Histogram(np.arange(3.0), np.array([1.0, 2.0]))})
    writer.animate(b"GIF89a of an episode", 16, 8, steps)
    writer.close()
"""


def run_wandb(folder: pathlib.Path, home: pathlib.Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    home.mkdir(exist_ok=True)
    environment |= {"HOME": str(home), "WANDB_ERROR_REPORTING": "false", **variables}
    return subprocess.run(
        [sys.executable, "-c", WANDB, str(folder)], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=100, check=False
    )


def test_weights_and_biases_offline_writes_one_run_over_both_starts(tmp_path: pathlib.Path) -> None:
    done = run_wandb(tmp_path / "run", tmp_path / "home", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    identity = (tmp_path / "run" / "wandb_id").read_text().strip()
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {file.name for file in files} == {f"run-{identity}.wandb"}
    data = b"".join(file.read_bytes() for file in files)
    words = ("a_project", "replay.trace", "loss/extrinsic", "replay/priorities", "heat_map/arm_share", "histogram", "image-file")
    assert not [word for word in words if word.encode() not in data]
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/files/media/images/heat_map/*.png"))
    episodes = list((tmp_path / "run" / "wandb").glob("offline-run-*/files/media/videos/video/*.gif"))
    assert episodes and all(episode.read_bytes() == b"GIF89a of an episode" for episode in episodes)


NO_ACCOUNT = "logging.wandb needs an account: run `wandb login`, set WANDB_MODE=offline, or leave logging.wandb out"
NO_NETWORK = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [({}, NO_ACCOUNT), pytest.param(NO_NETWORK, "Weights & Biases cannot be reached", marks=pytest.mark.slow)],
    ids=["no account", "no network"],
)
def test_weights_and_biases_out_of_reach_ends_in_one_line(variables: dict[str, str], message: str, tmp_path: pathlib.Path) -> None:
    done = run_wandb(tmp_path / "run", tmp_path / "home", **variables)
    assert done.returncode == 1
    assert f"SettingsError: {message}" in done.stderr.splitlines()[-1]


def test_weights_and_biases_without_the_package_ends_in_one_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SettingsError, match=r"^logging\.wandb needs the package wandb: pip install -e '\.\[wandb\]' in the repository$"):
        MetricsWriter(tmp_path, None, False, "a_project")
