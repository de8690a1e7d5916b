"""The record as one self-contained page of HTML."""

import base64
import hashlib
import html
import json
import pathlib
import urllib.parse
from collections.abc import Mapping
from typing import Any

from agent57_jax.scoreboard.tables import Table, all_tables, count, number
from agent57_jax.scoreboard.wording import plural

HERE = pathlib.Path(__file__).parent
MAX_VIDEO_BYTES = 4_000_000  # of one video in the page; larger ones are links
MAX_VIDEOS_BYTES = 30_000_000  # of all of them
MAX_LINKS = 5  # older videos that a run's card names
LONG_TEXT = 60  # characters from which a cell breaks its lines
OPEN_BANDITS = 2  # runs whose heat maps are drawn at once


def render(record: Mapping[str, Any], out: pathlib.Path) -> str:
    """The text of scoreboard.html.

    Args:
      out: the folder in which it will lie; videos are read and linked from there.
    """
    style, script = (HERE / "page.css").read_text(encoding="utf-8"), (HERE / "page.js").read_text(encoding="utf-8")
    curves, bandits = _curves(record), _bandits(record)
    data = {"curves": [curve for _, curve in curves], "bandits": [bandit for _, bandit in bandits]}
    sections = {
        "Scores": "\n".join(map(_table, all_tables(record))),
        "Learning curves": _curve_cards(curves),
        "Bandits": _bandit_cards(bandits),
        "Videos": _video_cards(record, out),
        "Protocol": f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in record['protocol'])}</ul>",
    }
    sections = {name: body for name, body in sections.items() if body}
    links = "".join(f'<a href="#{_identifier(name)}">{name}</a>' for name in sections)
    body = "\n".join(
        f'<section id="{_identifier(name)}">{"" if name == "Scores" else f"<h2>{name}</h2>"}\n{text}\n</section>'
        for name, text in sections.items()
    )
    runs = f"{len(record['runs'])} {plural(len(record['runs']), 'run')}"
    # Nothing comes in from outside and no script runs but ours, whatever a run's files contain.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src '{_digest(script)}'; media-src data:; img-src data:"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Scoreboard: {runs}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header>
<h1>Scoreboard</h1>
<p>{runs} of ours, <span class="faint">made {_text(record["made"])}.</span>
Columns with <span class="ours">this background</span> are ours; all others are published. Click a column's name to sort by it.</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{body}
</main>
<script type="application/json" id="data">{_json(data)}</script>
<script>{script}</script>
</body>
</html>
"""


def _text(value: Any) -> str:
    return html.escape(str(value))


def _identifier(name: str) -> str:
    return name.lower().replace(" ", "-")


def _digest(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _json(value: Any) -> str:
    """JSON that cannot end its script: "<" is written as its code."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _table(table: Table) -> str:
    numeric = table.numeric()

    def classes(i: int, text: str = "") -> str:
        facts = {"number": numeric[i], "ours": table.columns[i] in table.ours, "long": len(text) > LONG_TEXT}
        found = " ".join(name for name, holds in facts.items() if holds)
        return f' class="{found}"' if found else ""

    head = "".join(f'<th scope="col"{classes(i)}><button type="button">{_text(name)}</button></th>' for i, name in enumerate(table.columns))
    rows = []
    for row in table.rows:
        cells = [f'<th scope="row">{_text(row[0].text)}</th>']
        for i, cell in enumerate(row[1:], start=1):
            value = "" if cell.value is None else f' data-value="{cell.value!r}"'
            cells.append(f"<td{classes(i, cell.text)}{value}>{_text(cell.text)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    return f"""<h2>{_text(table.title)}</h2>
<p class="faint">{_text(table.note)}</p>
<div class="scroll" tabindex="0" role="region" aria-label="{_text(table.title)}"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody></table></div>"""


def _curves(record: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(caption, data) of each task and agent with a curve."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in record["runs"]:
        if run["curves"]["training"] or run["curves"]["evaluation"]:
            groups.setdefault((run["task"], run["agent"]), []).append(run)
    games = {entry["game"]: entry for entry in record["games"]}
    several = {task for task, _ in groups if sum(other == task for other, _ in groups) > 1}
    found = []
    for (task, agent), own in sorted(groups.items()):
        references = [[name, games[task][name]] for name in ("random", "human")] if task in games else []
        seeds = [{**run["curves"], "score": [[run["frames"], run["score"]]] if run["source"] == "evaluation" else []} for run in own]
        words = [f"{len(own)} {plural(len(own), 'run')} of ours", *(f"{name} {number(value).text}" for name, value in references)]
        title = f"{task} ({agent})" if task in several else task
        found.append((", ".join(words), {"game": title, "seeds": seeds, "references": references}))
    return found


def _curve_cards(curves: list[tuple[str, dict[str, Any]]]) -> str:
    if not curves:
        return ""
    cards = "\n".join(
        f'<figure class="card curves" data-index="{i}"><figcaption><h3>{_text(curve["game"])}</h3>{_text(caption)}</figcaption></figure>'
        for i, (caption, curve) in enumerate(curves)
    )
    return f"""<p class="faint">Return of an episode against frames, one line a run.
<span class="key training">training episodes, all policies</span>
<span class="key evaluation">greedy episodes of the evaluator</span> and a dot where evaluate.py scored the checkpoint.
Published scores of random play and of the human are dashed where they are near.</p>
<div class="grid">
{cards}
</div>"""


def _bandits(record: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
    """(run, data) of each run with several arms."""
    found = []
    for run in record["runs"]:
        bandit = run["bandit"]
        if not bandit:
            continue
        common = {"frames": bandit["frames"], "arms": len(bandit["share"][0])}
        share = [[round(100 * value, 1) if value else None for value in column] for column in bandit["share"]]
        name = f"{run['task']}, seed {run['seed']}"
        data = {
            "share": {**common, "name": f"{name}, share of episodes", "values": share, "percent": True},
            "return": {**common, "name": f"{name}, mean return", "values": bandit["return"], "percent": False},
        }
        found.append((run, data))
    return found


def _bandit_cards(bandits: list[tuple[Mapping[str, Any], dict[str, Any]]]) -> str:
    if not bandits:
        return ""
    cards = "\n".join(
        f"""<details class="bandit"{" open" if i < OPEN_BANDITS else ""}>
<summary>{_text(run["task"])}, {_text(run["agent"])}, seed {run["seed"]} <span class="faint">({_text(run["folder"])})</span></summary>
<div class="grid">
<figure class="card" data-run="{i}" data-kind="share"><figcaption>Share of the training episodes that each arm played.</figcaption></figure>
<figure class="card" data-run="{i}" data-kind="return"><figcaption>Mean return of each arm's training episodes.</figcaption></figure>
</div></details>"""
        for i, (run, _) in enumerate(bandits)
    )
    return f"""<p class="faint">Arms upwards, frames to the right. Arm 0 only exploits; the last arm explores most. Empty: not played.</p>
{cards}"""


def _link(path: str) -> str:
    return f'<a href="{urllib.parse.quote(path)}">{_text(pathlib.Path(path).name)}</a>'


def _video_cards(record: Mapping[str, Any], out: pathlib.Path) -> str:
    """The last video of each run, inside the page while there is room, and links to earlier ones."""
    cards, left = [], MAX_VIDEOS_BYTES
    for run in record["runs"]:
        if not run["videos"]:
            continue
        *older, last = run["videos"]
        label = f"{run['task']}, {run['agent']}, seed {run['seed']}"
        if last["bytes"] <= min(MAX_VIDEO_BYTES, left):
            try:
                content = (out / last["path"]).read_bytes()
            except OSError:  # gone since the folder was read
                continue
            left -= last["bytes"]
            source = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
            shown = f'<video controls muted playsinline preload="metadata" aria-label="{_text(label)}" src="{source}"></video>'
        else:
            shown = f"<p>{_link(last['path'])} ({count(last['bytes']).text}B)</p>"
        links = ", ".join(_link(video["path"]) for video in older[-MAX_LINKS:][::-1])
        before = f"<p>Before: {links}{' and more' if len(older) > MAX_LINKS else ''}</p>" if older else ""
        cards.append(f'<div class="card"><h3>{_text(label)}</h3>{shown}<p>{_text(last["path"])}</p>{before}</div>')
    return f'<div class="grid">{"".join(cards)}</div>' if cards else ""
