"""Agent57 on Montezuma's Revenge.

python train.py --config=configs/montezuma_revenge.py --workdir=runs/montezuma_revenge

paper: one GPU; the full replay alone takes 36 GB; hours and score: not measured yet (a human scores 4,753). laptop: two CPU
cores and 8 GiB, score not measured yet. smoke: about a minute.
"""

import functools

from configs import atari

get_config = functools.partial(atari.get_config, task_id="MontezumaRevenge-v5")
