"""The PyTorch reference in a process of its own, told what to do line by line: the two libraries' threads never run at the same time."""

import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Any

import jax

from agent57_jax.config import Bootstrap, Embedding, IntrinsicReward, NormalisedErrors, Precision, Settings, Targets, Torso
from agent57_jax.types import EnvironmentSpec


class BaselineError(RuntimeError):
    """The reference cannot run; the message says why."""


def _beyond_the_reference(settings: Settings) -> str | None:
    """What the settings have that the reference has not: comparing them would be comparing different work."""
    found = {
        "no intrinsic reward of episodic novelty": settings.novelty.reward is not IntrinsicReward.NGU,
        "an embedding that is not learnt": settings.novelty.embedding is not Embedding.LEARNT,
        "one network": not settings.policy.separate_networks,
        "a shared torso": settings.network.shared_torso,
        "other targets than Retrace's": settings.learner.targets is not Targets.RETRACE,
        "normalised errors": settings.learner.normalise_errors is not NormalisedErrors.NOWHERE,
        "heads per policy": settings.network.policy_heads,
        "an online bootstrap": settings.learner.bootstrap is not Bootstrap.TARGET,
        "one loss for both values": settings.learner.combined_loss,
        "a distilled policy": settings.learner.distil_policy,
        "a burn-in": settings.replay.burn_in > 0,
        "a dense torso": settings.network.torso is not Torso.CONVOLUTIONS,
        "another precision": settings.precision.compute is not Precision.FLOAT32,
        "several devices": settings.num_devices not in (None, 1),
        "another device than the CPU": jax.default_backend() != "cpu",
    }
    return next((name for name, is_so in found.items() if is_so), None)


class Baseline:
    """An actor and a learner of the settings' sizes in PyTorch."""

    def __init__(self, settings: Settings, spec: EnvironmentSpec, fill: int) -> None:
        """`fill`: embeddings in each episodic memory.

        Raises:
          BaselineError: if PyTorch is missing, or for settings that it has no counterpart of.
        """
        other = _beyond_the_reference(settings)
        if other:
            raise BaselineError(
                f"the PyTorch reference is Agent57 in float32 on a CPU; these settings have {other}: leave out the part baseline"
            )
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
        try:
            self._ask({"make": "actor", "num_envs": self._rows, "fill": fill, **sizes})
            self._ask({"make": "learner", **sizes})
        except BaselineError:
            self._end()
            raise

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
        self._end()

    def _end(self) -> None:
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
