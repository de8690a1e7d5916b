"""Agent57 on Zaxxon.

python train.py --config=configs/zaxxon.py --workdir=runs/zaxxon

paper: one GPU; the full replay alone takes 36 GB; hours and score: not measured yet (a human scores 9,173). laptop: two CPU
cores and 8 GiB, score not measured yet. smoke: about a minute.
"""

import functools

from configs import atari

get_config = functools.partial(atari.get_config, task_id="Zaxxon-v5")
