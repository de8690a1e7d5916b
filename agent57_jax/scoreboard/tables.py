"""The record as tables of cells, for Markdown and the page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from agent57_jax.environments import atari57
from agent57_jax.scoreboard.aggregates import ABOVE_HUMAN, BOOTSTRAP, TABLE_1
from agent57_jax.scoreboard.board import PUBLISHED
from agent57_jax.scoreboard.wording import plural, sentences

NOTHING = "-"
MAX_NAMES = 3  # of games in a sentence
SOURCES = {"evaluation": "evaluation", "training": "during training", "none": "not evaluated yet"}


class Cell(NamedTuple):
    """Text, and its number where there is one, for sorting."""

    text: str
    value: float | None = None


class Table(NamedTuple):
    """One table with its heading and a sentence or two on what it shows."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    ours: Sequence[str] = ()  # columns of our own runs; the others are published, or neither

    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        return [any(row[i].value is not None for row in self.rows) for i in range(len(self.columns))]


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
    """A score, with fewer decimals the larger it is."""
    if value is None:
        return Cell(NOTHING)
    size = abs(value)
    return Cell(f"{value:,.0f}" if size >= 1000 else f"{value:,.1f}" if size >= 10 else f"{value:.2f}", value)


def count(value: float) -> Cell:
    """A count with a unit."""
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


def _span(frames: Sequence[int]) -> str:
    low, high = (count(value).text for value in frames)
    return high if low == high else f"{low} to {high}"


def _some(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more {plural(more, 'game')}" if more > 0 else "")


def _aggregate(agent: Mapping[str, Any]) -> Table:
    name, games, settings = agent["name"], len(agent["games"]), agent["settings"]
    columns = [name, *PUBLISHED.values()]
    unfinished, off_protocol, from_training = (agent[name] for name in ("unfinished", "off_protocol", "from_training"))

    def of_ours(number: int, one: str, many: str) -> str:
        return f"{number} {plural(number, 'run')} of ours {plural(number, one, many)} not"

    note = sentences(
        (True, f"In percent of HNS; column '{name}' is our runs, the others are published, over the same {plural(games, 'game')}."),
        (settings, f"({name}: {settings})"),
        (True, f"Ours trained {_span(agent['frames'])} frames a run, Agent57 up to 90 G."),
        (agent["unequal_frames"], f"NOT COMPARABLE: seeds of {_some(agent['unequal_frames'])} differ by more than 10% in frames."),
        (unfinished, f"{of_ours(unfinished, 'has', 'have')} reached total_steps."),
        (off_protocol, f"NOT COMPARABLE: {of_ours(off_protocol, 'does', 'do')} follow the protocol (see Runs)."),
        (from_training, f"{of_ours(from_training, 'does', 'do')} have an evaluation yet (see Runs)."),
    )
    title = f"Table 1 of the Agent57 paper, over {games} of {len(atari57.SCORES)} games"
    return Table(title, note, ("statistic", *columns), _statistics(agent["table"], columns), (name,))


def _bootstrap(agent: Mapping[str, Any]) -> Table:
    found = agent["bootstrap"]
    rows = []
    for key, name in BOOTSTRAP.items():
        value, interval = found["statistics"][key]["value"], found["statistics"][key]["interval"]
        shown = Cell(NOTHING) if interval is None else Cell(f"{interval[0]:,.2f} to {interval[1]:,.2f}", interval[0])
        rows.append([Cell(name), Cell(f"{value:,.2f}", value), shown])
    note = f"{agent['name']}, in percent of HNS. {found['note']}"
    ours = (agent["name"], "95% interval")
    return Table(f"Uncertainty of {agent['name']}", note, ("statistic", *ours), rows, ours)


def _seeds(entry: Mapping[str, Any]) -> list[Cell]:
    """Columns that games and other tasks share: seeds, score, spread, episodes, frames, source."""
    frames = sentences(
        (True, _span(entry["frames"])),
        (entry["unequal_frames"], "(UNEQUAL)"),
        (entry["unfinished"], f"({entry['unfinished']} unfinished)"),
    )
    sources = [SOURCES[source] for source in entry["sources"]]
    missing = entry["runs"] - entry["seeds"]
    return [
        Cell(f"{entry['seeds']}" + (f" ({missing} not evaluated)" if missing else ""), entry["seeds"]),
        number(entry["mean"]),
        number(entry["spread"]),
        Cell(f"{entry['episodes']:,}", entry["episodes"]),
        Cell(frames, entry["frames"][1]),
        Cell(", ".join([*sources, *(["NOT the protocol"] if entry["off_protocol"] else [])])),
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
