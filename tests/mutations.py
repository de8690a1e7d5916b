"""Breaks the algorithm on purpose, one line at a time, and shows which tests see it.

    python -m tests.mutations [--only=PART_OF_A_NAME] [--unit] [--workers=2] [--write=docs/mutations.md]

Every mutation is made in a copy of the project; the learning test and the unit tests beside it are run there, and at least one of them has
to fail; unbroken, all of them have to pass. Exit code 1 if a mutation survives, 2 if a line to be broken is no longer there.
"""

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPIED = ("agent57_jax", "configs", "tests", "pyproject.toml", "train.py", "evaluate.py")
LEARNING = "tests/test_learning.py"


class Mutation(NamedTuple):
    """One line, broken."""

    name: str
    path: str
    line: str  # a part of exactly one line of the file
    broken: str  # what stands there instead
    tests: tuple[str, ...]  # unit tests that are to see it


class Verdict(NamedTuple):
    """What the tests said to a mutation."""

    mutation: Mutation
    learning: str  # the first test that failed, or "passes"
    unit: str
    seconds: float

    @property
    def caught(self) -> bool:
        """Whether a test failed."""
        return self.learning not in (PASSES, NOT_RUN) or self.unit != PASSES


PASSES, NOT_RUN = "passes", "not run"
HEAD = """# Mutation tests

`python -m tests.mutations --write=docs/mutations.md` breaks one line of the algorithm at a time, runs the unit tests and the learning test
(`tests/test_learning.py`), and writes this page. All of these tests pass on the unbroken code. Each cell names the first test that fails.
`--unit` leaves the learning test out, which takes most of the time.
"""

MUTATIONS = (
    Mutation(
        "sign of the intrinsic reward",
        "agent57_jax/algorithm/intrinsic_reward.py",
        "return episodic * jnp.clip(alpha, 1.0, max_factor)",
        "return -episodic * jnp.clip(alpha, 1.0, max_factor)",
        ("tests/algorithm/test_intrinsic_reward.py", "tests/test_actor.py"),
    ),
    Mutation(
        "episodic memory is not reset at FIRST",
        "agent57_jax/agent/novelty.py",
        "memory = episodic_novelty.reset_memory(memory, is_first)",
        "memory = episodic_novelty.reset_memory(memory, is_first & False)",
        ("tests/test_actor.py",),
    ),
    Mutation(
        "recurrent state is not reset at FIRST",
        "agent57_jax/networks/lstm.py",
        "return jnp.where(keep[None, ..., None], state, 0.0)",
        "return jnp.where(keep[None, ..., None] | True, state, 0.0)",
        ("tests/networks/test_q_network.py",),
    ),
    Mutation(
        "Retrace without traces",
        "agent57_jax/algorithm/retrace.py",
        "trace = jnp.where(valid, coefficients, 0.0)",
        "trace = jnp.where(valid, 0.0 * coefficients, 0.0)",
        ("tests/algorithm/test_retrace.py",),
    ),
    Mutation(
        "Retrace traces that are not cut",
        "agent57_jax/algorithm/retrace.py",
        "trace_lambda * jnp.minimum(1.0, pi_a / behaviour_probabilities)",
        "trace_lambda * jnp.ones_like(pi_a / behaviour_probabilities)",
        ("tests/algorithm/test_retrace.py",),
    ),
    Mutation(
        "soft Watkins cuts as hard as Watkins",
        "agent57_jax/algorithm/retrace.py",
        "good_enough = taken >= action_values - tolerance * jnp.abs(action_values)",
        "good_enough = taken >= action_values",
        ("tests/algorithm/test_retrace.py", "tests/test_learner.py"),
    ),
    Mutation(
        "no discount at termination",
        "agent57_jax/agent/value_loss.py",
        "discounts = return_discounts(gamma, x.discount[:, 1:], len(self.loss_names)",
        "discounts = return_discounts(gamma, jnp.ones_like(x.discount[:, 1:]), len(self.loss_names)",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "the extrinsic return outlasts the episode too",
        "agent57_jax/algorithm/intrinsic_reward.py",
        "ends if v == 0 or ends_with_episode else",
        "ends if ends_with_episode else",
        ("tests/algorithm/test_intrinsic_reward.py",),
    ),
    Mutation(
        "all policies share one scale of errors",
        "agent57_jax/algorithm/error_scale.py",
        "belongs = jax.nn.one_hot(policy, num_policies)",
        "belongs = jax.nn.one_hot(0 * policy, num_policies)",
        ("tests/algorithm/test_error_scale.py",),
    ),
    Mutation(
        "the trust region holds steps back to it",
        "agent57_jax/algorithm/trust_region.py",
        "(drift * (target - value) > 0.0)",
        "(drift * (target - value) < 0.0)",
        ("tests/algorithm/test_trust_region.py", "tests/test_learner.py"),
    ),
    Mutation(
        "returns are bootstrapped from the target network all the same",
        "agent57_jax/agent/value_loss.py",
        "if self.settings.bootstrap is Bootstrap.ONLINE else target",
        "if self.settings.bootstrap is None else target",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "cross-mixture moves timesteps instead of sequences",
        "agent57_jax/algorithm/cross_mixture.py",
        "jax.random.randint(key_offset, (batch, 1), 1, num_policies)",
        "jax.random.randint(key_offset, policy.shape, 1, num_policies)",
        ("tests/algorithm/test_cross_mixture.py",),
    ),
    Mutation(
        "every policy counts alike in the mixture",
        "agent57_jax/algorithm/cross_mixture.py",
        "return jnp.where(own, 1.0 - share, share / (num_policies - 1))",
        "return jnp.where(own, 1.0 / num_policies, 1.0 / num_policies)",
        ("tests/algorithm/test_cross_mixture.py",),
    ),
    Mutation(
        "a sequence's priority is that of policy 0",
        "agent57_jax/agent/value_loss.py",
        "acted[None, None], axis=1)[:, 0]",
        "0 * acted[None, None], axis=1)[:, 0]",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "the combined value learns the extrinsic reward alone",
        "agent57_jax/agent/value_loss.py",
        "rewards = rewards_of_values(x.extrinsic_reward[:, 1:], intrinsic, beta[:, :-1]",
        "rewards = rewards_of_values(x.extrinsic_reward[:, 1:], intrinsic, 0.0 * beta[:, :-1]",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "a policy that changed much is distilled all the same",
        "agent57_jax/algorithm/policy_distillation.py",
        "is_near = ~(divergence > kl_limit)",
        "is_near = ~(divergence > kl_limit) | True",
        ("tests/algorithm/test_policy_distillation.py",),
    ),
    Mutation(
        "the weight of the intrinsic loss falls on both",
        "agent57_jax/agent/value_loss.py",
        "jnp.asarray((1.0, self.settings.intrinsic_loss_weight)",
        "jnp.asarray((self.settings.intrinsic_loss_weight,) * 2",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "values begin at full scale",
        "agent57_jax/networks/q_network.py",
        "variance_scaling(self.settings.output_scale**2",
        "variance_scaling(1.0",
        ("tests/networks/test_q_network.py",),
    ),
    Mutation(
        "the distilled policy trains the torso",
        "agent57_jax/networks/q_network.py",
        "x = jax.lax.stop_gradient(x if self.settings.policy_heads else x[0])",
        "x = x if self.settings.policy_heads else x[0]",
        ("tests/networks/test_q_network.py",),
    ),
    Mutation(
        "targets are about the greedy policy of the values",
        "agent57_jax/agent/value_loss.py",
        "return jax.lax.stop_gradient(tempered_policy(logits[0], self.settings.policy_temperature))",
        "return epsilon_greedy_probabilities(combined, jnp.float32(self.settings.target_epsilon))",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "actors follow the values instead of the distilled policy",
        "agent57_jax/agent/actor.py",
        "preferred = outputs[-1] if self.q_network.has_policy else combined",
        "preferred = combined",
        ("tests/test_actor.py",),
    ),
    Mutation(
        "priorities are not written back",
        "agent57_jax/agent/programs.py",
        "store = self.store.write_priorities(store, sequence, out.priorities)",
        "self.store.write_priorities(store, sequence, out.priorities)",
        ("tests/test_programs.py",),
    ),
    Mutation(
        "target network is never copied",
        "agent57_jax/agent/learner.py",
        "target_q = every(self.settings.target_period_updates, parameters.q, state.target_q)",
        "target_q = state.target_q",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "a target network that is an average moves although the update is not finite",
        "agent57_jax/agent/learner.py",
        "target_q = _mixed(state.target_q, parameters.q, jnp.where(finite, 1.0 - self.settings.target_rate, 1.0))",
        "target_q = _mixed(state.target_q, parameters.q, jnp.float32(1.0 - self.settings.target_rate))",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "weights decay at the first learning rate",
        "agent57_jax/agent/adam.py",
        "lambda change, old: change - rate * self.weight_decay * old",
        "lambda change, old: change - self.learning_rate * self.weight_decay * old",
        ("tests/test_adam.py",),
    ),
    Mutation(
        "j is not fed to the network",
        "agent57_jax/networks/q_network.py",
        "jax.nn.one_hot(inputs.policy, self.num_policies),",
        "jax.nn.one_hot(0 * inputs.policy, self.num_policies),",
        ("tests/networks/test_q_network.py",),
    ),
    Mutation(
        "gradients flow through the burn-in",
        "agent57_jax/networks/q_network.py",
        "self._unroll(*jax.lax.stop_gradient((pair, state, before)))",
        "self._unroll(pair, state, before)",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "target networks take over the online networks' state from the burn-in",
        "agent57_jax/networks/q_network.py",
        "states = hidden, cell",
        "states = [hidden[0]] * 2, [cell[0]] * 2",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "a squashed mix is a plain one",
        "agent57_jax/agent/value_loss.py",
        "mix = SQUASHED if self.combination is Combination.SQUASHED else None",
        "mix = None",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "importance weights are not used",
        "agent57_jax/agent/value_loss.py",
        "* weight[None]",
        "* jnp.ones_like(weight)[None]",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "single instead of double Q-learning",
        "agent57_jax/algorithm/n_step.py",
        "greedy = jnp.argmax(online_action_values, axis=-1)",
        "greedy = jnp.argmax(target_action_values, axis=-1)",
        ("tests/algorithm/test_n_step.py",),
    ),
    Mutation(
        "border LAST -> FIRST counts as experience",
        "agent57_jax/agent/value_loss.py",
        "valid = ~is_first[:, 1:]  # [B, T]",
        "valid = ~is_first[:, 1:] | True  # [B, T]",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "embedding is not refreshed for the actors",
        "agent57_jax/agent/learner.py",
        'acting_embedding=every(1, parameters.embedding["embedding"], state.acting_embedding)',
        "acting_embedding=state.acting_embedding",
        ("tests/test_learner.py",),
    ),
    Mutation(
        "embedding changes within an episode",
        "agent57_jax/agent/novelty.py",
        "is_new = generation == embeddings.number",
        "is_new = generation >= 0",
        ("tests/test_acting_embeddings.py",),
    ),
    Mutation(
        "the LSTM's gradient crosses a border",
        "agent57_jax/networks/lstm.py",
        "return (_reset(d_hidden, keep_now), _reset(d_cell * forget, keep_now), _put(all_d_gates, d_gates, t)), None",
        "return (_reset(d_hidden, keep_now), d_cell * forget, _put(all_d_gates, d_gates, t)), None",
        ("tests/networks/test_lstm.py",),
    ),
    Mutation(
        "an actor's error one transition late",
        "agent57_jax/agent/replay.py",
        "slots = (index - jnp.arange(self.settings.trace)) % self.capacity_per_env",
        "slots = (index - 1 - jnp.arange(self.settings.trace)) % self.capacity_per_env",
        ("tests/test_replay.py",),
    ),
    Mutation(
        "a lucky episode wins",
        "agent57_jax/algorithm/meta_controller.py",
        "bound = arms.means - arms.deviation * jnp.sqrt(1.0 / jnp.maximum(arms.counts, 1.0))",
        "bound = arms.means - 0.0 * arms.deviation * jnp.sqrt(1.0 / jnp.maximum(arms.counts, 1.0))",
        ("tests/algorithm/test_meta_controller.py",),
    ),
    Mutation(
        "gradient of a convolution without its ReLU",
        "agent57_jax/networks/convolutions.py",
        "d = jnp.where(outputs[level] > 0, d, 0)",
        "d = jnp.where((outputs[level] > 0) | True, d, 0)",
        ("tests/networks/test_convolutions.py",),
    ),
)


def broken_source(mutation: Mutation, source: str) -> str:
    """The file with the line broken.

    Raises:
      ValueError: if the line is not there exactly once.
    """
    if source.count(mutation.line) != 1:
        raise ValueError(f"'{mutation.name}': {mutation.path} has {source.count(mutation.line)} times '{mutation.line}', expected once")
    return source.replace(mutation.line, mutation.broken)


def run_tests(folder: pathlib.Path, tests: tuple[str, ...]) -> str:
    """Name and message of the first test that fails in the folder, or PASSES."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-rfE", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return PASSES
    failed = [line.split(" ", 1)[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if not failed:
        raise RuntimeError(f"pytest ended with {done.returncode} and names no test:\n{done.stdout}\n{done.stderr}")
    return failed[0]


@contextlib.contextmanager
def copied_project() -> Iterator[pathlib.Path]:
    """A copy of the project in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for part in COPIED:
            source = ROOT / part
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / part)
        yield folder


def first_failure_unbroken(chosen: Sequence[Mutation], with_learning: bool) -> str:
    """The first test that fails in a copy without a mutation, or PASSES: only what passes there can see a mutation."""
    with copied_project() as folder:
        return run_tests(folder, (*sorted({test for mutation in chosen for test in mutation.tests}), *[LEARNING] * with_learning))


def judge(mutation: Mutation, with_learning: bool) -> Verdict:
    """Runs the tests in a copy of the project with the mutation."""
    started = time.monotonic()
    with copied_project() as folder:
        path = folder / mutation.path
        path.write_text(broken_source(mutation, path.read_text()))
        unit = run_tests(folder, mutation.tests)
        learning = run_tests(folder, (LEARNING,)) if with_learning else NOT_RUN
    return Verdict(mutation, learning, unit, time.monotonic() - started)


def name_of_test(result: str) -> str:
    """The test alone: tests/test_a.py::test_b[c] - message -> test_b[c]."""
    return result.partition(" - ")[0].rpartition("::")[2]


def table(verdicts: list[Verdict]) -> str:
    """Markdown."""
    rows = ["| broken on purpose | file | unit tests | learning test |", "|---|---|---|---|"]
    for mutation, learning, unit, _ in verdicts:
        cells = [
            mutation.name,
            mutation.path.removeprefix("agent57_jax/"),
            *(result if result in (PASSES, NOT_RUN) else f"`{name_of_test(result)}`" for result in (unit, learning)),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Breaks what the arguments name and prints the table."""
    parser = argparse.ArgumentParser(description="Break one line at a time and expect a red test.")
    parser.add_argument("--only", default="", help="part of the names of the mutations to try")
    parser.add_argument("--unit", action="store_true", help="run the unit tests alone")
    parser.add_argument("--workers", type=int, default=1, help="mutations tried at the same time; each has threads of its own")
    parser.add_argument("--write", type=pathlib.Path, help="file for the table")
    arguments = parser.parse_args()
    if arguments.unit and arguments.write:
        parser.error("--unit has no result for the page that --write writes: give one of them")
    chosen = [mutation for mutation in MUTATIONS if arguments.only in mutation.name]
    if not chosen:
        parser.error(f"no mutation has '{arguments.only}' in its name")
    try:
        for mutation in MUTATIONS:
            broken_source(mutation, (ROOT / mutation.path).read_text())
    except ValueError as error:
        parser.error(str(error))
    failure = first_failure_unbroken(chosen, not arguments.unit)
    if failure != PASSES:
        parser.error(f"without any mutation {failure} fails: mend that first")
    verdicts: list[Verdict] = []
    with concurrent.futures.ThreadPoolExecutor(max(1, arguments.workers)) as pool:
        for verdict in pool.map(lambda mutation: judge(mutation, not arguments.unit), chosen):
            verdicts.append(verdict)
            name, learning, unit = verdict.mutation.name, verdict.learning, verdict.unit
            print(f"{name}: unit tests {unit}; learning test {learning} ({verdict.seconds:.0f} s)", flush=True)
            if arguments.write:
                arguments.write.write_text(f"{HEAD}\n{table(verdicts)}\n")
    print(table(verdicts))
    survivors = [verdict.mutation.name for verdict in verdicts if not verdict.caught]
    if survivors:
        sys.exit(f"no test saw: {', '.join(survivors)}")


if __name__ == "__main__":
    main()
