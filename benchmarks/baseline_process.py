"""The PyTorch reference in a process of its own, told what to do line by line: the two libraries' threads never run at the same time."""

import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Any

from agent57_jax.config import Settings
from agent57_jax.types import EnvironmentSpec


class BaselineError(RuntimeError):
    """The reference cannot run; the message says why."""


class Baseline:
    """An actor and a learner of the settings' sizes in PyTorch."""

    def __init__(self, settings: Settings, spec: EnvironmentSpec, fill: int) -> None:
        """`fill`: embeddings in each episodic memory.

        Raises:
          BaselineError: if PyTorch is missing.
        """
        network, novelty = settings.network, settings.novelty
        sizes = {
            "image_shape": list(spec.observation_shape),
            "conv_features": list(network.conv_features),
            "conv_kernels": list(network.conv_kernels),
            "conv_strides": list(network.conv_strides),
            "num_actions": spec.num_actions,
            "num_policies": settings.policy.num_policies,
            "lstm_size": network.lstm_size,
            "torso_size": network.torso_size,
            "head_size": network.head_size,
            "embedding_size": novelty.embedding_size,
            "inverse_hidden_size": novelty.inverse_hidden_size,
            "distillation_size": novelty.distillation_size,
            "num_neighbours": novelty.num_neighbours,
            "memory_capacity": novelty.memory_capacity,
            "train_timesteps": novelty.train_timesteps,
            "batch_size": settings.learner.batch_size,
            "trace": settings.replay.trace,
        }
        threads = len(os.sched_getaffinity(0))
        self._rows = settings.envs_per_group
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.baselines.torch_agent57", f"--threads={threads}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask({"make": "actor", "num_envs": self._rows, "fill": fill, **sizes})
        self._ask({"make": "learner", **sizes})

    def act(self) -> float:
        """One act; agent steps."""
        self._ask({"run": "actor", "times": 1})
        return float(self._rows)

    def update(self) -> float:
        """One update; updates."""
        self._ask({"run": "learner", "times": 1})
        return 1.0

    def __enter__(self) -> "Baseline":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; what follows says so
        line = self._process.stdout.readline()
        answer: dict[str, Any] = (
            json.loads(line) if line else {"error": "it ended (is PyTorch there? pip install -r requirements-bench.txt)"}
        )
        if "error" in answer:
            raise BaselineError(f"the PyTorch reference: {answer['error']}")
        return answer
