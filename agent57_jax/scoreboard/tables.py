"""The record as tables of cells, which Markdown and the page both show."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from agent57_jax.environments import atari57
from agent57_jax.scoreboard.aggregates import ABOVE_HUMAN, BOOTSTRAP, TABLE_1
from agent57_jax.scoreboard.board import PUBLISHED

NOTHING = "-"
MAX_NAMES = 3  # of games in a sentence
SOURCES = {"evaluation": "evaluation", "training": "during training", "none": "not evaluated yet"}


class Cell(NamedTuple):
    """Text, and what it is sorted by where that is a number."""

    text: str
    value: float | None = None


class Table(NamedTuple):
    """One table with its heading and a sentence or two on what it shows."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    ours: Sequence[str] = ()  # columns of our own runs; the others are published, or neither


def all_tables(record: Mapping[str, Any]) -> list[Table]:
    """Those that have rows, in the order in which they are read."""
    tables = []
    for agent in record["agents"]:
        if agent["games"]:
            tables += [_aggregate(agent), _bootstrap(agent)]
    tables.append(
        Table(
            f"Published agents over all {record['published']['games']} games",
            "Computed from published scores in each game, in percent of HNS.",
            ("statistic", *PUBLISHED.values()),
            _statistics(record["published"]["table"], list(PUBLISHED.values())),
        )
    )
    tables += [_games(record), _others(record), _runs(record), _unreadable(record)]
    return [table for table in tables if table.rows]


def number(value: float | None) -> Cell:
    """A score, with the digits that its size deserves."""
    if value is None:
        return Cell(NOTHING)
    size = abs(value)
    return Cell(f"{value:,.0f}" if size >= 1000 else f"{value:,.1f}" if size >= 10 else f"{value:.2f}", value)


def count(value: float) -> Cell:
    """A large count in short."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return Cell(f"{value / unit:.3g} {name}", value)
    return Cell(f"{value:.0f}", value)


def percent(ratio: float | None) -> Cell:
    """An HNS."""
    return Cell(NOTHING) if ratio is None else Cell(f"{100 * ratio:,.1f}%", 100 * ratio)


def _statistics(table: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> list[list[Cell]]:
    def shown(key: str, value: float) -> Cell:
        return Cell(f"{value:.0f}" if key == ABOVE_HUMAN else f"{value:,.2f}", value)

    return [[Cell(name), *(shown(key, table[column][key]) for column in columns)] for key, name in TABLE_1.items()]


def _runs_of(number: int) -> str:
    return f"{number} {'run of ours does' if number == 1 else 'runs of ours do'}"


def _span(frames: Sequence[int]) -> str:
    low, high = (count(value).text for value in frames)
    return high if low == high else f"{low} to {high}"


def _some(names: Sequence[str]) -> str:
    """A few names, and how many there are beside them."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more {'game' if more == 1 else 'games'}" if more > 0 else "")


def _suffix(agent: Mapping[str, Any]) -> str:
    return f" ({agent['name']}: {agent['settings']})" if agent["settings"] else ""


def _aggregate(agent: Mapping[str, Any]) -> Table:
    games = len(agent["games"])
    columns = [agent["name"], *PUBLISHED.values()]
    warnings = [
        *(
            [f"NOT COMPARABLE: seeds of {_some(agent['unequal_frames'])} differ by more than 10% in frames."]
            if agent["unequal_frames"]
            else []
        ),
        *(
            [f"{agent['unfinished']} {'run of ours has' if agent['unfinished'] == 1 else 'runs of ours have'} not reached total_steps."]
            if agent["unfinished"]
            else []
        ),
        *([f"NOT COMPARABLE: {_runs_of(agent['off_protocol'])} not follow the protocol (see Runs)."] if agent["off_protocol"] else []),
        *([f"{_runs_of(agent['from_training'])} not have an evaluation yet (see Runs)."] if agent["from_training"] else []),
    ]
    return Table(
        f"Table 1 of the Agent57 paper, over {games} of {len(atari57.SCORES)} games",
        " ".join(
            [
                f"In percent of HNS; column '{agent['name']}' is our runs, the others are published, over the same "
                f"{'game' if games == 1 else 'games'}.{_suffix(agent)}",
                f"Ours trained {_span(agent['frames'])} frames a run, Agent57 up to 90 G.",
                *warnings,
            ]
        ),
        ("statistic", *columns),
        _statistics(agent["table"], columns),
        (agent["name"],),
    )


def _bootstrap(agent: Mapping[str, Any]) -> Table:
    found = agent["bootstrap"]
    rows = []
    for key, name in BOOTSTRAP.items():
        value, interval = found["statistics"][key]["value"], found["statistics"][key]["interval"]
        shown = Cell(NOTHING) if interval is None else Cell(f"{interval[0]:,.2f} to {interval[1]:,.2f}", interval[0])
        rows.append([Cell(name), Cell(f"{value:,.2f}", value), shown])
    note = f"{agent['name']}, in percent of HNS. {found['note']}"
    return Table(
        f"Uncertainty of {agent['name']}", note, ("statistic", agent["name"], "95% interval"), rows, (agent["name"], "95% interval")
    )


def _seeds(entry: Mapping[str, Any]) -> list[Cell]:
    """Columns that games and other tasks share: seeds, score, spread, episodes, frames, source."""
    frames = Cell(
        "".join(
            [
                _span(entry["frames"]),
                " (UNEQUAL)" if entry["unequal_frames"] else "",
                f" ({entry['unfinished']} unfinished)" if entry["unfinished"] else "",
            ]
        ),
        entry["frames"][1],
    )
    missing = entry["runs"] - entry["seeds"]
    return [
        Cell(f"{entry['seeds']}" + (f" ({missing} not evaluated)" if missing else ""), entry["seeds"]),
        number(entry["mean"]),
        number(entry["spread"]),
        Cell(f"{entry['episodes']:,}", entry["episodes"]),
        frames,
        Cell(", ".join([*(SOURCES[source] for source in entry["sources"]), *(["NOT the protocol"] if entry["off_protocol"] else [])])),
    ]


OUR_COLUMNS = ("seeds", "our score", "± seeds", "episodes", "frames trained", "score from")


def _games(record: Mapping[str, Any]) -> Table:
    several = len(record["agents"]) > 1
    rows = [
        [
            Cell(entry["game"]),
            *([Cell(entry["agent"])] if several else []),
            percent(entry["hns"]),
            *_seeds(entry),
            number(entry["random"]),
            number(entry["human"]),
            *(number(entry["published"][name]) for name in PUBLISHED.values()),
        ]
        for entry in record["games"]
    ]
    columns = ("game", *(["agent"] if several else []), "our HNS", *OUR_COLUMNS, "random", "human", *PUBLISHED.values())
    return Table("Games", "Mean returns of an episode. 'random' to 'DQN' are published.", columns, rows, ("agent", "our HNS", *OUR_COLUMNS))


def _others(record: Mapping[str, Any]) -> Table:
    rows = [[Cell(entry["task"]), Cell(entry["agent"]), *_seeds(entry)] for entry in record["others"]]
    note = "Tasks without published human scores. Agents are numbered task by task where settings differ."
    return Table("Other tasks", note, ("task", "agent", *OUR_COLUMNS), rows, ("agent", *OUR_COLUMNS))


def _runs(record: Mapping[str, Any]) -> Table:
    rows = [
        [
            Cell(run["folder"]),
            Cell(run["task"]),
            Cell(run["agent"]),
            Cell(f"{run['seed']}", run["seed"]),
            number(run["score"]),
            Cell(f"{run['episodes']:,}", run["episodes"]),
            count(run["frames"]),
            Cell(f"{run['hours']:.2f}", run["hours"]),
            Cell("; ".join(run["notes"])),
        ]
        for run in record["runs"]
    ]
    columns = ("folder", "task", "agent", "seed", "score", "episodes", "frames", "hours", "notes")
    return Table("Runs", "Every folder that was read; all of it is ours.", columns, rows)


def _unreadable(record: Mapping[str, Any]) -> Table:
    rows = [[Cell(entry["folder"]), Cell(entry["reason"])] for entry in record["unreadable"]]
    return Table("Folders that could not be read", "", ("folder", "reason"), rows)
