"""How long a start spends on tracing and compiling all programs of a run. `benchmarks.throughput --parts=compile` calls it twice.

    python -m benchmarks.compile_time --config=configs/zaxxon.py

Prints one line of JSON: the seconds by stage, and in all. Replay and fleet may be small: that changes little in how long programs compile.
"""

import collections
import json
import time

from agent57_jax import command_line
from benchmarks import options

_CONFIG = options.config()


def main() -> None:
    """Builds a run's programs and calls each once."""
    settings = command_line.complete_settings(_CONFIG.value)
    command_line.prepare_jax(whole_device=False)

    import jax

    from agent57_jax import evaluator
    from agent57_jax.environments import factory
    from agent57_jax.learner import acting_parameters
    from benchmarks import parts

    stages: dict[str, float] = collections.defaultdict(float)

    def add(event: str, duration_secs: float, **kwargs: str | int) -> None:
        stages[event] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(add)
    start = time.perf_counter()
    run = parts.Parts(settings)
    run.act()
    run.learn()
    environment = (
        factory.make_host_environment(settings.environment, settings.evaluation.num_envs, settings.seed, "evaluation")
        if settings.is_host_environment
        else factory.make_jax_environment(settings.environment)
    )
    judge = evaluator.Evaluator(run.parts.evaluation_actor, environment, settings.evaluation.num_envs, run.root)
    assert run.driver is not None
    judge.step(acting_parameters(run.learner), run.driver.shared.statistics)
    elapsed = time.perf_counter() - start
    judge.close()
    run.close()
    names = {
        "/jax/core/compile/jaxpr_trace_duration": "tracing",
        "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
        "/jax/core/compile/backend_compile_duration": "compiling or reading the cache",
    }
    found = {label: stages[name] for name, label in names.items()}
    print(
        json.dumps(
            {"seconds": round(sum(found.values()), 3), "stages": {k: round(v, 3) for k, v in found.items()}, "start": round(elapsed, 3)}
        )
    )


if __name__ == "__main__":
    command_line.run(main)
