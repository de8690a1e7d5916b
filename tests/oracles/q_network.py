"""Twin of the recurrent duelling Q-networks with a dense torso: loops over networks, streams and timesteps (Agent57 App. F, R2D2).

Heads per policy (MEME) are told by their parameters, which have an axis V more.
"""

import math
from typing import Any

import numpy as np

Tree = Any  # nested dictionaries of arrays


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0)."""
    return np.maximum(x, 0.0)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + np.exp(-x))


def dense(parameters: Tree, x: np.ndarray) -> np.ndarray:
    """Weights and bias on a vector."""
    return x @ np.asarray(parameters["kernel"], np.float64) + np.asarray(parameters["bias"], np.float64)


def torso(parameters: Tree, observation: np.ndarray) -> np.ndarray:
    """Dense layers with ReLU on one observation [size]."""
    x = np.asarray(observation, np.float64)
    for layer in range(len(parameters)):
        x = relu(dense(parameters[f"Dense_{layer}"], x))
    return x


def context(previous_action: int, rewards: list[float], policy: int, is_first: bool, num_actions: int, num_policies: int) -> np.ndarray:
    """One-hot a_{t-1}, r^e_t, r^i_t where there is one, one-hot j; at FIRST there was no action and no reward."""
    x = np.zeros(num_actions + len(rewards) + num_policies)
    if not is_first:
        x[previous_action] = 1.0
        for i, reward in enumerate(rewards):
            x[num_actions + i] = reward
    x[num_actions + len(rewards) + policy] = 1.0
    return x


def lstm(gates: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hidden and cell state after one timestep; the gates stand in the order update, forget, candidate, output."""
    size = len(cell)
    update, forget, candidate, output = (gates[i * size : (i + 1) * size] for i in range(4))
    cell = sigmoid(forget + 1.0) * cell + sigmoid(update) * np.tanh(candidate)
    return sigmoid(output) * np.tanh(cell), cell


def heads(parameters: Tree, hidden: np.ndarray, num_policies: int = 1) -> np.ndarray:
    """Q = V + A - mean(A), [N, A]; outputs for N policies lie side by side. An output layer comes before its hidden layer in the names."""
    values = dense(parameters["Dense_0"], relu(dense(parameters["Dense_1"], hidden)))
    advantages = dense(parameters["Dense_2"], relu(dense(parameters["Dense_3"], hidden))).reshape(num_policies, -1)
    return np.array([value + advantage - advantage.mean() for value, advantage in zip(values, advantages, strict=True)])


def policy_head(parameters: Tree, hidden: np.ndarray) -> np.ndarray:
    """Logits, of all policies side by side if there are heads for each."""
    return dense(parameters["Dense_0"], relu(dense(parameters["Dense_1"], hidden)))


def has_policy_heads(parameters: Tree) -> bool:
    """Whether one network has heads for every value function and policy."""
    return np.ndim(parameters["heads"]["Dense_0"]["bias"]) == 3


def rows(one: Tree, hidden: np.ndarray, per_policy: bool, num_policies: int) -> list[np.ndarray]:
    """What a network gives at a timestep: action values, then the policy's logits if it has such; [A] each, or [N, A]."""
    if per_policy:
        found = [heads(network(one["heads"], v), hidden, num_policies) for v in range(len(one["heads"]["Dense_0"]["bias"]))]
    else:
        found = [heads(one["heads"], hidden)[0]]
    if "policy" in one:
        found.append(policy_head(one["policy"], hidden).reshape(found[0].shape))
    return found


def network(parameters: Tree, index: int) -> Tree:
    """Parameters of one of the W networks; a shared torso is nobody's own."""
    if isinstance(parameters, dict):
        return {name: network(part, index) for name, part in parameters.items() if name != "torso"}
    return np.asarray(parameters)[index].astype(np.float64)


def unroll(
    parameters: Tree,
    hidden: np.ndarray,
    cell: np.ndarray,
    observation: np.ndarray,
    previous_action: np.ndarray,
    extrinsic_reward: np.ndarray,
    intrinsic_reward: np.ndarray | None,
    policy: np.ndarray,
    is_first: np.ndarray,
    num_actions: int,
    num_policies: int,
    logarithmic_rewards: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs [R, B, T, ..., A] and hidden and cell state [B, W, H] after the last timestep, all float64.

    Arguments as in the package: parameters with a leading axis W, the state before the first timestep [B, W, H], inputs [B, T, ...]; an
    agent without intrinsic reward has None for it.
    """
    per_policy = has_policy_heads(parameters)
    outputs = []  # by network, stream, timestep and row
    new_hidden, new_cell = np.zeros(hidden.shape), np.zeros(cell.shape)
    for v in range(hidden.shape[1]):
        one = network(parameters, v)
        encoder = one["encoder"]
        # A torso of the networks' own comes first in the names.
        first = 0 if "torso" in parameters else 1
        seen_by = parameters["torso"] if "torso" in parameters else encoder["Dense_0"]
        streams = []
        for b in range(len(hidden)):
            timesteps = []
            h, c = np.asarray(hidden[b, v], np.float64), np.asarray(cell[b, v], np.float64)
            for t in range(is_first.shape[1]):
                if is_first[b, t]:
                    h, c = np.zeros(len(h)), np.zeros(len(c))
                features = relu(dense(encoder[f"Dense_{first}"], torso(seen_by, observation[b, t])))
                rewards = [float(reward[b, t]) for reward in (extrinsic_reward, intrinsic_reward) if reward is not None]
                if logarithmic_rewards:
                    rewards = [math.copysign(math.log(1.0 + abs(reward)), reward) for reward in rewards]
                given = context(int(previous_action[b, t]), rewards, int(policy[b, t]), bool(is_first[b, t]), num_actions, num_policies)
                if per_policy:  # j is no input
                    given = given[:-num_policies]
                h, c = lstm(dense(encoder[f"Dense_{first + 1}"], np.concatenate([features, given])) + h @ one["recurrent"], c)
                timesteps.append(rows(one, h, per_policy, num_policies))
            streams.append(timesteps)
            new_hidden[b, v], new_cell[b, v] = h, c
        outputs.append(np.moveaxis(np.array(streams), 2, 0))
    return np.concatenate(outputs), new_hidden, new_cell
