"""Environments that the trainer can step, and what is known about them."""
