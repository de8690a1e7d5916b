"""Collective operations in the text of a compiled program."""

import jax
import jax.numpy as jnp

from agent57_jax import parallel
from benchmarks.collectives import counted

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
    for devices, expected in ((1, (0, 0)), (4, (1, 20))):
        mesh, rows, everywhere = parallel.make_mesh(devices), parallel.BY_ENVIRONMENT, parallel.REPLICATED
        function = parallel.sharded(lambda x: parallel.sum_over_devices(jnp.sum(x, axis=0)), mesh, rows, everywhere)
        assert counted(function.lower(jax.ShapeDtypeStruct((8, 5), "float32")).compile().as_text()) == expected
