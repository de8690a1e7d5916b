"""The agent: actor, novelty, replay, learner, and the jitted programs that combine them.

All functions but those of `programs` work on one device's share of the environments or of the batch, inside a sharded program.
"""
