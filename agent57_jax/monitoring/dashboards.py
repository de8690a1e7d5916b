"""TensorBoard and Weights & Biases."""

import io
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent57_jax.config import SettingsError

RUN_ID_FILE = "wandb_id"
WANDB_SECONDS = 30.0  # timeout of its start

Layout = Mapping[str, Mapping[str, list[str]]]  # category -> chart -> patterns of whole tags


class Histogram(NamedTuple):
    """Numbers of values between neighbouring edges."""

    edges: np.ndarray  # [K + 1], increasing
    counts: np.ndarray  # [K]


class TensorBoard:
    """Writes events to a folder, with a layout for the tab "Custom Scalars"."""

    def __init__(self, folder: Path, resume_steps: int | None, layout: Layout) -> None:
        """`resume_steps`: events after these steps are hidden; None for a new run."""
        from tensorboardX import SummaryWriter

        # TensorBoard hides earlier events at this step and beyond; the checkpoint's own line stays.
        purge = None if resume_steps is None else resume_steps + 1
        # File names have a resolution of one second: the suffix separates two starts within it.
        suffix = f".{len(list(folder.glob('*')))}"
        # Absolute: a path that begins with "s3:" would be taken for Amazon S3.
        self._writer: Any = SummaryWriter(str(folder.absolute()), purge_step=purge, flush_secs=10, filename_suffix=suffix)
        self._writer.add_custom_scalars(
            {category: {chart: ["Multiline", tags] for chart, tags in charts.items()} for category, charts in layout.items()}
        )

    def write(
        self, steps: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram], pictures: Mapping[str, np.ndarray]
    ) -> None:
        """Adds finite numbers, histograms and pictures (uint8 [height, width, 3])."""
        for key, value in scalars.items():
            self._writer.add_scalar(_tag(key), value, global_step=steps)
        for key, (edges, counts) in histograms.items():
            middles = (edges[1:] + edges[:-1]) / 2
            held = np.flatnonzero(counts)
            if held.size:
                total, squares = float(counts @ middles), float(counts @ middles**2)
                shown = slice(held[0], held[-1] + 1)
                # A bucket reaches from the previous limit to its own: the first one is empty and sets the lower end.
                limits, numbers = [float(edges[held[0]]), *edges[1:][shown].tolist()], [0.0, *counts[shown].tolist()]
                self._writer.add_histogram_raw(key, limits[0], limits[-1], float(counts.sum()), total, squares, limits, numbers, steps)
        for key, picture in pictures.items():
            self._writer.add_image(key, picture, steps, dataformats="HWC")

    def animate(self, steps: int, key: str, gif: bytes, width: int, height: int) -> None:
        """Adds a GIF as an image. tensorboardX's add_video silently does nothing without another package."""
        from tensorboardX.proto.summary_pb2 import Summary

        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=key, image=image)]), steps)

    def close(self) -> None:
        """Closes the events file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases. Its id in the run's folder lets a resumed run continue it."""

    def __init__(self, folder: Path, is_new: bool, project: str, settings: Mapping[str, Any]) -> None:
        """Starts or continues the run; raises SettingsError without the package, an account or the network."""
        try:
            import wandb
        except ImportError as error:
            raise SettingsError("logging.wandb needs the package wandb: pip install -e '.[wandb]' in the repository") from error
        advice = "set WANDB_MODE=offline, or leave logging.wandb out"
        try:
            # `init` would prompt for a key on the terminal.
            if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False, verify=False):
                raise SettingsError(f"logging.wandb needs an account: run `wandb login`, {advice}")
            path = folder / RUN_ID_FILE
            if is_new or not path.exists():
                path.write_text(f"{uuid.uuid4().hex[:12]}\n")
            # Capturing standard output would break the panel.
            quiet = wandb.Settings(console="off", silent=True, init_timeout=WANDB_SECONDS)
            self._run = wandb.init(
                project=project, id=path.read_text().strip(), resume="allow", dir=str(folder), config=dict(settings), settings=quiet
            )
        except wandb.Error as error:
            raise SettingsError(f"Weights & Biases cannot be reached ({' '.join(str(error).split())[:200]}): {advice}") from error
        self._wandb = wandb
        # Its own step counter must not decrease, which ours does when a killed run resumes.
        self._run.define_metric("steps")
        self._run.define_metric("*", step_metric="steps")

    def write(
        self, steps: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram], pictures: Mapping[str, np.ndarray]
    ) -> None:
        """Logs one row."""
        row: dict[str, Any] = {"steps": steps, **scalars}
        row |= {key: self._wandb.Histogram(np_histogram=(value.counts, value.edges)) for key, value in histograms.items()}
        row |= {key: self._wandb.Image(picture) for key, picture in pictures.items()}
        self._run.log(row)

    def animate(self, steps: int, key: str, gif: bytes, width: int, height: int) -> None:
        """Logs the animation as a video."""
        del width, height
        self._run.log({"steps": steps, key: self._wandb.Video(io.BytesIO(gif), format="gif")})

    def close(self) -> None:
        """Waits until everything is sent, or saved when offline."""
        self._run.finish()


Dashboard = TensorBoard | WeightsAndBiases


def _tag(key: str) -> str:
    """The key without characters that tensorboardX would replace with a warning."""
    return re.sub(r"[^-/\w.]", "_", key)
