"""What bfloat16 changes: losses and gradients of the same batches and parameters in both precisions.

    python -m benchmarks.precision --config=configs/zaxxon.py [--config.NAME=VALUE ...] [--updates=20] [--batches=4] [--json=FILE]

The replay is overwritten by real acts first and the learner makes so many updates in float32; then losses and gradients of the Q-networks
are computed in float32 and in bfloat16, over several batches. Torso, dense layers and LSTM are what `precision.compute` applies to; heads,
targets, losses and optimisers are float32 in both.
"""

from typing import Any

from absl import flags

from agent57_jax import config
from agent57_jax.commands import command_line
from agent57_jax.config import Precision, Settings
from benchmarks import options

_CONFIG = options.config()
_UPDATES = flags.DEFINE_integer("updates", 20, "updates before the comparison", lower_bound=0)
_BATCHES = flags.DEFINE_integer("batches", 4, "batches that are compared", lower_bound=1)
_JSON = options.json()


def main() -> None:
    """Compares, prints the table, writes the record."""
    settings = command_line.complete_settings(_CONFIG.value)
    command_line.prepare_jax(whole_device=True)

    from agent57_jax.parallel import DeviceError
    from benchmarks import reports

    try:
        rows = compared(settings)
    except (config.SettingsError, DeviceError, OSError) as error:
        command_line.fail(str(error))
    lines = [("what", "float32", "relative error of bfloat16, mean", "largest")]
    lines += [(row["what"], reports.readable(row["float32"]), f"{row['mean']:.2%}", f"{row['largest']:.2%}") for row in rows]
    print(reports.aligned(lines))
    reports.write_json(_JSON.value, "precision", {"updates": _UPDATES.value, "batches": _BATCHES.value, "rows": rows}, settings)


def compared(settings: Settings) -> list[dict[str, Any]]:
    """A row for each loss and for the gradient of each part of each Q-network: size in float32, relative error over the batches."""
    import jax
    import numpy as np

    from agent57_jax import parallel
    from agent57_jax.agent import programs, replay
    from agent57_jax.agent.learner import Learner, LearnerState
    from agent57_jax.agent.replay import ReplayState
    from benchmarks import parts

    run = parts.Parts(config.changed(settings, {"precision.compute": Precision.FLOAT32.value}))
    half = programs.build(config.changed(settings, {"precision.compute": Precision.BFLOAT16.value}), run.spec).learner
    for _ in range(run.store.capacity_per_env * run.settings.environment.num_groups):
        run.act()
    for _ in range(_UPDATES.value):
        run.learn()

    def both(state: LearnerState, store: ReplayState, root: jax.Array, counter: jax.Array) -> Any:
        key = jax.random.fold_in(parallel.fold_counter(root, programs.SAMPLE_STREAM, counter), jax.lax.axis_index(parallel.AXIS))
        batch = run.store.sample(store, key, run.settings.learner.batch_size // run.mesh.size)

        def one(learner: Learner) -> Any:
            gradients, (_, metrics, _) = jax.grad(learner.loss, has_aux=True)(state.parameters, state, batch)
            losses = {name: metrics[f"loss/{name}"] for name in learner.value_loss.loss_names}
            return parallel.sum_over_devices((losses, gradients.q))

        return one(run.parts.learner), one(half)

    everywhere = parallel.REPLICATED
    compare = parallel.sharded(both, run.mesh, (everywhere, replay.SPECS, everywhere, everywhere), everywhere)
    found: dict[str, list[tuple[float, float]]] = {}
    for counter in range(_BATCHES.value):
        number = np.uint32(run.counters.updates + counter)
        (losses, gradients), (half_losses, half_gradients) = jax.device_get(compare(run.learner, run.replay, run.root, number))
        for v, name in enumerate(run.parts.learner.value_loss.loss_names):
            error = abs(half_losses[name] - losses[name]) / abs(losses[name])
            found.setdefault(f"loss, {name}", []).append((float(losses[name]), float(error)))
            for part in ("encoder", "recurrent", "heads"):
                exact, rounded = (
                    np.concatenate([np.ravel(leaf[v]) for leaf in jax.tree.leaves(tree[part])]).astype(np.float64)
                    for tree in (gradients, half_gradients)
                )
                size = float(np.linalg.norm(exact))
                found.setdefault(f"gradient, {name}, {part}", []).append((size, float(np.linalg.norm(rounded - exact)) / size))
    run.close()
    return [
        {
            "what": what,
            "float32": float(np.mean([size for size, _ in pairs])),
            "mean": float(np.mean([error for _, error in pairs])),
            "largest": float(np.max([error for _, error in pairs])),
        }
        for what, pairs in found.items()
    ]


if __name__ == "__main__":
    command_line.run(main)
