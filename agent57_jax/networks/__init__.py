"""Flax modules as pure functions over explicit parameter trees."""
