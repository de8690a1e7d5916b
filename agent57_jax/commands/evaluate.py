"""Plays greedy episodes with a run's last checkpoint and writes RUN/evaluation.json.

python -m agent57_jax evaluate --workdir=RUN [--episodes=N] [--seed=S] [--video=FILE.mp4] [--contact_sheet=FILE.png]

Video and contact sheet show the best episode of the first environment.
"""

import pathlib
import sys

from absl import flags

from agent57_jax.commands import command_line
from agent57_jax.config import MAX_INT, MAX_SEED

_WORKDIR = command_line.define_path("workdir", "folder of the run")
_EPISODES = flags.DEFINE_integer("episodes", 100, "greedy episodes to play", lower_bound=1, upper_bound=MAX_INT)
_SEED = flags.DEFINE_integer("seed", 0, "seed of environments and random actions", lower_bound=0, upper_bound=MAX_SEED)
_VIDEO = command_line.define_path("video", "FILE.mp4 for an episode")
_CONTACT_SHEET = command_line.define_path("contact_sheet", "FILE.png for pictures of an episode")


def output(path: str | None, suffix: str) -> pathlib.Path | None:
    """The file of a flag; ends the process if it cannot be written."""
    if path is None:
        return None
    file = pathlib.Path(path)
    if file.suffix.lower() != suffix:
        command_line.fail(f"{path} must end in {suffix}")
    if not file.parent.is_dir():
        command_line.fail(f"there is no folder {file.parent} for {file.name}")
    if (problem := command_line.writing_problem(file)) is not None:
        command_line.fail(f"{path} cannot be written: {problem}")
    return file


def main() -> None:
    """Evaluates a run."""
    if not _WORKDIR.value:
        command_line.fail("--workdir is missing: the folder of a run, for example --workdir=runs/zaxxon")
    files = output(_VIDEO.value, ".mp4"), output(_CONTACT_SHEET.value, ".png")
    command_line.prepare_jax(whole_device=False)

    from agent57_jax import config, interface, types
    from agent57_jax.monitoring import video
    from agent57_jax.training import judging

    missing = video.missing_packages() if any(files) else None
    if missing is not None:
        command_line.fail(missing)
    watched: list[video.BestEpisode] = []

    def watch(game: str, episodes: int) -> video.Spectator:
        watched.append(video.BestEpisode(episodes, *files, title=game))
        return watched[0]

    score_file = pathlib.Path(_WORKDIR.value) / judging.FILE
    problem = command_line.writing_problem(score_file) if score_file.parent.is_dir() else None
    if problem is not None:
        print(f"warning: {score_file} cannot be written, the score will only be shown: {problem}", file=sys.stderr, flush=True)
    try:
        result = interface.open_run(_WORKDIR.value).evaluate(_EPISODES.value, _SEED.value, watch if any(files) else None)
    except (config.SettingsError, OSError, types.RunError) as error:
        command_line.fail(str(error), code=1 if isinstance(error, types.HostEnvironmentError) else command_line.USAGE_ERROR)
    score = "" if result["hns"] is None else f", human-normalised {result['hns']:.3f}"
    where = result["path"] or "not written"
    print(f"{result['game']}: mean return {result['mean']:.2f} over {len(result['returns'])} greedy episodes{score} ({where})")
    for episode in watched:
        if episode.problem is not None or episode.best is None:
            command_line.fail(f"the score above is valid, but the episode could not be recorded: {episode.problem}", code=1)
        shown = ", ".join(str(file) for file in files if file is not None)
        print(f"best of the first environment's {episode.episodes} episodes, return {episode.best.score:.2f}: {shown}")
    if result["path"] is None:
        command_line.fail(f"the score above is valid, but could not be written: {result['problem']}", code=1)


if __name__ == "__main__":
    command_line.run(main)
