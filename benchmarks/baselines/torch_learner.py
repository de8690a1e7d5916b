"""The update of Agent57 in plain PyTorch: losses by autograd, one Adam for each of the four networks."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent57_jax.agent.programs import make_family
from agent57_jax.config import Settings
from agent57_jax.types import FIRST, LAST, MID, EnvironmentSpec
from benchmarks.baselines.torch_networks import Distillation, Embedding, QNetwork, make_context, to_images

PRIORITY_FLOOR = 1e-6


class Batch(NamedTuple):
    """Sequences for one update: T transitions need T + 1 timesteps."""

    observation: Tensor  # [B, T + 1, H, W, C] uint8
    action: Tensor  # [B, T + 1] int64
    extrinsic_reward: Tensor  # [B, T + 1] float32, raw, came with the observation
    intrinsic_reward: Tensor  # [B, T + 1] float32
    behaviour_probability: Tensor  # [B, T + 1] float32
    discount: Tensor  # [B, T + 1] float32, 0 where the environment terminated, else 1
    step_type: Tensor  # [B, T + 1] int64
    policy: Tensor  # [B, T + 1] int64, j
    hidden: Tensor  # [V, B, L] float32, before the first timestep
    cell: Tensor  # [V, B, L] float32
    previous_action: Tensor  # [B] int64, before the first timestep
    importance_weight: Tensor  # [B] float32


def random_batch(settings: Settings, spec: EnvironmentSpec, seed: int) -> Batch:
    """Sequences of random content; one timestep in 50 begins an episode after a terminated one."""
    generator = torch.Generator().manual_seed(seed)
    rows, num_policies, lstm_size = settings.learner.batch_size, settings.policy.num_policies, settings.network.lstm_size
    shape = rows, settings.replay.trace + 1

    def whole(high: int, size: Sequence[int], dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.randint(high, size, generator=generator, dtype=dtype)

    is_first = torch.rand(shape, generator=generator) < 0.02
    is_last = F.pad(is_first[:, 1:], (0, 1))
    policy = whole(num_policies, (rows, 1)) + is_first.cumsum(dim=1)  # another one in every episode
    return Batch(
        observation=whole(256, (*shape, *spec.observation_shape), torch.uint8),
        action=whole(spec.num_actions, shape),
        extrinsic_reward=torch.randn(shape, generator=generator),
        intrinsic_reward=torch.rand(shape, generator=generator),
        behaviour_probability=0.1 + 0.9 * torch.rand(shape, generator=generator),
        discount=(~is_last).float(),
        step_type=torch.where(is_first, FIRST, torch.where(is_last, LAST, MID)),
        policy=policy % num_policies,
        hidden=0.1 * torch.randn((2, rows, lstm_size), generator=generator),
        cell=0.1 * torch.randn((2, rows, lstm_size), generator=generator),
        previous_action=whole(spec.num_actions, (rows,)),
        importance_weight=torch.ones(rows),
    )


def squash(x: Tensor, eps: float = 1e-3) -> Tensor:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x (NGU App. E), without cancellation near 0; units of return -> squashed."""
    return x / ((x.abs() + 1).sqrt() + 1) + eps * x


def unsquash(x: Tensor, eps: float = 1e-3) -> Tensor:
    """h^-1, the inverse of `squash`."""
    b = 1 + 2 * eps
    slope = 2 / (b + (b * b + 4 * eps * x.abs()).sqrt())
    return x * slope * (x.abs() * slope + 2)


def retrace_targets(
    target_values: Tensor,
    policy: Tensor,
    action: Tensor,
    probability: Tensor,
    rewards: Tensor,
    discount: Tensor,
    valid: Tensor,
    trace_lambda: float,
) -> Tensor:
    """Transformed Retrace (NGU App. E).

    Args:
      target_values: [V, B, T + 1, A] squashed values of the target networks at x_0..x_T.
      policy: [B, T + 1, A] pi(.|x_t).
      action: [B, T] a_0..a_{T-1}.
      probability: [B, T] mu_0..mu_{T-1}.
      rewards: [V, B, T] r_1..r_T.
      discount: [B, T] gamma_j d_1..gamma_j d_T.
      valid: [B, T] bool; False for LAST -> FIRST.

    Returns:
      [V, B, T] squashed targets.
    """
    values = unsquash(target_values)
    q_a = values[:, :, :-1].gather(-1, action.expand(len(values), -1, -1).unsqueeze(-1)).squeeze(-1)
    pi_a = policy[:, :-1].gather(-1, action.unsqueeze(-1)).squeeze(-1)
    expected = (policy[:, 1:] * values[:, :, 1:]).sum(dim=-1)
    delta = torch.where(valid, rewards + discount * expected - q_a, 0.0)
    trace = torch.where(valid, trace_lambda * (pi_a / probability).clamp(max=1), 0.0)
    decay = torch.where(valid, discount, 0.0) * F.pad(trace[:, 1:], (0, 1))  # from t + 1 back to t
    correction = torch.zeros_like(delta[:, :, 0])
    corrections = []
    for t in reversed(range(delta.shape[2])):
        correction = delta[:, :, t] + decay[:, t] * correction
        corrections.append(correction)
    return squash(q_a + torch.stack(corrections[::-1], dim=2))


def sequence_priorities(errors: Tensor, valid: Tensor, eta: float) -> Tensor:
    """eta max_t |e_t| + (1 - eta) mean_t |e_t| over valid t (R2D2 §2.3): [B, T] -> [B]."""
    magnitude = errors.abs() * valid
    mean = magnitude.sum(dim=1) / valid.sum(dim=1).clamp(min=1)
    return (eta * magnitude.amax(dim=1) + (1 - eta) * mean).clamp(min=PRIORITY_FLOOR)


class Learner:
    """Two Q-networks with their targets, embedding and distillation.

    Attributes:
      online, target: the extrinsic and the intrinsic Q-network.
      updates: number of updates done.
    """

    def __init__(self, settings: Settings, spec: EnvironmentSpec) -> None:
        self.settings, self.spec = settings, spec
        self.online = nn.ModuleList([QNetwork(settings, spec), QNetwork(settings, spec)])
        self.target = nn.ModuleList([QNetwork(settings, spec), QNetwork(settings, spec)]).requires_grad_(False)
        self.target.load_state_dict(self.online.state_dict())
        self.embedding, self.distillation = Embedding(settings, spec), Distillation(settings, spec)
        self.betas, self.gammas = map(torch.tensor, make_family(settings.policy))
        rates = settings.learner.learning_rate, settings.learner.novelty_learning_rate
        self.optimisers = [
            *(self._optimiser(part, rates[0]) for part in self.online),
            *(self._optimiser(part, rates[1]) for part in (self.embedding, self.distillation.predictor)),
        ]
        self.updates = 0

    def _optimiser(self, part: nn.Module, learning_rate: float) -> torch.optim.Adam:
        own = self.settings.learner
        return torch.optim.Adam(part.parameters(), learning_rate, (own.adam_b1, own.adam_b2), own.adam_epsilon, fused=True)

    def update(self, batch: Batch) -> Tensor:
        """One gradient step of every part. Returns the sequences' priorities [B]."""
        losses, priorities = self.losses(batch)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        for optimiser in self.optimisers:
            nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], self.settings.learner.max_gradient_norm)
            optimiser.step()
        self.updates += 1
        if self.updates % self.settings.learner.target_period_updates == 0:
            self.target.load_state_dict(self.online.state_dict())
        return priorities

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Losses by part, means over the batch, which share no parameters; priorities [B] without gradient."""
        images = to_images(batch.observation)
        losses, priorities = self._q_losses(batch, images)
        last = self.settings.novelty.train_timesteps
        losses["embedding"] = self._embedding_loss(batch, images[:, -(last + 1) :])
        losses["distillation"] = self.distillation(images[:, -last:].flatten(0, 1)).mean()
        return losses, priorities

    def _q_losses(self, batch: Batch, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        num_actions, own = self.spec.num_actions, self.settings.learner
        is_first = batch.step_type == FIRST
        previous = torch.cat([batch.previous_action[:, None], batch.action[:, :-1]], dim=1)
        inputs = previous, batch.extrinsic_reward, batch.intrinsic_reward, batch.policy, is_first
        context = make_context(num_actions, len(self.betas), *inputs)

        def unroll(networks: Iterable[nn.Module]) -> Tensor:
            """Action values [V, B, T + 1, A]."""
            states = zip(networks, batch.hidden, batch.cell, strict=True)
            return torch.stack([network(images, context, is_first, hidden, cell)[0] for network, hidden, cell in states])

        online = unroll(self.online)
        action = batch.action[:, :-1]
        valid = ~is_first[:, 1:]  # a transition into FIRST is not experience
        beta = self.betas[batch.policy]  # [B, T + 1]
        with torch.no_grad():
            target = unroll(self.target)
            greedy = (online[0] + beta.unsqueeze(-1) * online[1]).argmax(dim=-1)
            targets = retrace_targets(
                target,
                own.target_epsilon / num_actions + (1 - own.target_epsilon) * F.one_hot(greedy, num_actions),
                action,
                batch.behaviour_probability[:, :-1],
                torch.stack([batch.extrinsic_reward[:, 1:], batch.intrinsic_reward[:, 1:]]),
                self.gammas[batch.policy[:, :-1]] * batch.discount[:, 1:],
                valid,
                own.trace_lambda,
            )
        taken = online[:, :, :-1].gather(-1, action.expand(2, -1, -1).unsqueeze(-1)).squeeze(-1)
        errors = torch.where(valid, targets - taken, 0.0)  # [V, B, T]
        extrinsic, intrinsic = (0.5 * errors.square().sum(dim=2) * batch.importance_weight).mean(dim=1)
        with torch.no_grad():
            priorities = sequence_priorities(errors[0] + beta[:, :-1] * errors[1], valid, self.settings.replay.eta)
        return {"extrinsic": extrinsic, "intrinsic": intrinsic}, priorities

    def _embedding_loss(self, batch: Batch, images: Tensor) -> Tensor:
        """Negative log-likelihood of the actions between the last images [B, n + 1, C, H, W], with the L2 term."""
        count = images.shape[1] - 1
        logits = self.embedding.action_logits(images)
        valid = batch.step_type[:, -count:] != FIRST
        losses = F.cross_entropy(logits.flatten(0, 1), batch.action[:, -(count + 1) : -1].flatten(), reduction="none")
        l2 = torch.stack([parameter.square().sum() for parameter in self.embedding.parameters()]).sum()
        return (losses * valid.flatten()).sum() / valid.sum().clamp(min=1) + 0.5 * self.settings.learner.embedding_l2 * l2
