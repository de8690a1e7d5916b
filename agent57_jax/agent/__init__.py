"""The agent: actor, novelty, replay, learner, and the jitted programs that combine them."""
