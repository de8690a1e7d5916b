"""Agent57 and its family on one machine."""
