"""What compiled programs move: read off their text, and reckoned by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from flax_stable.testing import collectives

# A loop of 3 turns as CPUs and GPUs write it, and one of 4 as TPUs do: half of 8.
TEXT = """
HloModule example, replica_count=1, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %w = bf16[4,6]{1,0} all-gather(%s), replica_groups=[2,4]<=[8], dimensions={0}
  %r = f32[5]{0} reduce-scatter(%w), replica_groups={{0,1},{2,3}}, to_apply=%add
}

%all-reduce-scatter.1 (p: f32[8]) -> f32[4] {
  %whole = f32[8]{0:T(128)} all-reduce(%p), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %part = f32[4]{0} dynamic-slice(%whole, %i)
}

%turn (q: (f32[8], s32[])) -> (f32[8], s32[]) {
  %two = s32[]{:T(128)} constant(2)
  %i = s32[]{:T(128)} get-tuple-element(%q), index=1
  %start = (f32[8], f32[8], u32[], u32[]) collective-permute-start(%x), channel_id=1
  %done = f32[8] collective-permute-done(%start)
  %part = f32[4] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %next = s32[]{:T(128)} add(%i, %two)
  ROOT %out = (f32[8], s32[]) tuple(%done, /*index=1*/%next)
}

%more (q: (f32[8], s32[])) -> pred[] {
  %end = s32[]{:T(128)} constant(8)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=1
  ROOT %go = pred[] compare(%j, %end), direction=LT
}

%never (q: (f32[8], s32[])) -> pred[] {
  ROOT %go = pred[] get-tuple-element(%q), index=0
}

%branch (p: pred[16]) -> pred[16] {
  %b = (pred[16], pred[16]) all-to-all(%p, %p), replica_groups={{0,1}}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %loop = (s32[], f32[4]) while(%i), condition=%never, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %tpu = (f32[8], s32[]) while(%t), condition=%more, body=%turn
  %all = (f32[2], f32[6]) all-reduce(%a, %b), replica_groups={}, to_apply=%add
  %named = f32[9] all-reduce(%c), \
replica_groups=mesh['a'=4,'b'=2] {'a':(2)2,'b'}, to_apply=%add
  %begun = ((f32[2]), f32[8]) all-gather-start(%d), replica_groups=[2,4]<=[8]
  %ended = f32[8] all-gather-done(%begun)
  %if = pred[16] conditional(%p, %x), branch_computations={%branch, %branch}
}
"""


def test_by_hand():
    assert collectives(TEXT) == {
        # 3 turns, 3/4 of 48 bytes; and 3/4 of 32.
        "all-gather": (4, 3 * 36 + 24),
        # 3 turns, one part of 20 bytes sent; 4 turns, half of 32.
        "reduce-scatter": (7, 3 * 20 + 4 * 16),
        "collective-permute": (4, 4 * 32),
        # Twice 7/8 of 32 bytes; twice 3/4 of 36.
        "all-reduce": (2, 56 + 54),
        # Two branches, half of two times 16 bytes.
        "all-to-all": (2, 2 * 16),
    }


def test_a_scan_on_a_mesh():
    """A kernel of 8 x 8 floats gathered in each of 3 turns, and 4 floats summed."""
    mesh = jax.make_mesh((4,), ("fsdp",), (AxisType.Auto,), devices=jax.devices()[:4])

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(None, "fsdp"), P()),
        out_specs=P(),
        check_vma=False,
    )
    def f(kernels, x):
        def layer(x, part):
            return x @ jax.lax.all_gather(part, "fsdp", tiled=True), None

        x = jax.lax.scan(layer, x, kernels)[0]
        return jax.lax.psum(
            x[0, :4] * jax.lax.axis_index("fsdp").astype(x.dtype), "fsdp"
        )

    args = jnp.ones((3, 8, 8)), jnp.ones((2, 8))
    assert collectives(jax.jit(f).lower(*args).compile()) == {
        "all-gather": (3, 3 * 8 * 8 * 4 * 3 // 4),
        "all-reduce": (1, 2 * 4 * 4 * 3 // 4),
    }


def test_what_is_no_program():
    with pytest.raises(TypeError, match=r"jax\.jit\(f\)\.lower\(\*args\)\.compile\(\)"):
        collectives(jax.jit(jnp.sum))
