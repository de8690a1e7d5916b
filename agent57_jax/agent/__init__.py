"""The agent: acting, novelty, replay and learning, and the jitted programs in which they meet."""
