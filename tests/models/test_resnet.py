"""CLIP's ResNets: released sizes, and open_clip's outputs and gradients."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import sharding
from groupvit_jax.models import build, ops, resnet

GOLDEN = pathlib.Path(__file__).parents[1] / 'testdata' / 'clip_resnet.npz'
TINY = resnet.ClipResNet(64, width=2, depths=(1, 2, 1, 1), num_heads=2)
# Whole model and image tower with its projector, as torch counts them.
RELEASED = {
  'RN50': (102_007_137, 38_316_896),
  'RN101': (119_688_033, 56_259_936),
  'RN50x4': (178_300_601, 87_137_080),
  'RN50x16': (290_979_217, 167_328_912),
  'RN50x64': (623_258_305, 420_380_352),
}


@pytest.mark.parametrize('name', RELEASED)
def test_released_sizes(tiny, name):
  described = build.clip_resnet(name)
  size = described['image']['image_size']
  assert tiny.parameter_counts(build.build(described), size) == RELEASED[name]


NAMES = (
  (r'^layer(\d)\.(\d+)\.', lambda m: f'stage_{int(m[1]) - 1}_block_{m[2]}/'),
  (r'downsample\.0\.weight', 'conv_skip/kernel'),
  (r'downsample\.1', 'norm_skip'),
  (r'bn(\d)', r'norm\1'),
  (r'attnpool\.positional_embedding', 'pool/positions'),
  (r'attnpool\.([qkvc])_proj', r'pool/\1'),
  (r'(conv\d|pool/.)\.weight', r'\1/kernel'),
  (r'\.weight', '/scale'),
  (r'\.running_', '/'),
  (r'\.', '/'),
)


def nested(arrays, prefix):
  """Their arrays by our names, nested; the last projection apart."""
  tree = {}
  for name, x in arrays.items():
    if not name.startswith(prefix) or name.endswith('num_batches_tracked'):
      continue
    path = name.removeprefix(prefix)
    for theirs, ours in NAMES:
      path = re.sub(theirs, ours, path)
    if path.endswith('kernel'):
      x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
    *folders, leaf = path.split('/')
    kind = 'batch_stats' if leaf in ('mean', 'var') else 'params'
    node = tree.setdefault(kind, {})
    for folder in folders:
      node = node.setdefault(folder, {})
    node[leaf] = jnp.asarray(x)
  projection = tree.get('params', {}).get('pool', {}).pop('c', None)
  return tree, projection


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


def test_every_stage_is_open_clips(tiny, golden):
  variables, projection = nested(golden, 'sd/')
  images = jnp.asarray(golden['images'])

  @jax.jit
  def run(variables):
    return TINY.apply(variables, images)

  wanted = jax.eval_shape(TINY.init, jax.random.key(0), images)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, wanted)
  pooled, out = run(variables)
  for i, features in enumerate(out['hidden'], 1):
    tiny.assert_near(features, golden[f'out/layer{i}'], 2e-5)
  pooled = pooled @ projection['kernel'] + projection['bias']
  tiny.assert_near(pooled, golden['out/pooled'], 2e-5)
  assert (out['grid'], out['tokens'].shape) == ((2, 2), (4, 4, 64))


@pytest.mark.parametrize('devices', [1, 2])
def test_a_training_step_is_open_clips(tiny, golden, devices):
  """Batch statistics, running averages and gradients; over devices as well."""
  variables, projection = nested(golden, 'sd/')
  mesh = sharding.make_mesh(jax.devices()[:devices])
  images = sharding.shard_batch(golden['images'], mesh)
  model = TINY.clone(remat=devices == 2)

  @jax.jit
  def step(params, projection, images):
    def loss(params, projection):
      (pooled, out), updates = model.apply(
        variables | {'params': params},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      pooled = pooled @ projection['kernel'] + projection['bias']
      return jnp.square(pooled).sum(), (pooled, out['hidden'], updates)

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, projection)

  (_, (pooled, hidden, updates)), grads = step(
    variables['params'], projection, images
  )
  for i, features in enumerate(hidden, 1):
    tiny.assert_near(features, golden[f'out/train_layer{i}'], 5e-5)
  tiny.assert_near(pooled, golden['out/train_pooled'], 5e-5)
  statistics, _ = nested(golden, 'new/')
  jax.tree.map(
    tiny.assert_near, updates['batch_stats'], statistics['batch_stats']
  )
  theirs, last = nested(golden, 'grad/')
  largest = max(np.abs(g).max() for g in jax.tree.leaves(theirs))
  assert largest > 1e-2
  jax.tree.map(
    lambda a, b: tiny.assert_near(a, b, 1e-4 * largest),
    grads,
    (theirs['params'], last),
  )


def test_bfloat16_comes_near(tiny, golden):
  variables, _ = nested(golden, 'sd/')
  images = jnp.asarray(golden['images'])
  exact, _ = tiny.apply(TINY, variables, images)
  model = TINY.clone(dtype=jnp.bfloat16)
  rounded, _ = tiny.apply(model, variables, images)
  assert rounded.dtype == jnp.float32
  tiny.assert_near(rounded, exact, 0.1 * float(jnp.abs(exact).max()))
  step = functools.partial(model.apply, train=True, mutable=['batch_stats'])
  _, updates = jax.eval_shape(step, variables, images)
  assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.float32.dtype}


def test_blocks_start_as_the_identity(tiny):
  images = jnp.ones((1, 64, 64, 3))
  params = tiny.init(TINY, images)['params']
  assert not params['stage_1_block_1']['norm3']['scale'].any()


def test_other_sizes_are_refused():
  with pytest.raises(ValueError, match='64x64 pixels reads.*got 64x32'):
    jax.eval_shape(TINY.init, jax.random.key(0), jnp.ones((1, 64, 32, 3)))


@pytest.mark.parametrize(('size', 'channels'), [(1, 64), (3, 64), (3, 128)])
def test_convolutions_with_rounded_operands(size, channels):
  shape = (2, 5, 6, channels)
  x = jax.random.normal(jax.random.key(0), shape).astype(jnp.bfloat16)
  conv = resnet._conv(8, size, jnp.float32, 'conv')
  x = x.astype(jnp.float32)  # already rounded, as the kernel below
  variables = jax.tree.map(
    lambda k: k.astype(jnp.bfloat16).astype(jnp.float32),
    conv.init(jax.random.key(1), x),
  )
  exact = conv.apply(variables, x)
  with ops.matmul_operands('bfloat16'):
    rounded = conv.apply(variables, x)
  stored = conv.apply(ops.store_rounded(variables), x)
  np.testing.assert_allclose(rounded, exact, atol=1e-5)
  np.testing.assert_allclose(stored, exact, atol=1e-5)
