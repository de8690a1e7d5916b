"""Twin of the learner: losses, priorities and Adam in NumPy float64, written from the formulas (NGU App. E, Agent57 §3.1).

Networks have the dense torso. Parameter trees are those of the package, with leaves of any float type; batches are its records.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from agent57_jax.config import Bootstrap, Combination, NormalisedErrors, Settings, Targets, Transform
from agent57_jax.types import FIRST, Batch, Experience, RecurrentState
from tests.oracles import (
    error_scale,
    n_step,
    policy_distillation,
    policy_family,
    retrace,
    sequence_priority,
    trust_region,
    value_transform,
)
from tests.oracles.q_network import dense, has_policy_heads, relu, torso, unroll

Tree = Any


def to_float64(tree: Tree) -> Tree:
    """A copy of nested dicts of arrays with float64 leaves; None, for what an agent lacks, stays."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {name: to_float64(part) for name, part in tree.items()}
    return np.array(tree, np.float64)


def leaves(tree: Tree) -> list[tuple[str, np.ndarray]]:
    """Names and arrays of nested dicts; writing into an array changes the tree."""
    if isinstance(tree, dict):
        return [(f"{name}/{path}".rstrip("/"), leaf) for name in sorted(tree) for path, leaf in leaves(tree[name])]
    return [("", tree)]


def unrolled(
    q: Tree, state: RecurrentState, x: Experience, num_policies: int, logarithmic_rewards: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What networks q give along sequences, and the state behind them; A is read from the last layer of the advantages."""
    previous = np.concatenate([state.previous_action[:, None], x.action[:, :-1]], axis=1)
    inputs = x.observation, previous, x.extrinsic_reward, x.intrinsic_reward, x.policy, x.step_type == FIRST
    num_actions = int(q["heads"]["Dense_2"]["bias"].shape[-1]) // (num_policies if has_policy_heads(q) else 1)
    return unroll(q, state.hidden, state.cell, *inputs, num_actions, num_policies, logarithmic_rewards)


def map_fields(function: Callable[[np.ndarray], np.ndarray], x: Experience) -> Experience:
    """The experience with every field that it has changed."""
    return Experience(*(None if field is None else function(field) for field in x))


def behind_burn_in(q: Tree, batch: Batch, length: int, num_policies: int) -> Batch:
    """The batch without its first `length` timesteps, and the state to which these bring the networks q (R2D2 §3)."""
    if length == 0:
        return batch
    before, after = (map_fields(lambda field, part=part: field[:, part], batch.experience) for part in (slice(length), slice(length, None)))
    _, hidden, cell = unrolled(q, batch.recurrent_state, before, num_policies)
    return batch._replace(experience=after, recurrent_state=RecurrentState(hidden, cell, before.action[:, -1]))


def at_actions(values: np.ndarray, x: Experience) -> np.ndarray:
    """[V, B, T + 1, A] -> [V, B, T] of the actions taken."""
    actions = np.asarray(x.action)[None, :, :-1, None]
    return np.take_along_axis(values[:, :, :-1], np.broadcast_to(actions, (*values.shape[:2], actions.shape[2], 1)), axis=3)[..., 0]


def embed(embedding: Tree, observation: np.ndarray) -> np.ndarray:
    """f(x) of the part "embedding" of the embedding network: [..., size] -> [..., D]."""
    return relu(dense(embedding["Dense_0"], torso(embedding["Dense_1"], observation)))


def distillation_error(predictor: Tree, target: Tree, observation: np.ndarray) -> np.ndarray:
    """||g^(x) - g(x)||^2: [..., size] -> [...]."""

    def features(parameters: Tree) -> np.ndarray:
        return dense(parameters["Dense_0"], torso(parameters["Dense_1"], observation))

    return np.sum((features(predictor) - features(target)) ** 2, axis=-1)


def global_norm(tree: Tree) -> float:
    """Euclidean norm of all numbers of a tree."""
    return math.sqrt(math.fsum(float(np.sum(np.square(leaf))) for _, leaf in leaves(tree)))


class LearnerTwin:
    """The losses of a family with these betas and gammas.

    `error_variance` [V, N] is the running one before the update, if errors are normalised. With cross-mixture every sequence trains all
    policies: rows are then pairs of a policy and a sequence, and `acted` [B, T + 1] are the policies that acted.
    """

    def __init__(
        self, settings: Settings, betas: np.ndarray, gammas: np.ndarray, error_variance: np.ndarray | None, acted: np.ndarray
    ) -> None:
        self.s, self.train_timesteps, self.eta = settings.learner, settings.novelty.train_timesteps, settings.replay.eta
        self.ends_with_episode = settings.novelty.ends_with_episode
        self.squashed_mix = settings.policy.combination is Combination.SQUASHED
        self.betas, self.gammas = np.asarray(betas, np.float64), np.asarray(gammas, np.float64)
        self.error_variance = None if error_variance is None else error_variance.astype(np.float64)
        self.acted = acted if self.s.cross_mixture else None

    def rows(self, batch: Batch) -> Batch:
        """What has a loss: the sequences, or all pairs of a policy and a sequence."""
        if self.acted is None:
            return batch
        x, number = batch.experience, len(self.betas)
        tiled = map_fields(lambda field: np.concatenate([field] * number), x)
        policy = np.concatenate([np.full_like(x.policy, n) for n in range(number)])
        return batch._replace(experience=tiled._replace(policy=policy), importance_weight=np.tile(batch.importance_weight, number))

    def prepared(self, outputs: np.ndarray, x: Experience) -> tuple[np.ndarray, np.ndarray | None]:
        """Values with a loss [L, rows, T + 1, A] and logits [rows, T + 1, A] from outputs [R, B, T + 1, (N,) A] of the networks."""
        if outputs.ndim == 5:
            batch = outputs.shape[1]
            rows = np.zeros((outputs.shape[0], *x.policy.shape, outputs.shape[-1]))
            for row, t in np.ndindex(x.policy.shape):
                rows[:, row, t] = outputs[:, row % batch, t, int(x.policy[row, t])]
            outputs = rows
        logits, values = (outputs[-1], outputs[:-1]) if self.s.distil_policy else (None, outputs)
        if self.s.combined_loss:
            values = self.combined_values(values, x.policy)[None]
        return values, logits

    def shares(self, num_rows: int, length: int) -> np.ndarray:
        """[rows, T]: what a transition counts in a mean over the rows, relative to one that trains its own policy alone."""
        result = np.ones((num_rows, length))
        if self.acted is not None:
            number, batch = len(self.betas), len(self.acted)
            for row, t in np.ndindex(result.shape):
                is_own = self.acted[row % batch, t] == row // batch
                result[row, t] = number * (1.0 - self.s.cross_mixture if is_own else self.s.cross_mixture / (number - 1))
        return result

    def target_policy(self, combined: np.ndarray, logits: np.ndarray | None) -> np.ndarray:
        """Probabilities [T + 1, A] of the policy that is learnt about, of one stream."""
        if logits is not None:
            return np.array([policy_distillation.policy(row, self.s.policy_temperature) for row in logits])
        return np.array([policy_family.epsilon_greedy_row(values, self.s.target_epsilon) for values in combined])

    def policy_loss(self, logits: np.ndarray, target_logits: np.ndarray, combined: np.ndarray, batch: Batch) -> tuple[float, float]:
        """Loss of the distilled policy, from its logits and the values [rows, T + 1, A]; the share where it is distilled."""
        valid, total, near = self.valid(batch.experience), 0.0, []
        shares = self.shares(*valid.shape)
        for row, t in np.ndindex(valid.shape):
            if valid[row, t]:
                given = logits[row, t], target_logits[row, t], combined[row, t], self.s.policy_epsilon, self.s.policy_kl_limit
                loss, is_near = policy_distillation.distillation_loss(*given)
                total += shares[row, t] * float(batch.importance_weight[row]) * loss
                near.append(is_near)
        return total / len(valid), float(np.mean(near))

    def valid(self, x: Experience) -> np.ndarray:
        """Which transitions [B, T] are experience: not those into the FIRST timestep of another episode."""
        return np.asarray(x.step_type)[:, 1:] != FIRST

    def combined(self, values: np.ndarray, policy: np.ndarray) -> np.ndarray:
        """Acting values [A] of one timestep from [V, A] under policy j."""
        if len(values) == 1:
            return values[0]
        mix = value_transform.combine_unsquashed if self.squashed_mix else value_transform.combine
        return np.array([mix(e, i, self.betas[int(policy)]) for e, i in zip(*values, strict=True)])

    def combined_values(self, values: np.ndarray, policy: np.ndarray) -> np.ndarray:
        """The same of all timesteps, [rows, T + 1, A] from [V, rows, T + 1, A]."""
        result = np.zeros(values.shape[1:])
        for row, t in np.ndindex(policy.shape):
            result[row, t] = self.combined(values[:, row, t], policy[row, t])
        return result

    def rewards(self, x: Experience, num_values: int) -> np.ndarray:
        """What each value function learns from, [V, B, T]; numbers at FIRST are not defined."""
        extrinsic = np.asarray(x.extrinsic_reward, np.float64)[:, 1:]
        if x.intrinsic_reward is None:
            return extrinsic[None]
        intrinsic = np.asarray(x.intrinsic_reward, np.float64)[:, 1:]
        if num_values == 2:
            return np.stack([extrinsic, intrinsic])
        return (extrinsic + self.betas[x.policy[:, :-1]] * intrinsic)[None]

    def coefficients(self, combined: np.ndarray, x: Experience, b: int, logits: np.ndarray | None = None) -> np.ndarray:
        """[T], those of the traces of one stream, from its combined values [T + 1, A], and the logits of a policy if there is one."""
        policy = self.target_policy(combined, logits)
        actions = x.action[b, :-1]
        if self.s.targets is Targets.SOFT_WATKINS:
            return retrace.soft_watkins_coefficients(combined, policy, actions, self.s.trace_lambda, self.s.trace_tolerance)
        return retrace.retrace_coefficients(policy, actions, x.behaviour_probability[b, :-1], self.s.trace_lambda)

    def targets(self, online: np.ndarray, target: np.ndarray, x: Experience, logits: np.ndarray | None = None) -> np.ndarray:
        """Targets [V, B, T] from values [V, B, T + 1, A] of the online and of the target network; NaN where n-step targets have none."""
        num_values, num_streams, length, _ = online.shape
        rewards, valid, gammas = self.rewards(x, num_values), self.valid(x), self.gammas[x.policy[:, :-1]]
        squashed = value_transform.squash, value_transform.unsquash
        transform = squashed if self.s.transform is Transform.SQUASHED else (value_transform.identity, value_transform.identity)
        bootstrap, combined = online if self.s.bootstrap is Bootstrap.ONLINE else target, self.combined_values(online, x.policy)
        result = np.zeros((num_values, num_streams, length - 1))
        for v, b in np.ndindex(num_values, num_streams):
            discounts = gammas[b] * (x.discount[b, 1:] if v == 0 or self.ends_with_episode else 1.0)
            given = rewards[v, b], discounts, valid[b]
            if self.s.targets is Targets.N_STEP:
                result[v, b] = n_step.n_step_targets(bootstrap[v, b], combined[b], *given, self.s.n_step, *transform)
                continue
            own_logits = None if logits is None else logits[b]
            policy, coefficients = self.target_policy(combined[b], own_logits), self.coefficients(combined[b], x, b, own_logits)
            result[v, b] = retrace.trace_targets(bootstrap[v, b], policy, x.action[b, :-1], coefficients, *given, *transform)
        return result

    def errors(self, online: np.ndarray, targets: np.ndarray, x: Experience) -> np.ndarray:
        """Targets minus values of the actions taken, [V, B, T]; 0 where a transition is no experience."""
        return np.where(self.valid(x)[None], targets - at_actions(online, x), 0.0)

    def held(self, online: np.ndarray, target: np.ndarray, targets: np.ndarray, x: Experience) -> np.ndarray:
        """Transitions [V, B, T] that the trust region keeps from being learnt from; in a loss they stay the same."""
        result, valid = np.zeros(targets.shape, bool), self.valid(x)
        if self.s.trust_region:
            value, anchor, radius = at_actions(online, x), at_actions(target, x), self.s.trust_region * self.scale(online, targets, x)
            for i in np.ndindex(result.shape):
                result[i] = valid[i[1:]] and trust_region.leaves_trust_region(value[i], anchor[i], targets[i], radius[i])
        return result

    def scale(self, online: np.ndarray, targets: np.ndarray, x: Experience) -> np.ndarray:
        """What losses and priorities divide the errors by, [V, B, T]; in a loss it is held constant."""
        errors, valid = self.errors(online, targets, x), self.valid(x)
        if self.error_variance is None:
            return np.ones(errors.shape)
        policy = np.asarray(x.policy)[:, :-1]
        return error_scale.error_scale(self.error_variance, errors, valid, policy, len(self.betas))[:, policy]

    def q_losses(
        self, online: np.ndarray, targets: np.ndarray, batch: Batch, scale: np.ndarray | None = None, held: np.ndarray | None = None
    ) -> np.ndarray:
        """[V]: 1/2 sum over time of squared errors, importance weighted, mean over the batch; `scale` holds that of the errors constant."""
        scale = self.scale(online, targets, batch.experience) if scale is None else scale
        errors = self.errors(online, targets, batch.experience) / (scale if self.s.normalise_errors is NormalisedErrors.EVERYWHERE else 1.0)
        errors = errors if held is None else np.where(held, 0.0, errors)
        weights = np.asarray(batch.importance_weight, np.float64)
        return 0.5 * np.mean(np.sum(self.shares(*errors.shape[1:]) * errors**2, axis=2) * weights[None], axis=1)

    def priorities(self, online: np.ndarray, targets: np.ndarray, x: Experience) -> np.ndarray:
        """[B], of e = e^extrinsic + beta_j e^intrinsic."""
        errors, valid = self.errors(online, targets, x) / self.scale(online, targets, x), self.valid(x)
        policy = np.asarray(x.policy) if self.acted is None else self.acted
        if self.acted is not None:  # of the policy that acted, among those that are trained
            batch = len(policy)
            own = [[errors[:, policy[b, t] * batch + b, t] for t in range(errors.shape[2])] for b in range(batch)]
            errors, valid = np.moveaxis(np.array(own), 2, 0), valid[:batch]
        result = []
        for b in range(len(valid)):
            mixed = [sequence_priority.mixed_error(errors[:, b, t], self.betas[int(policy[b, t])]) for t in range(errors.shape[2])]
            result.append(sequence_priority.sequence_priority(mixed, valid[b], self.eta))
        return np.array(result)

    def embedding_loss(self, parameters: Tree, x: Experience) -> tuple[float, float]:
        """Mean negative log-likelihood of the last actions with the L2 term, and the share that the best guess hits."""
        total, hits, count = 0.0, 0, 0
        inverse = parameters["inverse"]
        for b in range(len(x.action)):
            for t in range(x.action.shape[1] - 1 - self.train_timesteps, x.action.shape[1] - 1):
                if x.step_type[b, t + 1] == FIRST:
                    continue
                pair = np.concatenate([embed(parameters["embedding"], x.observation[b, s]) for s in (t, t + 1)])
                logits = dense(inverse["Dense_1"], relu(dense(inverse["Dense_0"], pair)))
                total += math.log(np.sum(np.exp(logits))) - logits[x.action[b, t]]
                hits += int(np.argmax(logits) == x.action[b, t])
                count += 1
        l2 = 0.5 * self.s.embedding_l2 * global_norm(parameters) ** 2
        return total / max(count, 1) + l2, hits / max(count, 1)

    def distillation_loss(self, predictor: Tree, random_target: Tree, x: Experience) -> float:
        """Mean error over the last timesteps."""
        return float(np.mean(distillation_error(predictor, random_target, x.observation[:, -self.train_timesteps :])))

    def metrics(
        self, online: np.ndarray, target: np.ndarray, targets: np.ndarray, batch: Batch, logits: np.ndarray | None = None
    ) -> dict[str, float]:
        """What the learner reports about its value functions, except gradient norms."""
        x, names = batch.experience, ("combined",) if self.s.combined_loss else ("extrinsic", "intrinsic")
        held = self.held(online, target, targets, x)
        errors, valid, losses = self.errors(online, targets, x), self.valid(x), self.q_losses(online, targets, batch, held=held)
        combined = self.combined_values(online, x.policy)
        greedy = np.argmax(combined if logits is None else logits, axis=-1)[:, :-1] == x.action[:, :-1]

        def mean(of_transitions: np.ndarray) -> float:
            return float(np.mean(of_transitions[valid]))

        result = {
            "learner/valid_share": float(np.mean(valid)),
            "learner/priority": float(np.mean(self.priorities(online, targets, x))),
            "learner/on_policy_share": mean(greedy),
        }
        if self.s.targets is not Targets.N_STEP:
            rows = range(len(valid))
            result["learner/trace"] = mean(
                np.array([self.coefficients(combined[b], x, b, None if logits is None else logits[b]) for b in rows])
            )
        for v, name in enumerate(names[: len(online)]):
            result[f"loss/{name}"] = float(losses[v])
            result[f"learner/value_{name}"] = mean(at_actions(online, x)[v])
            result[f"learner/td_error_{name}"] = mean(np.abs(errors[v]))
            if self.error_variance is not None:
                result[f"learner/error_scale_{name}"] = mean(self.scale(online, targets, x)[v])
            if self.s.trust_region:
                result[f"learner/held_{name}"] = mean(held[v])
        return result


class Adam:
    """Adam with clipping by the global norm of its own part, for one tree of parameters (Kingma & Ba 2015), or AdamW with its decay."""

    def __init__(self, learning_rate: float, b1: float, b2: float, epsilon: float, max_norm: float, weight_decay: float = 0.0) -> None:
        """Before the first step."""
        self.learning_rate, self.b1, self.b2, self.epsilon, self.max_norm = learning_rate, b1, b2, epsilon, max_norm
        self.weight_decay = weight_decay
        self.steps = 0
        self.mean: dict[str, np.ndarray] = {}
        self.square: dict[str, np.ndarray] = {}

    def step(self, gradients: Tree, parameters: Tree | None = None) -> dict[str, np.ndarray]:
        """What is added to each leaf, by its name in `leaves`; weight decay needs the parameters before the step."""
        self.steps += 1
        values = {} if parameters is None else dict(leaves(parameters))
        norm = global_norm(gradients)
        result = {}
        for name, leaf in leaves(gradients):
            g = np.asarray(leaf, np.float64) * min(1.0, self.max_norm / norm)
            self.mean[name] = self.b1 * self.mean.get(name, 0.0) + (1.0 - self.b1) * g
            self.square[name] = self.b2 * self.square.get(name, 0.0) + (1.0 - self.b2) * g**2
            mean, square = self.mean[name] / (1.0 - self.b1**self.steps), self.square[name] / (1.0 - self.b2**self.steps)
            decay = self.weight_decay * np.asarray(values[name], np.float64) if self.weight_decay else 0.0
            result[name] = -self.learning_rate * (mean / (np.sqrt(square) + self.epsilon) + decay)
        return result
