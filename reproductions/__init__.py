"""Published figures, made again: one module each, `python -m reproductions.NAME --profile=cpu`."""
