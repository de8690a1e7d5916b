"""Twin of the intrinsic reward (NGU Eq. 1)."""


def intrinsic_reward(episodic: float, alpha: float, max_factor: float) -> float:
    """r^i = r^episodic clip(alpha, 1, L)."""
    return episodic * min(max(alpha, 1.0), max_factor)
