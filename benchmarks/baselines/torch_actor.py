"""The act step of Agent57 in plain PyTorch: intrinsic reward, recurrent Q step, epsilon-greedy action."""

import math

import torch
from torch import Tensor

from agent57_jax.agent.programs import make_family
from agent57_jax.config import Settings
from agent57_jax.types import FIRST, EnvironmentSpec
from benchmarks.baselines.torch_networks import Distillation, Embedding, QNetwork, make_context, to_images

NO_NEIGHBOUR = math.inf  # distance of a neighbour that does not exist


class RunningMoments:
    """Mean and deviation of a stream, merged batch by batch (Chan et al. 1979); values fade after about `horizon` more."""

    def __init__(self, horizon: float) -> None:
        self.horizon = horizon
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
        shrink = min(1.0, self.horizon / total)
        self.weight, self.mean, self.squares = total * shrink, self.mean + share * difference, squares * shrink


class Actor:
    """E actors. There is no bandit: actor l plays policy l mod N.

    Attributes:
      intrinsic_reward: [E] float32 of the last timestep.
      probability: [E] float32, mu(a_t | x_t) of the last timestep.
      inserted: [E] int64, embeddings inserted in each episode; the first min(inserted, M) slots of a memory are held.
    """

    def __init__(self, settings: Settings, spec: EnvironmentSpec, num_envs: int, fill: int = 0) -> None:
        """`fill`: random embeddings that each memory already holds."""
        self.novelty, self.spec, self.num_envs, self.fill = settings.novelty, spec, num_envs, fill
        self.num_policies = settings.policy.num_policies
        self.networks = [QNetwork(settings, spec), QNetwork(settings, spec)]  # extrinsic, intrinsic
        self.embedding, self.distillation = Embedding(settings, spec), Distillation(settings, spec)
        self.policy = torch.arange(num_envs) % self.num_policies
        self.beta = torch.tensor(make_family(settings.policy).betas)[self.policy]
        exponent = 1 + settings.actor.epsilon_alpha * torch.arange(num_envs) / max(num_envs - 1, 1)
        self.epsilon = settings.actor.epsilon_base**exponent

        self.memory = torch.zeros(num_envs, self.novelty.memory_capacity, self.novelty.embedding_size)  # [E, M, D]
        self.memory[:, :fill] = torch.rand(num_envs, fill, self.novelty.embedding_size)
        self.distances, self.errors = (RunningMoments(self.novelty.statistics_horizon) for _ in range(2))
        zeros = torch.zeros(num_envs, settings.network.lstm_size)
        self.states = [(zeros, zeros), (zeros, zeros)]  # hidden and cell [E, L] of each network
        self.previous_action = torch.zeros(num_envs, dtype=torch.int64)
        self.intrinsic_reward = self.probability = torch.zeros(num_envs)
        self.refill()

    def refill(self) -> None:
        """Resets the number of embeddings in every memory to `fill`."""
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
        num_actions = self.spec.num_actions
        is_first = step_type == FIRST
        images = to_images(observation)
        self.intrinsic_reward = self._novelty(images, is_first)
        context = make_context(num_actions, self.num_policies, self.previous_action, reward, self.intrinsic_reward, self.policy, is_first)

        values = []
        for v, network in enumerate(self.networks):
            q, hidden, cell = network(images[:, None], context[:, None], is_first[:, None], *self.states[v])
            values.append(q[:, 0])
            self.states[v] = hidden, cell
        greedy = (values[0] + self.beta[:, None] * values[1]).argmax(dim=-1)

        explore = torch.rand(self.num_envs) < self.epsilon
        action = torch.where(explore, torch.randint(num_actions, (self.num_envs,)), greedy)
        self.probability = self.epsilon / num_actions + (1 - self.epsilon) * (action == greedy)
        self.previous_action = action
        return action

    def _novelty(self, images: Tensor, is_first: Tensor) -> Tensor:
        """Intrinsic reward [E] (NGU §2, Alg. 1)."""
        novelty = self.novelty
        error = self.distillation(images)
        self.errors.update(error)
        alpha = torch.ones_like(error)
        # Relative to the mean: the spread of a constant stream is rounding noise, which must not become the divisor.
        if self.errors.deviation > 1e-5 * abs(self.errors.mean):
            alpha += (error - self.errors.mean) / self.errors.deviation

        distances = self._nearest(self.embedding(images), is_first)
        present = distances != NO_NEIGHBOUR
        self.distances.update(distances[present])
        # While every distance so far is 0 there is no scale; equal states are similar at any scale.
        scale = self.distances.mean if self.distances.mean > 0 else 1.0
        normalised = (distances / scale - novelty.cluster_distance).clamp(min=0)
        kernel = novelty.kernel_epsilon / (normalised + novelty.kernel_epsilon)  # 0 for a missing neighbour, which is infinitely far
        similarity = kernel.sum(dim=1).sqrt() + novelty.pseudo_count
        novel = (similarity <= novelty.max_similarity) & present.any(dim=1)
        return torch.where(novel, 1 / similarity, 0.0) * alpha.clamp(1.0, novelty.max_factor)

    def _nearest(self, embedding: Tensor, is_first: Tensor) -> Tensor:
        """Appends embeddings [E, D] to the memories; their squared distances to the nearest others.

        Returns:
          [E, K], NO_NEIGHBOUR where there are fewer; fewer columns while no memory can hold K.
        """
        capacity = self.novelty.memory_capacity
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
        return distances.topk(min(self.novelty.num_neighbours, fullest), dim=1, largest=False).values
