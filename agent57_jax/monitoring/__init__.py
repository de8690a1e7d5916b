"""Metrics, terminal output, dashboards, pictures and videos of a run."""
