"""Records episodes: videos and animations of a run, the best episode of an evaluation."""

import concurrent.futures
import contextlib
import importlib.util
import math
import pathlib
import queue
import re
import subprocess
import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np

from agent57_jax.config import VideoSettings
from agent57_jax.monitoring.pictures import Moment, animation, contact_sheet, draw, number
from agent57_jax.paths import replaced

SPREAD = 40  # minimum number of evenly spaced moments in an animation or contact sheet; up to twice as many are kept
QUEUED_MOMENTS = 32  # maximum lag of the writer
PATIENCE_SECONDS = 5.0  # maximum time that a run waits for the writer
NEEDED = {"imageio_ffmpeg": "imageio-ffmpeg"}  # module -> package
_NAME = re.compile(r"(\d{6,})_steps\d+_return\S+\.mp4")


class Spectator(Protocol):
    """Receives frames of the evaluator's environment 0."""

    def wants(self, starts: bool) -> bool:
        """Whether to call `see` for this timestep; asked once per timestep. `starts`: an episode begins."""

    def see(self, moment: Moment) -> None:
        """Receives a timestep."""

    def give_up(self, reason: str) -> None:
        """The environment cannot be drawn; from now on `wants` returns False."""


def missing_packages() -> str | None:
    """A sentence that says what to install for videos; None if nothing is missing."""
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    return f"videos need {' and '.join(missing)}: pip install {' '.join(missing)}" if missing else None


class Encoder:
    """Encodes frames to an mp4 file in an ffmpeg process.

    imageio's writer runs Python code in a forked child, which JAX warns about, and hides the reason of a failure.
    """

    def __init__(self, path: pathlib.Path, shape: tuple[int, ...], frames_per_second: float) -> None:
        """Overwrites `path` with frames of a shape [height, width, 3], both even; raises OSError if there is no encoder."""
        import imageio_ffmpeg  # optional

        try:
            program = imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError as error:
            raise OSError(f"there is no ffmpeg: {error}") from error
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{shape[1]}x{shape[0]}", "-r", str(frames_per_second), "-i", "-"]
        # One thread and little effort leave the cores to the emulators. Every browser plays this format.
        coded = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-threads", "1", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
        # Without "file:" ffmpeg would take a colon in the name for a protocol.
        self._process = subprocess.Popen(
            [program, "-y", "-v", "error", *raw, *coded, "-f", "mp4", f"file:{path}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C must reach only the trainer
        )
        self._errors = ""
        self._shape = shape

    def add(self, frame: np.ndarray) -> None:
        """Encodes a frame; raises OSError with the encoder's reason if it has failed, ValueError for another shape."""
        if frame.shape != self._shape:
            raise ValueError(f"a picture of {frame.shape[1]}x{frame.shape[0]} came after others of {self._shape[1]}x{self._shape[0]}")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError as error:
            self._end()
            raise OSError(self._reason()) from error

    def finish(self) -> None:
        """Completes the file; raises OSError with the encoder's reason if it has failed."""
        self._end()
        if self._process.returncode:
            raise OSError(self._reason())

    def abort(self) -> None:
        """Ends the encoder at once; may follow `finish`."""
        self.kill()
        self._end()

    def kill(self) -> None:
        """Ends the encoder; other threads may call it."""
        self._process.kill()

    def _end(self) -> None:
        if self._process.stderr is not None and not self._process.stderr.closed:
            self._errors = self._process.communicate()[1].decode(errors="replace")

    def _reason(self) -> str:
        # The first line is the cause, after the name and address of a part of ffmpeg.
        lines = [re.sub(r"^\[[^]]*\]\s*", "", line) for line in self._errors.splitlines() if line.strip()]
        return lines[0] if lines else f"the encoder ended with code {self._process.returncode}"


class Film:
    """The recording of one episode: its video and evenly spaced moments, in bounded memory."""

    def __init__(self, path: pathlib.Path | None) -> None:
        """`path`: temporary file of the video; None: no video."""
        self._path = path
        self.is_given_up = False
        self._encoder: Encoder | None = None
        self._moments: list[Moment] = []
        self._stride = 1
        self._count = 0
        self._last: Moment | None = None

    @property
    def last(self) -> Moment:
        """The newest moment."""
        assert self._last is not None
        return self._last

    def add(self, moment: Moment) -> None:
        """Adds a moment; raises OSError if it cannot be written."""
        self._last = moment
        if self._path is not None:
            frame = draw(moment)
            if self._encoder is None:
                self._encoder = Encoder(self._path, frame.shape, moment.steps_per_second)
            self._encoder.add(frame)
        if self._count % self._stride == 0:
            self._moments.append(moment)
        self._count += 1
        if len(self._moments) == 2 * SPREAD:
            self._moments = self._moments[::2]
            self._stride *= 2

    def spread(self) -> list[Moment]:
        """At most 2 SPREAD evenly spaced moments, with the first and the last."""
        return self._moments if self._moments[-1] is self._last else [*self._moments, self.last]

    def keep(self, path: pathlib.Path) -> None:
        """Completes the video and renames it to `path`; raises OSError if that fails."""
        if self._path is not None and self._encoder is not None:
            self._encoder.finish()
            self._path.replace(path)

    def give_up(self) -> None:
        """Ends the encoder, from any thread; the writer must still call `drop`."""
        self.is_given_up = True
        if self._encoder is not None:
            self._encoder.kill()

    def drop(self) -> None:
        """Ends the recording and removes its temporary file."""
        if self._path is not None and self._encoder is not None:
            self._encoder.abort()
            self._path.unlink(missing_ok=True)


class Recorder:
    """Records evaluation episodes in a thread; a failure costs a video and a warning, never the run."""

    def __init__(
        self,
        folder: pathlib.Path,
        settings: VideoSettings,
        steps: Callable[[], int],
        warn: Callable[[str], None],
        animate: Callable[[bytes, int, int], None] | None,
    ) -> None:
        """Records from the next episode on into a folder that is created on demand; numbers continue after the videos in it.

        `steps` returns the run's agent steps, for file names; `animate` receives a GIF, its width and height some time after an episode.
        """
        self._folder, self._settings = folder, settings
        self._steps, self._warn, self._animate = steps, warn, animate
        self._episodes = 0
        self._is_recording = False
        self._has_given_up = False
        self._is_late = False  # the queue was full, and nothing was queued since
        self._film: Film | None = None  # of the current episode
        self._written: Film | None = None  # being written
        self._taken: queue.Queue[tuple[Film, Moment, int] | None] = queue.Queue(QUEUED_MOMENTS)
        self._problems: queue.SimpleQueue[str] = queue.SimpleQueue()  # from the writer to the thread that warns
        self._writer: threading.Thread | None = None
        # A separate thread: animations would block the writer.
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="animation")
        self._animations: list[concurrent.futures.Future[tuple[bytes, int, int]]] = []

    def wants(self, starts: bool) -> bool:
        """Whether this episode is recorded."""
        self._hand_over()
        if starts:
            self._is_recording = not self._has_given_up and self._episodes % self._settings.period_episodes == 0
            self._episodes += 1
            self._film = None
        elif self._film is not None and self._film.is_given_up:
            self._is_recording = False
        return self._is_recording

    def see(self, moment: Moment) -> None:
        """Queues a timestep for the writer."""
        try:
            if moment.starts:
                self._film = Film(self._folder / "recording.tmp")
            if self._film is None:
                return
            if self._writer is None:
                # A daemon: a hanging disk must not keep the process alive.
                writer = threading.Thread(target=self._write, name="video", daemon=True)
                writer.start()  # may raise under a process limit
                self._writer = writer
            self._taken.put((self._film, moment, self._steps()), timeout=0 if self._is_late else PATIENCE_SECONDS)
            self._is_late = False
        except Exception as error:
            is_full = isinstance(error, queue.Full)
            if not self._is_late:
                self._warn(self._problem(TimeoutError(f"nothing was taken for {PATIENCE_SECONDS:g} s") if is_full else error))
            self._is_late = is_full
            self._is_recording = False
            if self._film is not None:
                self._film.give_up()
        if moment.ends:
            self._film = None

    def give_up(self, reason: str) -> None:
        """Warns and stops recording."""
        self._warn(f"no videos: this environment cannot be drawn: {reason}")
        self._has_given_up, self._is_recording = True, False

    def close(self) -> None:
        """Completes finished episodes, drops the current one, delivers animations, ends all threads."""
        self._film = None
        writer, self._writer = self._writer, None
        for is_last in (False, True):
            if writer is None:
                break
            with contextlib.suppress(queue.Full):
                self._taken.put(None, timeout=PATIENCE_SECONDS)
                writer.join(PATIENCE_SECONDS)
            if not writer.is_alive():
                break
            if (film := self._written) is not None:
                film.give_up()  # ends the encoder that the writer waits for
            if is_last:
                self._warn(f"a video is still being written to {self._folder}, and is left alone")
        self._worker.shutdown()
        self._hand_over()

    def _hand_over(self) -> None:
        """Delivers warnings and animations in the caller's thread, which owns the console and the metrics."""
        while not self._problems.empty():
            self._warn(self._problems.get())
        while self._animations and self._animations[0].done():
            try:
                assert self._animate is not None
                self._animate(*self._animations.pop(0).result())
            except Exception as error:
                self._warn(f"an animation of an episode could not be made: {_said(error)}")

    def _problem(self, error: Exception) -> str:
        return f"a video could not be written to {self._folder}: {_said(error)}"

    def _write(self) -> None:
        """The writer's thread: processes timesteps in order, until None."""
        while (taken := self._taken.get()) is not None:
            film, moment, steps = taken
            if film is not self._written:
                self._drop_written()
                self._written = film
            if not film.is_given_up:
                try:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    film.add(moment)
                    if moment.ends:
                        self._keep(film, steps)
                        self._written = None
                except Exception as error:
                    if not film.is_given_up:
                        self._problems.put(self._problem(error))
                        film.give_up()
            if film.is_given_up:
                self._drop_written()
            self._taken.task_done()
        self._drop_written()

    def _drop_written(self) -> None:
        film, self._written = self._written, None
        if film is not None:
            try:
                film.drop()
            except Exception as error:
                self._problems.put(self._problem(error))

    def _keep(self, film: Film, steps: int) -> None:
        files = recordings(self._folder)
        numbered = int(files[-1].name.split("_")[0]) + 1 if files else 0
        film.keep(self._folder / f"{numbered:06}_steps{steps}_return{number(film.last.score)}.mp4")
        for old in recordings(self._folder)[: -self._settings.keep]:
            old.unlink(missing_ok=True)
        if self._animate is not None and is_animated(numbered):
            self._animations.append(self._worker.submit(animation, film.spread()))


def _said(error: Exception) -> str:
    """The text of an error; with its name unless it is an OSError."""
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def is_animated(number: int) -> bool:
    """Whether a video is also shown as an animation: the first ones, then one per 10% more, to limit the size of events files."""
    return number == 0 or math.floor(math.log(number + 1, 1.1)) > math.floor(math.log(number, 1.1))


def recordings(folder: pathlib.Path) -> list[pathlib.Path]:
    """The videos of a run, oldest first."""
    found = [path for path in folder.glob("*.mp4") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.split("_")[0]))


class BestEpisode:
    """Saves the best of the first episodes, the earliest if equal, as a video, a contact sheet or both."""

    def __init__(self, episodes: int, video: pathlib.Path | None, sheet: pathlib.Path | None, title: str) -> None:
        """`episodes`: how many to compare; `title`: of the sheet."""
        self.episodes = self._left = episodes
        self._video, self._sheet, self._title = video, sheet, title
        self._film: Film | None = None
        self.best: Moment | None = None  # the last moment of the best episode
        self.problem: str | None = None  # why there is no video or sheet

    def wants(self, starts: bool) -> bool:
        """Whether episodes are left and nothing has failed."""
        if starts:
            self._left -= 1
        return self._left >= 0 and self.problem is None

    def see(self, moment: Moment) -> None:
        """Records a timestep."""
        try:
            if moment.starts:
                self._film = Film(None if self._video is None else self._video.with_name(f".{self._video.name}.tmp"))
            if self._film is None:
                return
            self._film.add(moment)
            if moment.ends:
                self._finish(self._film)
        except Exception as error:
            self.give_up(_said(error))

    def give_up(self, reason: str) -> None:
        """Stops; `problem` is the reason."""
        self.problem = reason
        self.close()

    def close(self) -> None:
        """Drops the current episode."""
        film, self._film = self._film, None
        if film is not None:
            try:
                film.drop()
            except OSError as error:
                self.problem = self.problem or str(error)

    def _finish(self, film: Film) -> None:
        if self.best is None or film.last.score > self.best.score:
            if self._video is not None:
                film.keep(self._video)
            if self._sheet is not None:
                title = f"{self._title}: return {number(film.last.score)} after {film.last.step} steps"
                with replaced(self._sheet) as temporary:
                    contact_sheet(film.spread(), title).save(temporary, "PNG")
            self.best = film.last
        self.close()
