"""Agent57 on Pitfall.

python train.py --config=configs/pitfall.py --workdir=runs/pitfall

paper: one GPU; the full replay alone takes 36 GB; hours and score: not measured yet (a human scores 6,464). laptop: two CPU
cores and 8 GiB, score not measured yet. smoke: about a minute.
"""

import functools

from configs import atari

get_config = functools.partial(atari.get_config, task_id="Pitfall-v5")
