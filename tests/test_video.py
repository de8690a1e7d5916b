"""Recorded episodes: what is written and read back, and that nothing of it can stop a run."""

import io
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import types

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from agent57_jax import config, parallel
from agent57_jax.agent.learner import acting_parameters
from agent57_jax.commands import watch
from agent57_jax.config import VideoSettings
from agent57_jax.monitoring import metrics, pictures, video
from agent57_jax.training import assembly, evaluator, judging, trainer
from tests import tiny
from tests.test_dashboards import summaries
from tests.test_pictures import episode, moment


def read(path: pathlib.Path) -> tuple[np.ndarray, float]:
    """Frames [T, H, W, 3] and how many there are in a second. By imageio's ffmpeg, but without its reader, which leaves pipes open."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, check=True, capture_output=True)
    found = re.search(rb"Video: h264.*yuv420p.*? (\d+)x(\d+).*? ([\d.]+) fps", done.stderr)
    assert found is not None, done.stderr
    width, height, frames_per_second = (float(group) for group in found.groups())
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, int(height), int(width), 3), frames_per_second


def show(spectator: video.Spectator, moments: list[pictures.Moment]) -> list[bool]:
    """What it wanted to see, which it was shown."""
    wanted = []
    for each in moments:
        wanted.append(spectator.wants(each.starts))
        if wanted[-1]:
            spectator.see(each)
    return wanted


class Made:
    """A recorder with what it says."""

    def __init__(self, folder: pathlib.Path, period: int = 1, keep: int = 50) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        self.animations: list[tuple[bytes, int, int]] = []
        self.steps = 1_500_000
        settings, animate = VideoSettings(period_episodes=period, keep=keep), lambda *animation: self.animations.append(animation)
        self.recorder = video.Recorder(folder, settings, lambda: self.steps, self.warnings.append, animate)

    def play(self, moments: list[pictures.Moment]) -> list[bool]:
        wanted = show(self.recorder, moments)
        self.recorder._taken.join()  # until the writer has done all of it
        self.recorder.wants(starts=False)
        return wanted

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def assert_tries_again(self) -> None:
        """The next episode has a video, and what went wrong was said once."""
        self.play(episode(3))
        assert len(self.names()) == 1 and len(self.warnings) == 1


def test_an_episode_becomes_a_video_an_animation_and_no_more_files(tmp_path: pathlib.Path) -> None:
    made = Made(tmp_path / "videos")
    moments = episode(100)
    made.play(moments)
    assert made.warnings == []
    assert made.names() == ["000000_steps1500000_return310.mp4"]
    path = made.folder / made.names()[0]
    frames, frames_per_second = read(path)
    assert frames.shape == (101, *pictures.draw(moments[0]).shape) and frames_per_second == 15.0
    assert abs(float(frames[90, 100, 100, 0]) - 90) < 12 and abs(float(frames[10, 100, 100, 0]) - 10) < 12
    made.recorder.close()
    ((gif, width, height),) = made.animations
    with Image.open(io.BytesIO(gif)) as image:
        assert image.format == "GIF" and image.size == (width, height) and 30 <= image.n_frames <= 2 * video.SPREAD
        assert image.info["loop"] == 0
        assert image.n_frames * image.info["duration"] / 1000 == pytest.approx(100 / 15, rel=0.2)


def test_a_run_does_not_wait_for_an_animation(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(video, "animation", lambda moments: (b"GIF" if may_end.wait(60) else b"", len(moments), 1))
    made = Made(tmp_path)
    made.play(episode(3))
    made.play(episode(4))
    assert made.animations == []  # and yet both episodes are over
    may_end.set()
    while len(made.animations) < 2 and not made.warnings:
        made.recorder.wants(starts=False)  # asked at every timestep: whoever trains is who writes
    assert made.animations == [(b"GIF", 4, 1), (b"GIF", 5, 1)]


def test_a_colon_in_a_relative_name_is_no_protocol(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = Made(pathlib.Path("cart:smoke"))
    best = video.BestEpisode(1, pathlib.Path("zaxxon:best.mp4"), pathlib.Path("s3:best.png"), "game")
    made.play(episode(2))
    show(best, episode(2))
    made.recorder.close()
    assert made.warnings == [] and best.problem is None
    assert len(read(tmp_path / made.folder / made.names()[0])[0]) == len(read(tmp_path / "zaxxon:best.mp4")[0]) == 3
    assert (tmp_path / "s3:best.png").exists()


def test_numbering_goes_on_and_old_files_go(tmp_path: pathlib.Path) -> None:
    for start in range(2):  # the second one resumes
        made = Made(tmp_path, period=2, keep=3)
        (tmp_path / "mine.mp4").touch()
        for number in range(5):
            made.steps = 1000 * start + number
            wanted = made.play(episode(2, score=-2.5 if number else 1234567.0))
            assert set(wanted) == {number % 2 == 0}
    assert made.names() == [
        "000003_steps1000_return1234567.mp4",
        "000004_steps1002_return-2.5.mp4",
        "000005_steps1004_return-2.5.mp4",
        "mine.mp4",
    ]


def test_an_episode_that_was_under_way_is_not_recorded(tmp_path: pathlib.Path) -> None:
    made = Made(tmp_path / "videos")
    assert made.play(episode(5)[2:]) == [False] * 4
    made.play(episode(5)[:3])
    made.recorder.close()  # a run ends in the middle of an episode
    assert made.names() == [] and made.animations == []


def test_memory_is_bounded_over_a_long_episode() -> None:
    film = video.Film(None)
    for step in range(27_001):
        film.add(moment(step, ends=step == 27_000, size=(2, 2)))
    steps = [each.step for each in film.spread()]
    assert video.SPREAD <= len(steps) <= 2 * video.SPREAD + 1
    assert steps[0] == 0 and steps[-1] == 27_000 and len(set(np.diff(steps[:-1]))) == 1


def test_a_failing_disk_costs_the_video_and_a_warning(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path)
    whole = video.Film.__init__
    # A device that is always full, in the place of the file that the encoder writes.
    monkeypatch.setattr(video.Film, "__init__", lambda self, path: whole(self, pathlib.Path("/dev/full")))
    monkeypatch.setattr(pathlib.Path, "unlink", lambda *_, **__: None)
    made.play(episode(300))
    assert len(made.warnings) == 1 and "No space left on device" in made.warnings[0], made.warnings
    assert made.names() == [] and made.animations == []
    monkeypatch.undo()
    made.assert_tries_again()


def test_a_stalled_encoder_costs_the_video_and_a_short_wait(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(threading.enumerate())
    monkeypatch.setattr(video, "PATIENCE_SECONDS", 0.3)
    made = Made(tmp_path)
    recorder = made.recorder
    assert all(show(recorder, episode(3)[:3]))
    recorder._taken.join()
    assert recorder._written is not None and recorder._written._encoder is not None
    encoder = recorder._written._encoder._process
    encoder.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    wanted = show(recorder, episode(300)[3:])
    assert 0.3 <= time.monotonic() - start < 30 and wanted[0] and not wanted[-1]
    assert made.warnings == [f"a video could not be written to {tmp_path}: nothing was taken for 0.3 s"]
    recorder._taken.join()
    assert encoder.returncode is not None and made.names() == []
    monkeypatch.undo()
    made.assert_tries_again()
    recorder.close()
    assert set(threading.enumerate()) <= before


def test_a_writer_that_hangs_is_left_alone(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(video, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(video.Film, "add", lambda *_: may_end.wait(60))
    made = Made(tmp_path)
    show(made.recorder, [*episode(99), *episode(99)])
    start = time.monotonic()
    made.recorder.close()
    assert time.monotonic() - start < 10
    assert len(made.warnings) == 2 and "nothing was taken" in made.warnings[0] and "is left alone" in made.warnings[1]
    may_end.set()


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_stops_no_recorder(score: float, tmp_path: pathlib.Path) -> None:
    assert pictures.number(score) == str(score)
    made, best = Made(tmp_path / "videos"), video.BestEpisode(1, None, tmp_path / "a.png", "game")
    moments = episode(2, score=score, intrinsic_reward=score, combined=score)
    made.play(moments)
    show(best, moments)
    assert made.names() == [f"000000_steps1500000_return{score}.mp4"] and made.warnings == [] and best.problem is None
    made.recorder.close()


def test_whatever_goes_wrong_costs_a_video_and_a_warning(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = set(threading.enumerate())
    made, best = Made(tmp_path), video.BestEpisode(1, tmp_path / "a.mp4", None, "game")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert show(made.recorder, [moment(0)]) == [True]
    odd = [moment(), moment(1)._replace(screen=np.zeros((210, 160, 1), np.uint8))]
    made.play(odd)
    show(best, odd)
    assert best.problem is not None and "TypeError" in best.problem
    made.play([moment(), moment(1, size=(100, 160))])
    made.recorder.give_up("it is too dark")
    assert made.play(episode(3)) == [False] * 4
    for warning, said in zip(made.warnings, ("can't start new thread", "TypeError", "after others of 520x420", "too dark"), strict=True):
        assert said in warning
    assert made.names() == []
    made.recorder.close()
    assert set(threading.enumerate()) <= before


def test_a_failing_animation_costs_a_warning(tmp_path: pathlib.Path) -> None:
    warnings: list[str] = []
    recorder = video.Recorder(tmp_path, VideoSettings(), lambda: 0, warnings.append, print)
    recorder._animations.append(recorder._worker.submit(lambda: 1 / 0))
    recorder.close()
    assert warnings == ["an animation of an episode could not be made: ZeroDivisionError: division by zero"]


def test_animations_become_rare_and_are_made_only_for_somebody(tmp_path: pathlib.Path) -> None:
    shown = [number for number in range(10_000) if video.is_animated(number)]
    assert shown[:13] == [*range(12), 13] and len(shown) < 90
    made = Made(tmp_path / "videos")
    made.recorder._animate = None
    made.play(episode(3))
    made.recorder.close()
    assert len(made.names()) == 1 and made.warnings == []  # an animation that nobody takes would be one
    for tensorboard, wandb in ((False, False), (True, False), (False, True)):
        settings = config.Settings()
        settings.logging.tensorboard, settings.logging.wandb = tensorboard, wandb
        recorder = assembly.make_recorder(settings, tmp_path, lambda: 0, pytest.fail, lambda *_: None)
        assert recorder is not None and (recorder._animate is not None) == (tensorboard or wandb)
        recorder.close()


def test_tensorboard_gets_an_animation(tmp_path: pathlib.Path) -> None:
    writer = metrics.MetricsWriter(tmp_path, None, tensorboard=True)
    gif, width, height = pictures.animation(episode(5))
    writer.animate(gif, width, height, 1234)
    writer.close()
    ((step, value),) = [(step, value) for step, value in summaries(tmp_path) if value.HasField("image")]
    assert (step, value.tag, value.image.width, value.image.height) == (1234, metrics.VIDEO_TAG, width, height)
    with Image.open(io.BytesIO(value.image.encoded_image_string)) as image:
        assert image.format == "GIF" and image.n_frames == 6


def test_a_training_records(coin_run: trainer.Trainer) -> None:
    files = video.recordings(coin_run.workdir / "videos")
    assert len(files) >= 2 and [path.name[:6] for path in files] == [f"{i:06}" for i in range(len(files))]
    steps = [int(path.name.split("steps")[1].split("_")[0]) for path in files]
    assert steps == sorted(steps) and steps[-1] <= 900
    assert read(files[0])[0].shape[1:] == (400, 600, 3)


def test_evaluate_shows_the_best_episode_and_changes_no_score(coin_run: trainer.Trainer, tmp_path: pathlib.Path) -> None:
    run = coin_run.workdir
    plain = judging.evaluate(run, episodes=40, seed=3)
    seen: list[video.BestEpisode] = []

    def watching(game: str, episodes: int) -> video.Spectator:
        assert (game, episodes) == ("random_coin", 2)
        seen.append(video.BestEpisode(episodes, tmp_path / "best.mp4", tmp_path / "best.png", game))
        return seen[0]

    assert judging.evaluate(run, episodes=40, seed=3, make_spectator=watching) == plain
    assert seen[0].problem is None and seen[0].best is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.mp4", "best.png"]
    assert len(read(tmp_path / "best.mp4")[0]) == seen[0].best.step + 1
    with Image.open(tmp_path / "best.png") as sheet:
        assert sheet.format == "PNG"
    best = video.BestEpisode(4, None, tmp_path / "a.png", "game")
    for number, score in enumerate((1.0, 5.0, 5.0, 2.0, 9.0)):
        show(best, episode(3, score=score, policy=number))
    assert best.best is not None and (best.best.score, best.best.policy) == (5.0, 1)  # the first of the best


def test_a_run_without_the_packages_warns_and_trains(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(video, "NEEDED", {"PIL": "pillow", "imageio_ffmpeg_gone": "imageio-ffmpeg"})
    settings = tiny.coin_settings()
    settings.video.period_episodes = 1
    training = trainer.Trainer(config.finalise(settings), tmp_path, lambda: True)
    training.close()
    assert training.recorder is None
    said = capsys.readouterr().out
    assert said.count("pip install imageio-ffmpeg") == 1 and not (tmp_path / "videos").exists()


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 60), (40, 20), (10, 5)])
@pytest.mark.parametrize("true_colour", [True, False])
def test_a_terminal_is_filled_and_not_overrun(columns: int, lines: int, true_colour: bool) -> None:
    rows = watch.terminal_rows(moment(100), columns, lines, true_colour)
    shown = [re.sub(r"\x1b\[[0-9;]*m", "", row) for row in rows]
    assert len(rows) <= lines and max(map(len, shown)) <= columns
    assert any("score" in row for row in shown)
    assert ("38;2;100;0;0" if true_colour else "38;5;52") in rows[0]  # red 100 is nearest to the level 95


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_a_terminal_without_block_characters_shows_colours(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", file)
    screen = watch.TerminalScreen(true_colour=True)
    screen.show(moment(100))
    screen.close()
    written = file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "48;2;100;0;0m" in written and ("▀" in written) == (encoding == "utf-8") and "?25h" in written


class Shown:
    """A display that notes what it is shown."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def show(self, moment: pictures.Moment) -> None:
        self.steps.append(moment.step)

    def close(self) -> None:
        pass


def test_a_viewer_keeps_the_pace_and_leaves_out_what_is_too_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    for speed, shown in ((1.0, 31), (8.0, 9)):  # at eight times the speed 120 steps a second, of which every fourth is shown
        display, start = Shown(), clock[0]
        viewer = watch.Viewer(display, speed, types.SimpleNamespace(requested=False))  # type: ignore[arg-type]
        for each in episode(30):
            viewer.see(each)
        assert clock[0] - start == pytest.approx(30 / (15 * speed))
        assert abs(len(display.steps) - shown) <= 1 and display.steps[-1] == 30
    with pytest.raises(watch.ClosedError):
        watch.Viewer(Shown(), 1.0, types.SimpleNamespace(requested=True)).see(moment())  # type: ignore[arg-type]


def test_nothing_is_fetched_when_nobody_looks(coin_run: trainer.Trainer) -> None:
    opened = judging.open_run(coin_run.workdir, 2, 0, is_watched=False)
    root = parallel.upload(parallel.make_mesh(1), parallel.REPLICATED, judging.root_key(0))
    judge = evaluator.Evaluator(evaluator.greedy_only(opened.parts.evaluation_actor, 2), opened.environment, 2, root)
    judge.dispatch(acting_parameters(opened.learner), opened.statistics)
    ((_, glimpse, screen),) = judge._pending
    assert glimpse is None and screen is None
