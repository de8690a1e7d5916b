"""One act step and one learner update of Agent57 in plain PyTorch on a CPU, as a reference for speed.

It computes what `agent57_jax.agent.actor` and `agent57_jax.agent.learner` compute with the paper's settings, written with PyTorch's own
modules and autograd. Left out, because they take next to no time: the bandit (actor l plays policy l mod N), episode statistics,
metrics, and the check for non-finite values. Sampling from and writing to a replay are no part of either.

The axes are those of agent57_jax/types.py: E environments, B sequences, T transitions, A actions, N policies, M memory slots,
K neighbours, D embedding, V = 2 value functions (extrinsic, intrinsic); H, W, C are an image's height, width and channels, L the units of
an LSTM.

    python -m benchmarks.baselines.torch_agent57 --threads=2

is a worker that another process times; `serve` says how.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST, MID, LAST = 0, 1, 2  # step types
NO_NEIGHBOUR = math.inf  # distance of a neighbour that does not exist

BETA_MAX = 0.3
GAMMA_0, GAMMA_1, GAMMA_2 = 0.9999, 0.997, 0.99
EPSILON_BASE, EPSILON_ALPHA = 0.4, 8.0
KERNEL_EPSILON, CLUSTER_DISTANCE, PSEUDO_COUNT, MAX_SIMILARITY = 1e-4, 8e-3, 1e-3, 8.0
MAX_FACTOR = 5.0
STATISTICS_HORIZON = 1e6
LEARNING_RATE, NOVELTY_LEARNING_RATE, ADAM_EPSILON = 1e-4, 5e-4, 1e-4
MAX_GRADIENT_NORM = 40.0
TRACE_LAMBDA = 0.95
TARGET_EPSILON = 0.01
TARGET_PERIOD_UPDATES = 1_500
EMBEDDING_L2 = 1e-5
ETA = 0.9
PRIORITY_FLOOR = 1e-6


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is; the paper's numbers (Agent57 App. F, G.3).

    Raises:
      ValueError: if networks or family cannot have such sizes.
    """

    image_shape: tuple[int, ...] = (84, 84, 1)  # H, W, C
    conv_features: tuple[int, ...] = (32, 64, 64)
    conv_kernels: tuple[int, ...] = (8, 4, 3)
    conv_strides: tuple[int, ...] = (4, 2, 1)
    num_actions: int = 18
    num_policies: int = 32
    torso_size: int = 512
    lstm_size: int = 512
    head_size: int = 512
    embedding_size: int = 32
    inverse_hidden_size: int = 128
    distillation_size: int = 128
    num_neighbours: int = 10
    memory_capacity: int = 30_000  # embeddings per environment
    batch_size: int = 64  # sequences
    trace: int = 160  # transitions of a sequence
    train_timesteps: int = 5  # last transitions of a sequence that train embedding and distillation

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if min(value if isinstance(value, tuple) else (value,), default=1) < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if len(self.image_shape) != 3:
            raise ValueError(f"image_shape is {self.image_shape}, but must be height, width and channels")
        if not len(self.conv_features) == len(self.conv_kernels) == len(self.conv_strides):
            raise ValueError("conv_features, conv_kernels and conv_strides must have the same length")
        if min(self.torso_output) < 1:
            raise ValueError(f"conv_kernels {self.conv_kernels} and conv_strides leave nothing of an image {self.image_shape}")
        if self.num_policies < 10:
            raise ValueError(f"num_policies is {self.num_policies}, but the paper's discounts are defined from 10 on")
        if self.train_timesteps > self.trace:
            raise ValueError(f"train_timesteps {self.train_timesteps} exceeds trace {self.trace}")

    @property
    def torso_output(self) -> tuple[int, int, int]:
        """Channels, height and width behind the convolutions."""
        height, width, channels = self.image_shape
        for features, kernel, stride in zip(self.conv_features, self.conv_kernels, self.conv_strides, strict=True):
            height, width, channels = (height - kernel) // stride + 1, (width - kernel) // stride + 1, features
        return channels, height, width

    @property
    def context_size(self) -> int:
        """Numbers that a Q-network sees beside the image: previous action, two rewards, policy."""
        return self.num_actions + 2 + self.num_policies


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


# The family of policies -------------------------------------------------------------------------------------------------------------


def intrinsic_betas(num_policies: int) -> Tensor:
    """Weights of the intrinsic reward (NGU App. A). [N] float32."""
    j = torch.arange(num_policies, dtype=torch.float64)
    betas = BETA_MAX * torch.sigmoid(10 * (2 * j - (num_policies - 2)) / (num_policies - 2))
    betas[0], betas[-1] = 0, BETA_MAX
    return betas.float()


def discounts(num_policies: int) -> Tensor:
    """Discounts of at least 10 policies (Agent57 App. G.1). [N] float32."""
    j = torch.arange(num_policies, dtype=torch.float64)
    upper = GAMMA_1 + (GAMMA_0 - GAMMA_1) * torch.sigmoid(10 * (2 * (7 - j) - 6) / 6)
    fraction = (j - 8) / (num_policies - 9)
    lower = 1 - torch.exp((1 - fraction) * math.log(1 - GAMMA_1) + fraction * math.log(1 - GAMMA_2))
    gammas = torch.where(j < 7, upper, lower)
    gammas[0], gammas[7] = GAMMA_0, GAMMA_1
    return gammas.float()


def actor_epsilons(num_actors: int) -> Tensor:
    """Exploration rates (Agent57 App. G.3). [E] float32."""
    return EPSILON_BASE ** (1 + EPSILON_ALPHA * torch.arange(num_actors) / max(num_actors - 1, 1))


# Networks ---------------------------------------------------------------------------------------------------------------------------


def to_images(observation: Tensor) -> Tensor:
    """[..., H, W, C] uint8 -> [..., C, H, W] float32 in [0, 1]; the memory stays in the order in which it was."""
    return observation.float().div_(255).movedim(-1, -3)


class Torso(nn.Sequential):
    """Unpadded convolutions with ReLU (Agent57 App. F): [n, C, H, W] -> [n, features]."""

    def __init__(self, sizes: Sizes) -> None:
        layers: list[nn.Module] = []
        channels = sizes.image_shape[-1]
        for features, kernel, stride in zip(sizes.conv_features, sizes.conv_kernels, sizes.conv_strides, strict=True):
            layers += [nn.Conv2d(channels, features, kernel, stride), nn.ReLU(inplace=True)]
            channels = features
        super().__init__(*layers, nn.Flatten())
        self.num_features = math.prod(sizes.torso_output)
        # The images come with their channels last, and PyTorch's convolutions on CPUs are faster so.
        self.to(memory_format=torch.channels_last)


class ResettableLSTM(nn.Module):
    """An LSTM along time whose state is reset inside the sequence."""

    def __init__(self, input_size: int, lstm_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 4 * lstm_size)
        self.recurrent = nn.Linear(lstm_size, 4 * lstm_size, bias=False)
        # The forget gate starts open (Jozefowicz et al. 2015), so that gradients reach far back from the beginning.
        with torch.no_grad():
            self.input.bias[lstm_size : 2 * lstm_size] += 1

    def forward(self, x: Tensor, is_first: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Runs along T timesteps.

        Args:
          x: [B, T, input_size].
          is_first: [B, T] bool; the state is reset before such a timestep.
          hidden, cell: [B, L], before the first timestep.

        Returns:
          Outputs [B, T, L]; hidden and cell state [B, L] after the last timestep.
        """
        # Unbound once: an index in every turn of the loop would cost a gradient of the whole sequence's size each.
        gates = self.input(x).unbind(1)
        keep = (~is_first).float().unsqueeze(-1).unbind(1)
        outputs = []
        for from_input, keep_t in zip(gates, keep, strict=True):
            hidden, cell = hidden * keep_t, cell * keep_t
            update, forget, candidate, output = (from_input + self.recurrent(hidden)).chunk(4, dim=-1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(update) * torch.tanh(candidate)
            hidden = torch.sigmoid(output) * torch.tanh(cell)
            outputs.append(hidden)
        return torch.stack(outputs, dim=1), hidden, cell


class QNetwork(nn.Module):
    """One recurrent duelling Q-network (Agent57 App. F, R2D2)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.torso = Torso(sizes)
        self.dense = nn.Linear(self.torso.num_features, sizes.torso_size)
        self.lstm = ResettableLSTM(sizes.torso_size + sizes.context_size, sizes.lstm_size)
        self.value = nn.Sequential(nn.Linear(sizes.lstm_size, sizes.head_size), nn.ReLU(), nn.Linear(sizes.head_size, 1))
        self.advantage = nn.Sequential(
            nn.Linear(sizes.lstm_size, sizes.head_size), nn.ReLU(), nn.Linear(sizes.head_size, sizes.num_actions)
        )

    def forward(self, images: Tensor, context: Tensor, is_first: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Runs along T timesteps.

        Args:
          images: [B, T, C, H, W] from `to_images`.
          context: [B, T, context_size] from `make_context`.
          is_first: [B, T] bool; the recurrent state is reset before such a timestep.
          hidden, cell: [B, L], before the first timestep.

        Returns:
          Squashed action values [B, T, A]; hidden and cell state [B, L] after the last timestep.
        """
        features = F.relu(self.dense(self.torso(images.flatten(0, 1)))).unflatten(0, images.shape[:2])
        x, hidden, cell = self.lstm(torch.cat([features, context], dim=-1), is_first, hidden, cell)
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(dim=-1, keepdim=True), hidden, cell


def make_context(
    sizes: Sizes, previous_action: Tensor, extrinsic_reward: Tensor, intrinsic_reward: Tensor, policy: Tensor, is_first: Tensor
) -> Tensor:
    """What a Q-network sees beside the image, all but the policy zeroed at FIRST: [...] each -> [..., context_size]."""
    action = F.one_hot(previous_action, sizes.num_actions).float()
    came_with = torch.cat([action, extrinsic_reward.unsqueeze(-1), intrinsic_reward.unsqueeze(-1)], dim=-1)
    return torch.cat([came_with * (~is_first).unsqueeze(-1), F.one_hot(policy, sizes.num_policies).float()], dim=-1)


class Embedding(nn.Module):
    """Controllable states and the head that guesses the action between two of them (NGU §2)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.torso = Torso(sizes)
        self.dense = nn.Linear(self.torso.num_features, sizes.embedding_size)
        self.inverse = nn.Sequential(
            nn.Linear(2 * sizes.embedding_size, sizes.inverse_hidden_size),
            nn.ReLU(),
            nn.Linear(sizes.inverse_hidden_size, sizes.num_actions),
        )

    def forward(self, images: Tensor) -> Tensor:
        """[n, C, H, W] -> [n, D]."""
        return F.relu(self.dense(self.torso(images)))

    def action_logits(self, images: Tensor) -> Tensor:
        """Logits of p(a_t | x_t, x_{t+1}) along a stream: [B, T + 1, C, H, W] -> [B, T, A]."""
        embeddings = self(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        logits: Tensor = self.inverse(torch.cat([embeddings[:, :-1], embeddings[:, 1:]], dim=-1))
        return logits


class Distillation(nn.Module):
    """A fixed random network and the predictor that learns it (Burda et al. 2018)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        num_features = math.prod(sizes.torso_output)
        self.predictor = nn.Sequential(Torso(sizes), nn.Linear(num_features, sizes.distillation_size))
        self.random_target = nn.Sequential(Torso(sizes), nn.Linear(num_features, sizes.distillation_size)).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Squared error of the prediction: [n, C, H, W] -> [n]."""
        error: Tensor = self.predictor(images) - self.random_target(images)
        return error.square().sum(dim=-1)


# Acting -----------------------------------------------------------------------------------------------------------------------------


class RunningMoments:
    """Mean and deviation of a stream, merged batch by batch (Chan et al. 1979); old values fade beyond the horizon."""

    def __init__(self) -> None:
        self.weight = self.mean = self.squares = 0.0  # effective number of values, their mean, sum of squared deviations from it

    @property
    def deviation(self) -> float:
        """Population standard deviation, 0 for an empty stream."""
        return math.sqrt(self.squares / max(self.weight, 1))

    def update(self, values: Tensor) -> None:
        """Merges values of any shape, in the units of the stream."""
        if not values.numel():
            return
        mean = values.mean().item()
        difference = mean - self.mean
        total = self.weight + values.numel()
        share = values.numel() / total
        squares = self.squares + (values - mean).square().sum().item() + difference**2 * self.weight * share
        shrink = min(1.0, STATISTICS_HORIZON / total)
        self.weight, self.mean, self.squares = total * shrink, self.mean + share * difference, squares * shrink


class Actor:
    """E actors: intrinsic reward, recurrent Q step, epsilon-greedy action. The bandit is left out: actor l plays policy l mod N.

    Attributes:
      intrinsic_reward: [E] float32 of the last timestep.
      probability: [E] float32, mu(a_t | x_t) of the last timestep.
      inserted: [E] int64, embeddings inserted in each episode; the first min(inserted, M) slots of a memory are held.
    """

    def __init__(self, sizes: Sizes, num_envs: int, fill: int = 0) -> None:
        """`fill`: so many random embeddings each memory already holds.

        Raises:
          ValueError: if there is no environment, or a memory cannot hold so many.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}, but must be at least 1")
        if not 0 <= fill <= sizes.memory_capacity:
            raise ValueError(f"fill is {fill}, but must lie in [0, {sizes.memory_capacity}]")
        self.sizes, self.num_envs, self.fill = sizes, num_envs, fill
        self.extrinsic, self.intrinsic = QNetwork(sizes), QNetwork(sizes)
        self.embedding, self.distillation = Embedding(sizes), Distillation(sizes)
        self.policy = torch.arange(num_envs) % sizes.num_policies
        self.beta = intrinsic_betas(sizes.num_policies)[self.policy]
        self.epsilon = actor_epsilons(num_envs)

        self.memory = torch.zeros(num_envs, sizes.memory_capacity, sizes.embedding_size)  # [E, M, D]
        self.memory[:, :fill] = torch.rand(num_envs, fill, sizes.embedding_size)
        self.distances, self.errors = RunningMoments(), RunningMoments()
        zeros = torch.zeros(num_envs, sizes.lstm_size)
        self.states = [(zeros, zeros), (zeros, zeros)]  # hidden and cell [E, L] of the extrinsic and the intrinsic network
        self.previous_action = torch.zeros(num_envs, dtype=torch.int64)
        self.intrinsic_reward = self.probability = torch.zeros(num_envs)
        self.refill()

    def refill(self) -> None:
        """Lets every memory hold `fill` embeddings again."""
        self.inserted = torch.full((self.num_envs,), self.fill)

    @torch.inference_mode()
    def step(self, observation: Tensor, reward: Tensor, step_type: Tensor) -> Tensor:
        """Everything that actors do at a timestep.

        Args:
          observation: [E, H, W, C] uint8.
          reward: [E] float32, raw extrinsic reward that came with it.
          step_type: [E] int64, FIRST, MID or LAST.

        Returns:
          Actions [E] int64.
        """
        is_first = step_type == FIRST
        images = to_images(observation)
        self.intrinsic_reward = self._novelty(images, is_first)
        context = make_context(self.sizes, self.previous_action, reward, self.intrinsic_reward, self.policy, is_first)

        values = []
        for v, network in enumerate((self.extrinsic, self.intrinsic)):
            q, hidden, cell = network(images[:, None], context[:, None], is_first[:, None], *self.states[v])
            values.append(q[:, 0])
            self.states[v] = hidden, cell
        greedy = (values[0] + self.beta[:, None] * values[1]).argmax(dim=-1)

        explore = torch.rand(self.num_envs) < self.epsilon
        action = torch.where(explore, torch.randint(self.sizes.num_actions, (self.num_envs,)), greedy)
        self.probability = self.epsilon / self.sizes.num_actions + (1 - self.epsilon) * (action == greedy)
        self.previous_action = action
        return action

    def _novelty(self, images: Tensor, is_first: Tensor) -> Tensor:
        """Intrinsic reward [E] (NGU §2, Alg. 1)."""
        error = self.distillation(images)
        self.errors.update(error)
        alpha = torch.ones_like(error)
        # Relative to the mean: a constant stream keeps rounding noise in its spread, which is no scale to divide by.
        if self.errors.deviation > 1e-5 * abs(self.errors.mean):
            alpha += (error - self.errors.mean) / self.errors.deviation

        distances = self._nearest(self.embedding(images), is_first)
        present = distances != NO_NEIGHBOUR
        self.distances.update(distances[present])
        # While every distance so far is 0 there is no scale; equal states are similar at any scale.
        scale = self.distances.mean if self.distances.mean > 0 else 1.0
        normalised = (distances / scale - CLUSTER_DISTANCE).clamp(min=0)
        kernel = KERNEL_EPSILON / (normalised + KERNEL_EPSILON)  # 0 for a missing neighbour, which is infinitely far
        similarity = kernel.sum(dim=1).sqrt() + PSEUDO_COUNT
        novel = (similarity <= MAX_SIMILARITY) & present.any(dim=1)
        return torch.where(novel, 1 / similarity, 0.0) * alpha.clamp(1.0, MAX_FACTOR)

    def _nearest(self, embedding: Tensor, is_first: Tensor) -> Tensor:
        """Appends embeddings [E, D] to the memories; their squared distances to the nearest others.

        Returns:
          [E, K], NO_NEIGHBOUR where there are fewer; fewer columns while no memory can hold K.
        """
        capacity = self.sizes.memory_capacity
        self.inserted = torch.where(is_first, 0, self.inserted)
        own_slot = self.inserted % capacity
        self.memory[torch.arange(self.num_envs), own_slot] = embedding
        self.inserted = self.inserted + 1

        held = self.inserted.clamp(max=capacity)
        fullest = int(held.max())
        # Differences, not the expanded square: a revisited state must give exactly 0.
        distances = torch.cdist(embedding[:, None], self.memory[:, :fullest], compute_mode="donot_use_mm_for_euclid_dist")[:, 0].square()
        slots = torch.arange(fullest)
        distances.masked_fill_((slots >= held[:, None]) | (slots == own_slot[:, None]), NO_NEIGHBOUR)
        return distances.topk(min(self.sizes.num_neighbours, fullest), dim=1, largest=False).values


# Learning ---------------------------------------------------------------------------------------------------------------------------


def squash(x: Tensor, eps: float = 1e-3) -> Tensor:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x (NGU App. E), without cancellation near 0; units of return -> squashed."""
    return x / ((x.abs() + 1).sqrt() + 1) + eps * x


def unsquash(x: Tensor, eps: float = 1e-3) -> Tensor:
    """h^-1, the inverse of `squash`."""
    b = 1 + 2 * eps
    slope = 2 / (b + (b * b + 4 * eps * x.abs()).sqrt())
    return x * slope * (x.abs() * slope + 2)


def retrace_targets(
    target_values: Tensor, policy: Tensor, action: Tensor, probability: Tensor, rewards: Tensor, discount: Tensor, valid: Tensor
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
    trace = torch.where(valid, TRACE_LAMBDA * (pi_a / probability).clamp(max=1), 0.0)
    decay = torch.where(valid, discount, 0.0) * F.pad(trace[:, 1:], (0, 1))  # from t + 1 back to t
    correction = torch.zeros_like(delta[:, :, 0])
    corrections = []
    for t in reversed(range(delta.shape[2])):
        correction = delta[:, :, t] + decay[:, t] * correction
        corrections.append(correction)
    return squash(q_a + torch.stack(corrections[::-1], dim=2))


def sequence_priorities(errors: Tensor, valid: Tensor) -> Tensor:
    """eta max_t |e_t| + (1 - eta) mean_t |e_t| over valid t (R2D2 §2.3): [B, T] -> [B]."""
    magnitude = errors.abs() * valid
    mean = magnitude.sum(dim=1) / valid.sum(dim=1).clamp(min=1)
    return (ETA * magnitude.amax(dim=1) + (1 - ETA) * mean).clamp(min=PRIORITY_FLOOR)


class Learner:
    """Two Q-networks with their targets, embedding and distillation; each of the four parts has its own Adam.

    Attributes:
      online, target: the extrinsic and the intrinsic Q-network.
      updates: so many were done.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.online = nn.ModuleList([QNetwork(sizes), QNetwork(sizes)])
        self.target = nn.ModuleList([QNetwork(sizes), QNetwork(sizes)]).requires_grad_(False)
        self.target.load_state_dict(self.online.state_dict())
        self.embedding, self.distillation = Embedding(sizes), Distillation(sizes)
        self.betas, self.gammas = intrinsic_betas(sizes.num_policies), discounts(sizes.num_policies)
        self.optimisers = [
            *(self._optimiser(part, LEARNING_RATE) for part in self.online),
            *(self._optimiser(part, NOVELTY_LEARNING_RATE) for part in (self.embedding, self.distillation.predictor)),
        ]
        self.updates = 0

    @staticmethod
    def _optimiser(part: nn.Module, learning_rate: float) -> torch.optim.Adam:
        return torch.optim.Adam(part.parameters(), learning_rate, eps=ADAM_EPSILON, fused=True)

    def update(self, batch: Batch) -> Tensor:
        """One gradient step of every part. Returns the sequences' priorities [B]."""
        losses, priorities = self.losses(batch)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        for optimiser in self.optimisers:
            nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], MAX_GRADIENT_NORM)
            optimiser.step()
        self.updates += 1
        if self.updates % TARGET_PERIOD_UPDATES == 0:
            self.target.load_state_dict(self.online.state_dict())
        return priorities

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Losses by part, means over the batch, which share no parameters; priorities [B] without gradient."""
        images = to_images(batch.observation)
        losses, priorities = self._q_losses(batch, images)
        last = self.sizes.train_timesteps
        losses["embedding"] = self._embedding_loss(batch, images[:, -(last + 1) :])
        losses["distillation"] = self.distillation(images[:, -last:].flatten(0, 1)).mean()
        return losses, priorities

    def _q_losses(self, batch: Batch, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        is_first = batch.step_type == FIRST
        previous = torch.cat([batch.previous_action[:, None], batch.action[:, :-1]], dim=1)
        context = make_context(self.sizes, previous, batch.extrinsic_reward, batch.intrinsic_reward, batch.policy, is_first)

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
            policy = TARGET_EPSILON / self.sizes.num_actions + (1 - TARGET_EPSILON) * F.one_hot(greedy, self.sizes.num_actions)
            targets = retrace_targets(
                target,
                policy,
                action,
                batch.behaviour_probability[:, :-1],
                torch.stack([batch.extrinsic_reward[:, 1:], batch.intrinsic_reward[:, 1:]]),
                self.gammas[batch.policy[:, :-1]] * batch.discount[:, 1:],
                valid,
            )
        taken = online[:, :, :-1].gather(-1, action.expand(2, -1, -1).unsqueeze(-1)).squeeze(-1)
        errors = torch.where(valid, targets - taken, 0.0)  # [V, B, T]
        extrinsic, intrinsic = (0.5 * errors.square().sum(dim=2) * batch.importance_weight).mean(dim=1)
        with torch.no_grad():
            priorities = sequence_priorities(errors[0] + beta[:, :-1] * errors[1], valid)
        return {"extrinsic": extrinsic, "intrinsic": intrinsic}, priorities

    def _embedding_loss(self, batch: Batch, images: Tensor) -> Tensor:
        """Negative log-likelihood of the actions between the last images [B, n + 1, C, H, W], with the L2 term."""
        count = images.shape[1] - 1
        logits = self.embedding.action_logits(images)
        valid = batch.step_type[:, -count:] != FIRST
        losses = F.cross_entropy(logits.flatten(0, 1), batch.action[:, -(count + 1) : -1].flatten(), reduction="none")
        l2 = torch.stack([parameter.square().sum() for parameter in self.embedding.parameters()]).sum()
        return (losses * valid.flatten()).sum() / valid.sum().clamp(min=1) + 0.5 * EMBEDDING_L2 * l2


# Work to measure --------------------------------------------------------------------------------------------------------------------


def random_batch(sizes: Sizes, seed: int) -> Batch:
    """Sequences of random content; one timestep in 50 begins an episode, behind one that terminated."""
    generator = torch.Generator().manual_seed(seed)
    rows, shape = sizes.batch_size, (sizes.batch_size, sizes.trace + 1)

    def whole(high: int, size: Sequence[int], dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.randint(high, size, generator=generator, dtype=dtype)

    is_first = torch.rand(shape, generator=generator) < 0.02
    is_last = F.pad(is_first[:, 1:], (0, 1))
    policy = whole(sizes.num_policies, (rows, 1)) + is_first.cumsum(dim=1)  # another one in every episode
    return Batch(
        observation=whole(256, (*shape, *sizes.image_shape), torch.uint8),
        action=whole(sizes.num_actions, shape),
        extrinsic_reward=torch.randn(shape, generator=generator),
        intrinsic_reward=torch.rand(shape, generator=generator),
        behaviour_probability=0.1 + 0.9 * torch.rand(shape, generator=generator),
        discount=(~is_last).float(),
        step_type=torch.where(is_first, FIRST, torch.where(is_last, LAST, MID)),
        policy=policy % sizes.num_policies,
        hidden=0.1 * torch.randn((2, rows, sizes.lstm_size), generator=generator),
        cell=0.1 * torch.randn((2, rows, sizes.lstm_size), generator=generator),
        previous_action=whole(sizes.num_actions, (rows,)),
        importance_weight=torch.ones(rows),
    )


class RequestError(ValueError):
    """A request that the worker cannot do; the message says why."""


def _seconds(run: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        run()
    return time.perf_counter() - start


def _make_actor(sizes: Sizes, num_envs: int, fill: int) -> Callable[[int], float]:
    """Seconds of so many acts in the middle of episodes, every time from memories of `fill` embeddings."""
    actor = Actor(sizes, num_envs, fill)
    observation = torch.randint(256, (num_envs, *sizes.image_shape), dtype=torch.uint8)
    reward, step_type = torch.randn(num_envs), torch.full((num_envs,), MID)

    def run(times: int) -> float:
        actor.refill()
        return _seconds(lambda: actor.step(observation, reward, step_type), times)

    return run


def _make_learner(sizes: Sizes) -> Callable[[int], float]:
    """Seconds of so many updates."""
    learner, batch = Learner(sizes), random_batch(sizes, seed=0)
    return lambda times: _seconds(lambda: learner.update(batch), times)


def _whole_number(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(f"{name} is {value!r}, but must be a whole number")
    return value


def _sizes(values: dict[str, Any]) -> Sizes:
    """The paper's sizes, but for the values of a request."""
    defaults = {field.name: field.default for field in dataclasses.fields(Sizes)}
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in defaults:
            raise RequestError(f"unknown size '{name}'")
        if isinstance(defaults[name], tuple):
            if not isinstance(value, list):
                raise RequestError(f"{name} is {value!r}, but must be a list")
            changes[name] = tuple(_whole_number(name, part) for part in value)
        else:
            changes[name] = _whole_number(name, value)
    return Sizes(**changes)


def _make(request: dict[str, Any]) -> tuple[str, Callable[[int], float]]:
    """Name of what a request makes, and how to run it."""
    values = dict(request)
    name = values.pop("make")
    if name == "learner":
        return name, _make_learner(_sizes(values))
    if name != "actor":
        raise RequestError(f"make is {name!r}, but must be 'actor' or 'learner'")
    num_envs, fill = _whole_number("num_envs", values.pop("num_envs", None)), _whole_number("fill", values.pop("fill", 0))
    return name, _make_actor(_sizes(values), num_envs, fill)


def serve(lines: Iterable[str], write: Callable[[str], None]) -> None:
    """Answers requests, a JSON object a line each, until the lines end.

    {"make": "actor", "num_envs": E, "fill": n, ...}  makes an actor; what else stands there is a field of `Sizes`; "fill" may be left out
    {"make": "learner", ...}                          makes a learner; both are answered by {"made": "actor"} or "learner"
    {"run": "actor", "times": n}                      does n steps, or updates of the learner; {"seconds": s}
    {"quit": true}                                    ends, without an answer
    anything else                                     {"error": "..."}
    """
    runs: dict[str, Callable[[int], float]] = {}
    for line in lines:
        try:
            request = json.loads(line)
            if request == {"quit": True}:
                return
            if isinstance(request, dict) and "make" in request:
                name, run = _make(request)
                runs[name] = run
                answer: dict[str, Any] = {"made": name}
            elif isinstance(request, dict) and request.keys() == {"run", "times"}:
                times = _whole_number("times", request["times"])
                if times < 1:
                    raise RequestError(f"times is {times}, but must be at least 1")
                name = str(request["run"])
                if name not in runs:
                    raise RequestError(f"{name!r} has not been made")
                answer = {"seconds": runs[name](times)}
            else:
                raise RequestError(f"unknown request {line.strip()}")
        except ValueError as error:  # also of sizes that cannot be, and of lines that are no JSON
            answer = {"error": str(error)}
        write(json.dumps(answer))


def main() -> None:
    """A worker on standard input and output."""
    parser = argparse.ArgumentParser(description="Times one act step and one learner update in PyTorch; requests come on standard input.")
    parser.add_argument("--threads", type=int, required=True, help="threads that PyTorch computes with")
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    serve(sys.stdin, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
