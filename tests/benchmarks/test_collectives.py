"""Collective operations in the text of a compiled program."""

import os
import pathlib
import subprocess
import sys

from benchmarks.collectives import counted

ROOT = pathlib.Path(__file__).resolve().parents[2]

PROGRAM = """
  %add.3 = f32[8]{0} add(f32[8]{0} %a, f32[8]{0} %b)
  %all-reduce.1 = f32[2,3]{1,0} all-reduce(f32[2,3]{1,0} %x), channel_id=1, to_apply=%sum
  %all-reduce = (f32[4]{0}, bf16[10]{0}, f32[]) all-reduce(%a, %b, %c), channel_id=2, to_apply=%sum
  ROOT %all-gather.2 = s32[16]{0} all-gather(s32[8]{0} %y), dimensions={0}
  %all-gather-start = (u8[2]{0}, u8[4]{0}) all-gather-start(u8[2]{0} %z), dimensions={0}
  %get-tuple-element.1 = f32[4]{0} get-tuple-element(%all-reduce), index=0
"""


def test_counts_operations_and_bytes_of_their_results() -> None:
    assert counted(PROGRAM) == (4, 24 + (16 + 20 + 4) + 64 + 6)


def test_devices_share_gradients_and_one_device_shares_nothing() -> None:
    script = """
import jax
from benchmarks.collectives import counted
from agent57_jax import parallel
import jax.numpy as jnp
for count in (1, 4):
    mesh = parallel.make_mesh(count)
    function = parallel.sharded(lambda x: parallel.sum_over_devices(jnp.sum(x, axis=0)), mesh, parallel.BY_ENVIRONMENT, parallel.REPLICATED)
    print(*counted(function.lower(jax.ShapeDtypeStruct((8, 5), "float32")).compile().as_text()))
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert [line.split() for line in done.stdout.splitlines()] == [["0", "0"], ["1", "20"]]
