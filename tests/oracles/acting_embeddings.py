"""Which parameters an episode embeds with: those that were the newest when it began, or a little older, and never others."""


class Generations:
    """Plain twin of `novelty.ActingEmbeddings`; parameters are whatever the caller gives.

    A generation comes when nobody embeds with the old one any more. Then the new one becomes the old one, and the learner's newest the new.
    """

    def __init__(self, num_groups: int, group_size: int) -> None:
        self.of_actor: list[list[object]] = [[None] * group_size for _ in range(num_groups)]  # what each actor embeds with
        self.old: object = None
        self.new: object = None

    def act(self, group: int, learnt: object, is_first: list[bool]) -> list[object]:
        """What each actor of the group embeds with at this timestep."""
        if all(one is self.new for actors in self.of_actor for one in actors):
            self.old, self.new = self.new, learnt
        self.of_actor[group] = [self.new if first else one for first, one in zip(is_first, self.of_actor[group], strict=True)]
        return list(self.of_actor[group])
