"""The step compiles for the smallest TPU slice; the table of it adds up."""

import importlib.util
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import demo  # noqa: E402
import tpu_compile  # noqa: E402

needs_libtpu = pytest.mark.skipif(
  not importlib.util.find_spec('libtpu'),
  reason="the TPU compiler; pip install -e '.[tpu-compile]'",
)
SMALL = 'demo,size=32,dtype=bfloat16,depths=3x0,text.depth=3,batch=16'


@needs_libtpu
def test_a_step_compiles_for_the_smallest_slice():
  config = demo.read_config(SMALL)
  config.remat = True
  groups = (12, 8), (4, 16)
  compiled, seconds = tpu_compile.compile_step(
    config, tpu_compile.mesh_of('v5e:2x2'), groups
  )
  text = compiled.as_text()
  assert 'opt-barrier' not in text
  kinds = [kind for kind, *_ in tpu_compile.collectives(text)]
  assert kinds.count('all-gather') == 2  # captions and nouns
  assert tpu_compile.estimated_cycles(text) > 1000
  row = tpu_compile.describe(config, 'v5e:2x2', groups, compiled, seconds)
  assert 0 < row.hbm_share < 0.1 and 0 < row.mfu < 1


def test_products_are_counted():
  config = demo.read_config('demo,depths=1x0')
  deeper = demo.read_config('demo,depths=3x0')
  more = tpu_compile.forward_flops(deeper) - tpu_compile.forward_flops(config)
  d, tokens = config.model.width, 64 + 16
  block = 2 * tokens * (12 * d * d + 2 * tokens * d)
  assert more == 2 * block


PROGRAM = """
%fused (p: f32[4]) -> f32[32] {
  %gather = f32[32]{0} all-gather(%p), replica_groups={{0,1}}, PART
  ROOT %s = f32[32]{0} custom-call(%gather), custom_call_target=START
}

%beside (p: f32[4]) -> f32[32] {
  ROOT %b = f32[32]{0} all-gather(%p), replica_groups={{0,1}}, PART
}

%condition (p: s32[]) -> pred[] {
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(%p, %limit), direction=LT
}

%body (p: f32[2]) -> f32[2] {
  ROOT %x = f32[2]{0} fusion(%p), backend_config={"estimated_cycles":"10"}
}

ENTRY %main (p: f32[4]) -> f32[2] {
  %f = f32[32]{0} fusion(%p), calls=%fused, {"estimated_cycles":"5"}
  %g = f32[32]{0} fusion(%f), calls=%beside
  %w = f32[2]{0} while(%g), condition=%condition, body=%body
  ROOT %r = bf16[2,8]{1,0} reduce-scatter(%w), replica_groups={{0,1},{2,3}}
}
""".replace('PART', '{"async_collective_fusion_config":{}}').replace(
  'START', '"AsyncCollectiveStart"'
)


def test_a_program_is_read():
  assert tpu_compile.estimated_cycles(PROGRAM) == 5 + 3 * 10
  assert sorted(tpu_compile.collectives(PROGRAM)) == [
    ('all-gather', 128, 1),
    ('reduce-scatter', 64, 1),
  ]
