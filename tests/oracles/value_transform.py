"""Twin of the value transform: the textbook forms, in 50 digits so that their cancellation does no harm, rounded to float64."""

import decimal
from decimal import Decimal

_DIGITS = decimal.Context(prec=50)


def squash(x: float, eps: float = 1e-3) -> float:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x."""
    with decimal.localcontext(_DIGITS):
        z = Decimal(float(x))
        root = (abs(z) + 1).sqrt() - 1
        return float((root if z >= 0 else -root) + Decimal(str(eps)) * z)


def unsquash(x: float, eps: float = 1e-3) -> float:
    """h^-1(x) = sign(x) (((sqrt(1 + 4 eps (|x| + 1 + eps)) - 1) / (2 eps))^2 - 1)."""
    with decimal.localcontext(_DIGITS):
        z, e = Decimal(float(x)), Decimal(str(eps))
        root = ((1 + 4 * e * (abs(z) + 1 + e)).sqrt() - 1) / (2 * e)
        magnitude = root * root - 1
        return float(magnitude if z >= 0 else -magnitude)


def identity(x: float) -> float:
    """No transform."""
    return float(x)


def combine(extrinsic: float, intrinsic: float, beta: float) -> float:
    """Q = Q^e + beta Q^i."""
    return float(extrinsic) + float(beta) * float(intrinsic)


def combine_unsquashed(extrinsic: float, intrinsic: float, beta: float) -> float:
    """Q = h(h^-1(Q^e) + beta h^-1(Q^i))."""
    return squash(unsquash(extrinsic) + float(beta) * unsquash(intrinsic))
