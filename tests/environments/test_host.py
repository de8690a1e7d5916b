"""What the adapters share: seeds and CPUs. Their bookkeeping of episodes is tested through them."""

from pathlib import Path

import pytest

from agent57_jax.environments import host
from agent57_jax.environments.host import available_cpus, hashed_seeds


def test_hashed_seeds_are_distinct_everywhere() -> None:
    training, evaluation = hashed_seeds(3, "training", 5000), hashed_seeds(3, "evaluation", 5000)
    neighbour = hashed_seeds(4, "training", 5000)
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in training + evaluation)
    assert len(set(training)) == len(set(evaluation)) == 5000
    assert not set(training) & set(evaluation)
    assert len(set(training) & set(neighbour)) < 3  # about 0.02 by chance
    # Whatever the root seeds, no evaluation is ever a training episode: the lowest bit tells them apart.
    assert {seed % 2 for seed in training + neighbour} == {0}
    assert {seed % 2 for seed in evaluation} == {1}
    # Nor is an episode that `evaluate.py` plays ever one that chose the agent's policy in training.
    judging = hashed_seeds(3, "judging", 5000)
    assert len(set(judging)) == 5000 and all(type(seed) is int and 0 <= seed < 2**31 for seed in judging)
    assert {seed % 4 for seed in evaluation} == {1} and {seed % 4 for seed in judging} == {3}
    assert training[:3] == [1410963452, 220540690, 1845294960]  # those of earlier versions
    assert len(set(hashed_seeds(0, "training", 100_000))) == 100_000  # four or five of as many hashes collide
    assert max(training) > 0.99 * 2**31
    assert hashed_seeds(3, "training", 10) == training[:10]


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "max 100000"}, 64),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/host/name\n", {"cpu.max": "400000 100000"}, 4),
        ("3:cpu,cpuacct:/a\n0::/\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "500000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}, 5),
        ("1:cpu:/a\n0::/\n", {"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"}, 6),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("5:cpuset:/a\n", {"cpu/a/cpu.cfs_quota_us": "700000", "cpu/a/cpu.cfs_period_us": "100000"}, 64),
        (None, {"cpu.max": "100000 100000"}, 64),
    ],
)
def test_available_cpus_obey_quotas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str | None, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda _: range(64), raising=False)
    if membership is not None:
        (tmp_path / "membership").write_text(membership)
    for name, content in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(content + "\n")
    assert available_cpus(tmp_path / "cgroup", tmp_path / "membership") == expected


def test_available_cpus_obey_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert available_cpus() == 1
