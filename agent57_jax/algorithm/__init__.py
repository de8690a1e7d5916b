"""Agent57 as pure functions: no flax, no settings, no devices."""
