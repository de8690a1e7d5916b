"""The profiles that every task has."""

PROFILES = ("paper", "laptop", "smoke")


def check(profile: str) -> None:
    """Refuses a profile that does not exist.

    Raises:
      ValueError: naming those that do.
    """
    if profile not in PROFILES:
        raise ValueError(f"no profile '{profile}'; there are {', '.join(PROFILES)}")
