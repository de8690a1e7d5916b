"""The 57 Atari games: published scores and human-normalised scores (Agent57, App. H.1 and H.4)."""

import csv
from pathlib import Path

# The full action set of the Arcade Learning Environment, in its order.
ACTION_NAMES = (
    *("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT"),
    *("UPFIRE", "RIGHTFIRE", "LEFTFIRE", "DOWNFIRE", "UPRIGHTFIRE", "UPLEFTFIRE", "DOWNRIGHTFIRE", "DOWNLEFTFIRE"),
)


def _read_scores() -> dict[str, dict[str, float]]:
    with (Path(__file__).parent / "data" / "atari57_scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["envpool_id"]: {name: float(row[name]) for name in row if name not in ("game", "envpool_id")} for row in rows}


# Task id -> column -> mean raw return of an episode. The columns are "random", "human" and published agents from "dqn" to "muzero".
SCORES = _read_scores()


def human_normalised_score(task_id: str, score: float) -> float | None:
    """(score - random) / (human - random): 0 plays like the random policy, 1 like the human.

    Args:
      task_id: EnvPool's name, such as "Zaxxon-v5".
      score: mean raw return of an episode.

    Returns:
      The normalised score, or None for a task that is not one of the 57.
    """
    if task_id not in SCORES:
        return None
    random, human = SCORES[task_id]["random"], SCORES[task_id]["human"]
    return (score - random) / (human - random)
