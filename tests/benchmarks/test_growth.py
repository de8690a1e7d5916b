"""Tables of growth and the guard's limits. Their numbers are the machine's; here is what becomes of them."""

import json
import pathlib
import sys
from collections.abc import Iterator, Sequence

import pytest
from absl import flags

from agent57_jax import config
from agent57_jax.config import Settings
from benchmarks import growth, guard
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # config files are loaded by it


@pytest.fixture
def asked(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """One short repeat at small sizes, into a folder of its own."""
    arguments = ["growth", "--config=configs/zaxxon.py:smoke", "--repeats=1", "--seconds=0", f"--results={tmp_path}", "--tables=fill"]
    monkeypatch.setattr(sys, "argv", arguments)
    flags.FLAGS.unparse_flags()
    flags.FLAGS(arguments)
    yield tmp_path
    flags.FLAGS.unparse_flags()


def test_what_is_measured_stays_when_the_next_size_fails(
    asked: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(settings: Settings, sizes: Sequence[int]) -> Iterator[growth.Row]:
        assert sizes == (1, 1_000, 9_000)
        yield {"size": 1, "ms": 2.0}
        yield {"size": 1_000, "ms": 3.0}
        raise RuntimeError("RESOURCE_EXHAUSTED: no memory\nfor so many")

    monkeypatch.setattr(growth, "TABLES", {"fill": growth.Table("embeddings", (1, 1_000, 9_000), ("ms",), measure)})
    with pytest.raises(SystemExit) as ended:
        growth.main()
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert shown.err.strip() == "fill: RESOURCE_EXHAUSTED: no memory for so many"
    assert shown.out == "embeddings  ms\n         1   2\n     1,000   3\n"
    record = json.loads((asked / "growth_fill.json").read_text())
    assert record["rows"] == [{"size": 1, "ms": 2.0}, {"size": 1000, "ms": 3.0}]
    assert record["settings"]["environment"]["task_id"] == "Zaxxon-v5"
    assert (asked / "growth_fill.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        *(
            pytest.param(name, sizes, marks=pytest.mark.slow)
            for name, sizes in {"environments": (4, 8), "batch": (2, 4), "trace": (4, 6), "fill": (0, 20, 49)}.items()
        ),
        ("replay", (400, 800)),
    ],
)
def test_every_table_has_a_row_a_size_with_all_its_columns(name: str, sizes: tuple[int, ...], asked: pathlib.Path) -> None:
    del asked
    table = growth.TABLES[name]
    rows = list(table.measure(config.finalise(tiny.zaxxon_settings()), sizes))
    assert [row["size"] for row in rows] == list(sizes)
    for row in rows:
        assert row.keys() == {"size", *table.columns}
        assert all(value > 0 for column, value in row.items() if column != "size")


def test_limits_are_floors_or_ceilings() -> None:
    for value, limit, is_floor, holds in ((0.9, 0.9, True, True), (0.89, 0.9, True, False), (74, 74, False, True), (75, 74, False, False)):
        assert guard.Ratio("a name", value, limit, is_floor).holds is holds


def test_the_guards_settings_are_the_papers_networks() -> None:
    settings = guard.settings_of()
    assert settings.network.lstm_size == 512
    assert (settings.policy.num_policies, settings.novelty.num_neighbours, settings.novelty.memory_capacity) == (32, 10, 30_000)
