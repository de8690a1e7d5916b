"""What `benchmarks.gpu` has measured so far: pictures, Pong's curve over wall-clock time, and partial records of unfinished jobs."""

import pathlib
from typing import Any

from reproductions import folders, records


def keep(path: str | None, record: dict[str, Any], is_whole: bool = False) -> None:
    """Writes the record of a job that still runs as NAME.partial.json, so that it outlives the job; the whole one replaces it.

    Args:
      path: of the whole record; None writes nothing.
    """
    if not path:
        return
    whole = pathlib.Path(path)
    partial = whole.with_suffix(".partial.json")
    records.write_json(whole if is_whole else partial, record)
    if is_whole:
        partial.unlink(missing_ok=True)


def write(out: pathlib.Path) -> None:
    """F_pong.json first, which needs no matplotlib; then F_pong.png and C_throughput.png."""
    curve, rates = pong(out), throughput(out)
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    if curve:
        figure, axis = pyplot.subplots(figsize=(6.0, 4.0), layout="constrained")
        for key in ("training", "greedy"):
            points = [(row["seconds"] / 60, row[key]) for row in curve if row[key] is not None]
            axis.plot([x for x, _ in points], [y for _, y in points], ".-", label=key)
        axis.set(xlabel="minutes of training", ylabel="return", title="Pong")
        axis.legend()
        figure.savefig(out / "F_pong.png", dpi=120)
        pyplot.close(figure)
    if rates:
        units = sorted({unit for _, unit in rates})
        figure, axes = pyplot.subplots(1, len(units), figsize=(6.0 * len(units), 4.0), layout="constrained", squeeze=False)
        for (what, unit), points in rates.items():
            axes[0][units.index(unit)].plot([x for x, _ in sorted(points)], [y for _, y in sorted(points)], "o-", label=what)
        for axis, unit in zip(axes[0], units, strict=True):
            axis.set(xlabel="environments", ylabel=f"{unit}s a second", yscale="log")
            axis.set_xscale("log", base=2)
            axis.legend(fontsize="xx-small", loc="lower center", bbox_to_anchor=(0.5, 1.0))  # above: it must not hide points
        figure.savefig(out / "C_throughput.png", dpi=120)
        pyplot.close(figure)


def throughput(out: pathlib.Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """What part C has measured, with its unit -> environments and median rate."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for path in sorted(out.glob("C_*.json")):
        record = records.read_json(path) or {}
        for row in record.get("rows", []):
            if row["part"] != "machine":
                what = f"{row['part']}: {row['name']}, {path.stem.rpartition('_')[2]}"
                found.setdefault((what, row["unit"]), []).append((record["settings"]["environment"]["num_envs"], row["median"]))
    return found


def pong(out: pathlib.Path) -> list[dict[str, Any]]:
    """Writes and returns Pong's curve: seconds of the loop, steps, updates, and mean returns since the line before."""
    keys = {"greedy": "evaluation/return", "training": "episode/return"}
    curve = [
        {"seconds": line["seconds"], "steps": line["steps"], "updates": line["updates"], **{k: line.get(v) for k, v in keys.items()}}
        for line in folders.read_metrics(out / "pong")
    ]
    if curve:
        found = {"curve": curve, "settings": records.read_json(out / "pong" / "config.json")}
        records.write_json(out / "F_pong.json", records.rounded(found))
    return curve
