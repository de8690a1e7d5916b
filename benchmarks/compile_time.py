"""Prints how long a start spends on tracing and compiling all programs of a run, as one line of JSON: seconds by stage, and in all.

    python -m benchmarks.compile_time --config=configs/zaxxon.py

`benchmarks.throughput --parts=compile` calls it twice. Replay and fleet may be small: they hardly change how long programs compile.
"""

import json
import time

from agent57_jax.commands import command_line
from benchmarks import options

_CONFIG = options.config()


def main() -> None:
    """Builds a run's programs and calls each once."""
    settings = command_line.complete_settings(_CONFIG.value)
    command_line.prepare_jax(whole_device=False)

    from agent57_jax.agent.learner import acting_parameters
    from agent57_jax.environments import factory
    from agent57_jax.training import evaluator
    from benchmarks import measure, parts

    clock = measure.CompileClock()
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
    stages = clock.stages()
    print(json.dumps({"seconds": round(sum(stages.values()), 3), "stages": stages, "start": round(elapsed, 3)}))


if __name__ == "__main__":
    command_line.run(main)
