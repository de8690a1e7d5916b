"""The networks of Agent57 in plain PyTorch, with the sizes of the settings (Agent57 App. F, NGU §2).

Axes as in agent57_jax/types.py; also H, W, C: height, width and channels of an image; L: units of the LSTM.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent57_jax.config import NetworkSettings, Settings
from agent57_jax.types import EnvironmentSpec


def to_images(observation: Tensor) -> Tensor:
    """[..., H, W, C] uint8 -> [..., C, H, W] float32 in [0, 1]; the memory layout stays channels-last."""
    return observation.float().div_(255).movedim(-1, -3)


def encoder(network: NetworkSettings, spec: EnvironmentSpec, size: int) -> nn.Sequential:
    """Unpadded convolutions with ReLU, then one dense layer: [n, C, H, W] -> [n, size]."""
    height, width, channels = spec.observation_shape
    layers: list[nn.Module] = []
    inputs = channels
    for features, kernel, stride in zip(network.conv_features, network.conv_kernels, network.conv_strides, strict=True):
        layers += [nn.Conv2d(inputs, features, kernel, stride), nn.ReLU(inplace=True)]
        inputs = features
    # The images are channels-last, and PyTorch's CPU convolutions are faster in that layout.
    torso = nn.Sequential(*layers, nn.Flatten()).to(memory_format=torch.channels_last)
    num_features = torso(torch.zeros(1, channels, height, width)).shape[1]
    return nn.Sequential(torso, nn.Linear(num_features, size))


def two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """A dense layer with ReLU and a dense layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


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
        # Unbound once: indexing inside the loop would create a gradient of the whole sequence's size at each step.
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

    def __init__(self, settings: Settings, spec: EnvironmentSpec) -> None:
        super().__init__()
        network = settings.network
        context_size = spec.num_actions + 2 + settings.policy.num_policies
        self.encoder = encoder(network, spec, network.torso_size)
        self.lstm = ResettableLSTM(network.torso_size + context_size, network.lstm_size)
        self.value = two_layers(network.lstm_size, network.head_size, 1)
        self.advantage = two_layers(network.lstm_size, network.head_size, spec.num_actions)

    def forward(self, images: Tensor, context: Tensor, is_first: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Runs along T timesteps.

        Args:
          images: [B, T, C, H, W] from `to_images`.
          context: [B, T, context_size] from `make_context`.
          is_first, hidden, cell: as `ResettableLSTM.forward`.

        Returns:
          Squashed action values [B, T, A]; hidden and cell state [B, L] after the last timestep.
        """
        features = F.relu(self.encoder(images.flatten(0, 1))).unflatten(0, images.shape[:2])
        x, hidden, cell = self.lstm(torch.cat([features, context], dim=-1), is_first, hidden, cell)
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(dim=-1, keepdim=True), hidden, cell


def make_context(
    num_actions: int,
    num_policies: int,
    previous_action: Tensor,
    extrinsic_reward: Tensor,
    intrinsic_reward: Tensor,
    policy: Tensor,
    is_first: Tensor,
) -> Tensor:
    """What a Q-network sees besides the image, all but the policy zeroed at FIRST: [...] each -> [..., context_size]."""
    action = F.one_hot(previous_action, num_actions).float()
    came_with = torch.cat([action, extrinsic_reward.unsqueeze(-1), intrinsic_reward.unsqueeze(-1)], dim=-1)
    return torch.cat([came_with * (~is_first).unsqueeze(-1), F.one_hot(policy, num_policies).float()], dim=-1)


class Embedding(nn.Module):
    """Controllable states and the head that predicts the action between two of them (NGU §2)."""

    def __init__(self, settings: Settings, spec: EnvironmentSpec) -> None:
        super().__init__()
        novelty = settings.novelty
        self.encoder = encoder(settings.network, spec, novelty.embedding_size)
        self.inverse = two_layers(2 * novelty.embedding_size, novelty.inverse_hidden_size, spec.num_actions)

    def forward(self, images: Tensor) -> Tensor:
        """[n, C, H, W] -> [n, D]."""
        return F.relu(self.encoder(images))

    def action_logits(self, images: Tensor) -> Tensor:
        """Logits of p(a_t | x_t, x_{t+1}) along a stream: [B, T + 1, C, H, W] -> [B, T, A]."""
        embeddings = self(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        logits: Tensor = self.inverse(torch.cat([embeddings[:, :-1], embeddings[:, 1:]], dim=-1))
        return logits


class Distillation(nn.Module):
    """A fixed random network and the predictor that is trained towards it (Burda et al. 2018)."""

    def __init__(self, settings: Settings, spec: EnvironmentSpec) -> None:
        super().__init__()
        self.predictor = encoder(settings.network, spec, settings.novelty.distillation_size)
        self.random_target = encoder(settings.network, spec, settings.novelty.distillation_size).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Squared error of the prediction: [n, C, H, W] -> [n]."""
        error: Tensor = self.predictor(images) - self.random_target(images)
        return error.square().sum(dim=-1)
