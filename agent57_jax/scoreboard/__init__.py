"""The scoreboard: what many runs have reached, beside what was published."""
