"""Flax modules, used as pure functions of explicit parameter trees."""
