"""One act step and one learner update of Agent57 in plain PyTorch on a CPU, as a baseline for speed.

It computes what `agent57_jax.agent.actor` and `agent57_jax.agent.learner` compute, with PyTorch's own modules and autograd. Left out,
because they take next to no time: the bandit, episode statistics, metrics, and the check for non-finite values. Sampling from a replay
and writing to it are not included either.
"""
