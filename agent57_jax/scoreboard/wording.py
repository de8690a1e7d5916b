"""Words and sentences that depend on numbers."""

from typing import Any


def plural(number: int, one: str, many: str | None = None) -> str:
    """The word for so many: `one` or `many`, which is `one` with an s by default."""
    return one if number == 1 else many or f"{one}s"


def sentences(*said: tuple[Any, str]) -> str:
    """The texts of the pairs whose first part is true."""
    return " ".join(text for is_said, text in said if is_said)
