"""A training: the loop, when it learns, what it saves, and what it measures on the way."""
