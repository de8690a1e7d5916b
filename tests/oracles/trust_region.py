"""Twin of the trust region: the condition as MEME is quoted, for one number."""


def sign(x: float) -> int:
    """-1, 0 or 1."""
    return int(x > 0) - int(x < 0)


def leaves_trust_region(value: float, anchor: float, target: float, radius: float) -> bool:
    """|Q - Q^-| > alpha sigma, and the signs of Q - Q^- and Q - G are opposite."""
    return abs(value - anchor) > radius and sign(value - anchor) * sign(value - target) == -1
