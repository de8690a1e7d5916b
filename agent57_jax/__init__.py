"""Agent57 and its family on one machine.

    import agent57_jax as a57

    settings = a57.settings("random_coin:smoke", {"seed": 1})
    a57.train(settings, "runs/coin")
    run = a57.open_run("runs/coin")
    run.metrics(), run.evaluate(episodes=20), run.play()

Names are imported on first use, and JAX with the first one that needs it. JAX then shares a GPU's memory with other programs unless
XLA_CLIENT_MEM_FRACTION and XLA_PYTHON_CLIENT_PREALLOCATE are set before. Invalid settings raise SettingsError (a ValueError), failed runs
RunError (a RuntimeError); the messages say what to do.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent57_jax.config import Settings, SettingsError
    from agent57_jax.interface import Run, open_run, train
    from agent57_jax.presets import settings
    from agent57_jax.training.shutdown import Shutdown
    from agent57_jax.training.trainer import TrainingError
    from agent57_jax.types import RunError

__all__ = ["Run", "RunError", "Settings", "SettingsError", "Shutdown", "TrainingError", "open_run", "settings", "train"]

_LIGHT = {"Settings": "config", "SettingsError": "config", "settings": "presets"}  # do not import JAX
_MODULES = _LIGHT | {
    "Run": "interface",
    "open_run": "interface",
    "train": "interface",
    "Shutdown": "training.shutdown",
    "TrainingError": "training.trainer",
    "RunError": "types",
}

if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name not in _LIGHT:
            importlib.import_module(f"{__name__}.commands.command_line").prepare_jax(whole_device=False)
        globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
