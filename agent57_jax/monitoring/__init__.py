"""What a training shows: metrics, the terminal, dashboards, pictures and videos."""
