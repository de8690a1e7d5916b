"""Twin of the scale of TD errors: loops in float64, written from the definition of a variance."""

import numpy as np


def batch_variance(errors: np.ndarray, valid: np.ndarray, policy: np.ndarray, num_policies: int) -> np.ndarray:
    """[V, N] from errors [V, B, T]: of each policy's valid transitions, 0 where it has none."""
    result = np.zeros((len(errors), num_policies))
    for v in range(len(errors)):
        for j in range(num_policies):
            chosen = [float(errors[v][index]) for index in np.ndindex(valid.shape) if valid[index] and policy[index] == j]
            if chosen:
                mean = sum(chosen) / len(chosen)
                result[v, j] = sum((error - mean) ** 2 for error in chosen) / len(chosen)
    return result


def update_variance(running: np.ndarray, errors: np.ndarray, valid: np.ndarray, policy: np.ndarray, num_policies: int) -> np.ndarray:
    """[V, N] running variance: 99 parts of the old one, if there is one, and one of the batch's, for policies that it has."""
    batch = batch_variance(errors, valid, policy, num_policies)
    result = np.array(running, np.float64)
    for v, j in np.ndindex(result.shape):
        if np.any(valid & (policy == j)):
            result[v, j] = 0.99 * result[v, j] + 0.01 * batch[v, j] if result[v, j] > 0 else batch[v, j]
    return result


def error_scale(running: np.ndarray, errors: np.ndarray, valid: np.ndarray, policy: np.ndarray, num_policies: int) -> np.ndarray:
    """[V, N]: the largest of the running deviation, the batch's, and 0.01."""
    batch = batch_variance(errors, valid, policy, num_policies)
    return np.maximum(np.maximum(np.sqrt(running), np.sqrt(batch)), 0.01)
