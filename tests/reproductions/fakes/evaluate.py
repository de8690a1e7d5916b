"""Stands in for evaluate.py."""

import json
import pathlib
import sys


def main() -> None:
    options = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    folder, episodes = pathlib.Path(options["workdir"]), int(options["episodes"])
    checkpoint = max(int(path.name) for path in (folder / "checkpoints").glob("*"))
    with (folder / "evaluations.txt").open("a") as file:
        file.write("once\n")
    result = {"episodes": episodes, "returns": [1.0] * episodes, "mean": 1.0, "median": 1.0, "hns": None}
    (folder / "evaluation.json").write_text(json.dumps(result | {"checkpoint": checkpoint, "seed": int(options["seed"])}))


if __name__ == "__main__":
    main()
