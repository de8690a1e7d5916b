"""Controllable states (NGU §2): does the embedding hold what the agent controls, and little else?

NGU's embedding f is shaped by inverse dynamics: the action between two observations is predicted from f of both. The papers say that f
keeps what the agent controls and drops the rest, and show it only by its use. This figure looks at f itself, after and before training:

- all tasks: accuracy of inverse dynamics on random actions. In training, a mostly greedy policy lets actions be predicted from one
  observation alone, so only random actions show that f sees what actions do.
- grid worlds: how well a linear map (least squares, judged on other environments) reads from f the agent's place, and what the agent
  does not control (the coin's place; the colour of a wall); and the share of f's variance between places of the agent.

smoke: too short to learn much. cpu: small rooms and networks. gpu: the papers' sizes.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from agent57_jax.commands import command_line
from reproductions import plots
from reproductions.common import Figure, Profile, Run, Training, late_mean, reproduce
from reproductions.folders import remembered
from reproductions.records import expectation

COIN, MAZE, ZAXXON = "random_coin", "disco_maze", "zaxxon"
TASKS = (COIN, MAZE, ZAXXON)
NAMES = {COIN: "Random Coin", MAZE: "Disco Maze", ZAXXON: "Zaxxon"}
ACTIONS = {COIN: 4, MAZE: 4, ZAXXON: 18}
COLOURS = {COIN: plots.BLUE, MAZE: plots.ORANGE, ZAXXON: plots.GREEN}
LEARNT, UNTRAINED = "learnt", "untrained"
AGENT, OTHER = "agent", "other"
OTHER_NAMES = {COIN: "coin's place", MAZE: "wall's colour"}  # what the agent does not control

# Environments and timesteps after training. One half of the environments fits the linear maps, the other judges them.
DATA = {COIN: (1_024, 64), MAZE: (1_024, 64), ZAXXON: (32, 250)}

WANTED_ADVANTAGE = 1.5  # times chance
WANTED_GAP = 0.4  # of R^2
WANTED_SHARE = 0.8  # of the embedding's variance

# Changes to a task's config and profile.
OWN_OVERRIDES: dict[tuple[str, str], dict[str, Any]] = {
    ("laptop", MAZE): {"replay.samples_per_insert": 12.0},  # so short a run makes few updates otherwise
    # Short sequences, all of which train the embedding, because most of an update's time goes into action values. Every actor explores:
    # where actions can be predicted from one observation, little is learnt about their effects.
    ("laptop", ZAXXON): {
        "replay.trace": 10,
        "replay.period": 10,
        "novelty.train_timesteps": 10,
        "replay.samples_per_insert": 8.0,
        "actor.epsilon_alpha": 0.0,
    },
}


def trainings(profile: str, steps: Mapping[str, int], overrides: Mapping[str, Any]) -> tuple[Training, ...]:
    """A run for each task, with its number of agent steps."""
    return tuple(
        Training(
            name=task,
            config=f"configs/{task}.py:{profile}",
            overrides={**overrides, **OWN_OVERRIDES.get((profile, task), {}), "total_steps": steps[task]},
            seed=0,
            labels={"task": task},
        )
        for task in steps
    )


SMOKE_STEPS = {COIN: 4_000, MAZE: 6_000, ZAXXON: 3_000}
CPU_STEPS = {ZAXXON: 60_000, COIN: 150_000, MAZE: 200_000}  # the slowest first
GPU_STEPS = {ZAXXON: 5_000_000, COIN: 5_000_000, MAZE: 10_000_000}
PROFILES = {
    "smoke": Profile(trainings("smoke", SMOKE_STEPS, {"logging.period_seconds": 2.0}), workers=2, episodes=2),
    "cpu": Profile(trainings("laptop", CPU_STEPS, {"logging.period_seconds": 5.0}), workers=2, episodes=8),
    "gpu": Profile(trainings("paper", GPU_STEPS, {}), workers=1, episodes=8),
}


def r_squared(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Share of the variance of targets [n, K], all K together, that predictions explain; below 0 if the mean predicts better."""
    variance = np.sum((targets - targets.mean(axis=0)) ** 2)
    return float(1.0 - np.sum((targets - predictions) ** 2) / variance) if variance > 0 else 0.0


def read_out(features: np.ndarray, values: np.ndarray, numbers: np.ndarray, is_test: np.ndarray) -> dict[str, float]:
    """How well a linear map reads a discrete variable from features of timesteps that it was not fitted on.

    Args:
      features: [n, D].
      values: [n] int, indices into `numbers`.
      numbers: [values, K], the meaning of each value: a row and a column, or one-hot.
      is_test: [n] bool.

    Returns:
      "r2": of the map to the numbers. "accuracy": share of timesteps at which the right value's numbers are the nearest to the prediction.
      "explained": share of the features' variance between values, which is the R^2 of the map from value to features.
    """

    def predicted(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x_mean, y_mean = x[~is_test].mean(axis=0), y[~is_test].mean(axis=0)
        weights = np.linalg.lstsq(x[~is_test] - x_mean, y[~is_test] - y_mean, rcond=1e-6)[0]
        prediction: np.ndarray = (x[is_test] - x_mean) @ weights + y_mean
        return prediction

    features, tested = features.astype(np.float64), values[is_test]
    read = predicted(features, numbers[values])
    nearest = np.argmin(np.sum(numbers**2, axis=1) - 2 * read @ numbers.T, axis=1)  # |a - b|^2 but for the |a|^2 that all share
    return {
        "r2": r_squared(numbers[tested], read),
        "accuracy": float(np.mean(nearest == tested)),
        "explained": r_squared(features[is_test], predicted(np.eye(len(numbers))[values], features)),
    }


def variables(task: str, observation: np.ndarray, position: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The agent's place and what it does not control: values [n] and their meaning in numbers [values, K].

    Args:
      observation: [n, size, size, 3] uint8.
      position: [n, 2] int, the agent's row and column.
    """
    size = observation.shape[1]
    places = np.stack(np.divmod(np.arange(size**2), size), axis=1)
    agent = position[:, 0] * size + position[:, 1]
    if task == COIN:
        return {AGENT: (agent, places), OTHER: (np.argmax(observation[..., 2].reshape(-1, size**2), axis=1), places)}
    from agent57_jax.environments.disco_maze import WALL_COLOURS

    middle = size // 4 * 2  # cells with an even row and an even column are wall in every maze
    is_colour = np.all(observation[:, middle, middle, None] == WALL_COLOURS, axis=-1)  # [n, colours]
    return {AGENT: (agent, places), OTHER: (np.argmax(is_colour, axis=1), np.eye(len(WALL_COLOURS)))}


def read_outs(task: str, run: Any, seen: Any) -> dict[str, dict[str, dict[str, float]]]:
    """`read_out` by embedding and variable, from timesteps [E, T] of a restored run in a grid world."""
    from agent57_jax.types import LAST
    from reproductions import rollouts

    untrained = rollouts.initial_learner(run).acting_embedding
    embeddings = {LEARNT: seen.embedding, UNTRAINED: rollouts.embed(run, untrained, seen.observation)}
    is_used = seen.step_type != LAST  # there the agent may lie on the coin
    num_envs = len(is_used)
    is_test = np.broadcast_to(np.arange(num_envs)[:, None] >= num_envs // 2, is_used.shape)[is_used]
    found = variables(task, seen.observation[is_used], seen.position[is_used])
    return {
        name: {variable: read_out(embedding[is_used], values, numbers, is_test) for variable, (values, numbers) in found.items()}
        for name, embedding in embeddings.items()
    }


def attainable_accuracy(task: str, observation: np.ndarray, position: np.ndarray, next_position: np.ndarray) -> float:
    """Accuracy that is attainable in a grid world: 1 for actions that moved the agent; otherwise a guess among the blocked ones.

    Args:
      observation: [n, size, size, 3] uint8, in which the action was chosen.
      position, next_position: [n, 2] int, rows and columns of the agent.
    """
    is_wall = np.any(observation > 0, axis=-1) if task == MAZE else np.zeros(observation.shape[:3], bool)
    is_wall = np.pad(is_wall, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    row, column = position[:, 0] + 1, position[:, 1] + 1
    entries = np.arange(len(position))
    idle_actions = sum(is_wall[entries, row + down, column + right].astype(int) for down, right in ((-1, 0), (0, 1), (1, 0), (0, -1)))
    has_moved = np.any(position != next_position, axis=1)
    return float(np.mean(np.where(has_moved, 1.0, 1.0 / np.maximum(idle_actions, 1))))


def guesses(task: str, run: Any, seen: Any) -> dict[str, float | None]:
    """Accuracy of inverse dynamics on timesteps [E, T] of a restored run with random actions.

    Returns:
      LEARNT, UNTRAINED: after and before training; "attainable": the maximum, None where it is not known.
    """
    from agent57_jax.types import FIRST
    from reproductions import rollouts

    follows = seen.step_type[:, 1:] != FIRST
    accuracies = {}
    for name, learner in ((LEARNT, run.learner), (UNTRAINED, rollouts.initial_learner(run))):
        is_right = rollouts.guess_actions(run, learner, seen.observation) == seen.action[:, :-1]
        accuracies[name] = float(np.mean(is_right[follows]))
    attainable = None
    if task in OTHER_NAMES:
        before, after = seen.position[:, :-1][follows], seen.position[:, 1:][follows]
        attainable = attainable_accuracy(task, seen.observation[:, :-1][follows], before, after)
    return {**accuracies, "attainable": attainable}


def look_at(task: str, folder: pathlib.Path, num_envs: int, timesteps: int, seed: int) -> dict[str, Any]:
    """Guesses of random actions, and read-outs in a grid world; None instead for an emulator, whose state is not known."""
    from reproductions import rollouts

    if task not in OTHER_NAMES:
        return {"guesses": guesses(task, *rollouts.emulate_at_random(folder, num_envs, timesteps, seed)), "read_outs": None}
    run = rollouts.restore(folder)
    seen = next(rollouts.play(run, num_envs, seed, rollouts.at_random, timesteps))
    # At random an episode in the maze soon ends at a wall.
    walk = next(rollouts.play(run, num_envs, seed, rollouts.along_corridors, timesteps)) if task == MAZE else seen
    return {"guesses": guesses(task, run, seen), "read_outs": read_outs(task, run, walk)}


def measure(folder: pathlib.Path, training: Training, episodes: int) -> dict[str, Any]:
    """`look_at` the run, with data of the task's size."""
    del episodes
    task, seed = training.labels["task"], training.seed
    num_envs, timesteps = DATA[task]

    def compute() -> dict[str, Any]:
        command_line.prepare_jax(whole_device=False)
        return look_at(task, folder, num_envs, timesteps, seed)

    return remembered(folder, "controllable_states", {"environments": num_envs, "timesteps": timesteps, "seed": seed}, compute)


def most_common_share(run: Run) -> float | None:
    """Share of the most common action in training episodes of the last tenth of the run; None if none ended."""
    keys = {key for line in run.metrics for key in line if key.startswith("action/ratio_")}
    return max((share for key in keys if (share := late_mean(run.curve(key))) is not None), default=None)


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Accuracy of inverse dynamics over training and in its last tenth, what guessing gives, and the measurements."""
    tasks: dict[str, dict[str, Any]] = {}
    for run in runs:
        task, curve = run.training.labels["task"], run.curve("novelty/inverse_accuracy")
        tasks[task] = {
            "training_accuracy": late_mean(curve),
            "most_common_action": most_common_share(run),
            "chance": 1 / ACTIONS[task],
            **run.further,
            "curve": curve,
        }
    expectations: dict[str, Any] = {}
    for task, found in tasks.items():
        accuracy, chance = found["guesses"][LEARNT], found["chance"]
        expectations[f"inverse dynamics sees what actions do, {NAMES[task]}"] = expectation(
            f"accuracy on random actions at least {WANTED_ADVANTAGE:g} times chance",
            {"accuracy": accuracy, "chance": chance},
            accuracy >= WANTED_ADVANTAGE * chance,
        )
        if found["read_outs"] is not None:
            expectations |= place_expectations(NAMES[task], OTHER_NAMES[task], found["read_outs"])
    return {"tasks": tasks, "expectations": expectations}


def place_expectations(name: str, other: str, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Claims about a grid world, from `read_outs`."""
    after, before, rest = found[LEARNT][AGENT], found[UNTRAINED][AGENT], found[LEARNT][OTHER]
    keys = ("r2", "accuracy")
    return {
        f"the embedding tells the agent's place and not the {other}, {name}": expectation(
            f"R^2 of the agent's place at least {WANTED_GAP:g} above that of the other",
            {AGENT: after["r2"], OTHER: rest["r2"]},
            after["r2"] >= rest["r2"] + WANTED_GAP,
        ),
        f"training makes the agent's place readable, {name}": expectation(
            f"R^2 of the agent's place at least {WANTED_GAP:g} above that before training, and a higher accuracy",
            {LEARNT: {key: after[key] for key in keys}, UNTRAINED: {key: before[key] for key in keys}},
            after["r2"] >= before["r2"] + WANTED_GAP and after["accuracy"] > before["accuracy"],
        ),
        f"what moves the embedding is the agent's place, {name}": expectation(
            f"at least {WANTED_SHARE:g} of the embedding's variance lies between places of the agent, and more than before training",
            {LEARNT: after["explained"], UNTRAINED: before["explained"]},
            after["explained"] >= WANTED_SHARE and after["explained"] > before["explained"],
        ),
    }


def draw(record: Mapping[str, Any], path: pathlib.Path) -> None:
    """Above: accuracy of inverse dynamics, over training and on random actions. Below: read-outs, variance between places."""
    tasks = {task: record["data"]["tasks"][task] for task in TASKS if task in record["data"]["tasks"]}
    read = {task: found["read_outs"] for task, found in tasks.items() if found["read_outs"] is not None}
    with plots.picture(path, record, "Controllable states: what the embedding of inverse dynamics holds", size=(11.0, 8.5)) as figure:
        (training, actions), (places, variance) = figure.subplots(2, 2, width_ratios=(1.5, 1))
        for task, found in tasks.items():
            # Runs differ in length, so the x-axis is the completed share.
            points = [(steps / record["settings"]["runs"][task]["steps"], value) for steps, value in found["curve"]]
            plots.curves(training, [points], COLOURS[task], NAMES[task])
            if found["most_common_action"] is not None:
                training.axhline(found["most_common_action"], color=COLOURS[task], linestyle="--", linewidth=1.2)
        training.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of the training run", ylabel="accuracy on the agent's own actions")
        training.set_title("inverse dynamics in training (dashed: most common action)")
        training.legend(loc="best")

        both = (LEARNT, UNTRAINED)
        _draw_bars(actions, [(NAMES[task], COLOURS[task], *(found["guesses"][each] for each in both)) for task, found in tasks.items()])
        for i, found in enumerate(tasks.values()):
            for value, style in ((found["chance"], ":"), (found["guesses"]["attainable"], "-")):
                if value is not None:
                    actions.hlines(value, i - 0.42, i + 0.42, color="black", linestyle=style, linewidth=1.2)
        title = "after training (pale: before; dotted: chance;\nline: what can be known)"
        actions.set(ylabel="accuracy on random actions", title=title)

        bars = [
            (f"{NAMES[task]}:\n{what}", COLOURS[task], *(found[each][variable]["r2"] for each in both))
            for task, found in read.items()
            for variable, what in ((AGENT, "agent's place"), (OTHER, OTHER_NAMES[task]))
        ]
        _draw_bars(places, bars)
        places.set(ylabel="R² on other episodes", title="read from the embedding by a linear map")
        bars = [(NAMES[task], COLOURS[task], *(found[each][AGENT]["explained"] for each in both)) for task, found in read.items()]
        _draw_bars(variance, bars)
        variance.set(ylabel="share of the embedding's variance", title="between places of the agent")


def _draw_bars(axes: Axes, bars: Sequence[tuple[str, str, float, float]]) -> None:
    """Bars of (label, colour, number after training, number before it)."""
    for i, (_, colour, learnt, untrained) in enumerate(bars):
        for value, offset, alpha in ((learnt, -0.2, 1.0), (untrained, 0.2, 0.4)):
            axes.bar(i + offset, value, width=0.38, color=colour, alpha=alpha)
            axes.annotate(f"{value:.2f}", (i + offset, max(value, 0.0)), ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(bars)), [label for label, *_ in bars], fontsize=9)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(top=1.08)
    axes.axhline(0.0, color=plots.GREY, linewidth=0.8)


FIGURE = Figure(name="controllable_states", profiles=PROFILES, summarise=summarise, draw=draw, measure=measure)

if __name__ == "__main__":
    reproduce(FIGURE)
