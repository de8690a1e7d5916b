import json
import os
import pathlib
import shutil
import socket
import subprocess

import pytest

from reproductions import records


def git(folder: pathlib.Path, *arguments: str) -> None:
    names = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", "-C", str(folder), *names, *arguments], check=True, capture_output=True)


def test_text_is_json_with_a_line_for_each_list_of_numbers() -> None:
    record = {"curve": [[1, 0.5], [2, -1e-07]], "names": ["a", "b [ 1, 2 ]"], "empty": [], "none": None, "nested": {"x": [1.0]}}
    text = records.to_text(record)
    assert json.loads(text) == record
    assert "[2, -1e-07]" in text
    with pytest.raises(ValueError, match="JSON"):
        records.to_text({"x": float("nan")})


def test_a_file_is_replaced_at_one_stroke(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "a.json"
    records.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        records.write_json(path, {"a": object()})
    assert records.read_json(path) == {"a": 1} and list(path.parent.iterdir()) == [path]
    assert records.read_json(tmp_path / "none.json") is None


def test_numbers_are_rounded() -> None:
    found = records.rounded({"a": [1 / 3, 2, True, None, "x"], "b": (12345678.9,)})
    assert found == {"a": [0.333333, 2, True, None, "x"], "b": [12345700.0]}


def test_all_hold() -> None:
    for outcomes, expected in (([True, True], True), ([True, None], None), ([None, False], False), ([], None)):
        assert records.all_hold(outcomes) is expected


def test_shared_settings_stand_once() -> None:
    flat = {"a": {"seed": 0, "x.y": 1}, "b": {"seed": 1, "x.y": 1}}
    table = records.settings_table({"a": {"config": "A"}, "b": {"config": "B"}}, flat)
    assert table == {
        "shared": {"x.y": 1},
        "runs": {"a": {"config": "A", "settings": {"seed": 0}}, "b": {"config": "B", "settings": {"seed": 1}}},
    }


def test_the_machine_is_described_without_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_device_kind", lambda: "cpu")
    found = records.machine(cores_per_run=1)
    assert found["cores"] == len(os.sched_getaffinity(0)) and found["cores_per_run"] == 1
    assert found["memory_gib"] > 0 and found["device"] == "cpu"
    assert set(found) == {"cpu", "cores", "cores_per_run", "memory_gib", "os", "python", "jax", "jaxlib", "device"}
    values = [str(value) for value in found.values()]
    assert socket.gethostname() not in values
    assert not any(value.startswith("/") for value in values)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_the_commit_is_known_and_results_do_not_make_it_dirty(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert records.git_state(tmp_path) is None
    git(tmp_path, "init")
    assert records.git_state(tmp_path) is None  # no commit yet
    git(tmp_path, "commit", "--allow-empty", "-m", "m")
    clean = records.git_state(tmp_path)
    assert clean is not None and len(clean["commit"]) == 40 and clean["dirty"] is False
    results = tmp_path / "reproductions" / "results"
    results.mkdir(parents=True)
    (results / "a.json").write_text("{}")
    assert records.git_state(tmp_path) == clean
    assert records.git_state(results) is None  # inside a repository, but not ours
    (tmp_path / "code.py").write_text("")
    assert records.git_state(tmp_path) == {"commit": clean["commit"], "dirty": True}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert records.git_state(tmp_path) is None
