"""Numerical equality with Hugging Face's GroupViT, eval and train mode.

Goldens: tests/testdata/hf_*.npz (see make_goldens.py there) and, where the
checkout has it, the folder ../shared/reference/goldens.
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax.models import build, grouping

TESTDATA = pathlib.Path(__file__).parents[1] / 'testdata'
SHARED = pathlib.Path(
  os.environ.get('GROUPVIT_SHARED', TESTDATA.parents[2] / 'shared')
)
GOLDENS = {
  'one_stage': [TESTDATA / 'hf_one_stage.npz'],
  'three_stage': [TESTDATA / 'hf_three_stage.npz'],
  'reference': [
    SHARED / 'reference' / 'goldens' / f'hf_ref_tiny{suffix}.npz'
    for suffix in ('', '_train')
  ],
}


class Golden:
  """Arrays by name, and the model, variables and inputs they belong to."""

  def __init__(self, paths, remat, convert):
    self.arrays = {}
    for path in paths:
      with np.load(path) as f:
        self.arrays |= dict(f)
    converted = convert(self.arrays)
    self.stages = len(converted.architecture['image']['depths'])
    self.model = build.build(converted.architecture, remat=remat)
    self.variables = jax.tree.map(jnp.asarray, converted.variables)
    pixels = self.arrays['in/pixel_values'].transpose(0, 2, 3, 1)
    self.images = jnp.asarray(pixels)
    self.tokens = jnp.asarray(self.arrays['in/input_ids'], jnp.int32)

  def under(self, prefix):
    """The arrays below a prefix, without it."""
    found = {k: v for k, v in self.arrays.items() if k.startswith(prefix)}
    return {k.removeprefix(prefix): v for k, v in found.items()}


@pytest.fixture(scope='module', params=list(GOLDENS))
def golden(golden_models, request):
  """One golden; 'one_stage' runs with remat, which must change nothing."""
  paths = GOLDENS[request.param]
  if not all(path.exists() for path in paths):
    pytest.skip(
      f'no reference goldens at {paths[0].parent}; set GROUPVIT_SHARED to the '
      'folder that holds reference/goldens'
    )
  return Golden(
    paths,
    remat=request.param == 'one_stage',
    convert=golden_models.converted,
  )


def assert_near(actual, desired, atol=2e-5):
  np.testing.assert_allclose(actual, desired, rtol=0, atol=atol)


def test_state_dict_fills_every_parameter_and_nothing_else(golden):
  tokens = golden.tokens[:, None]
  rngs = {'params': jax.random.key(0)}
  wanted = jax.eval_shape(golden.model.init, rngs, golden.images, tokens)

  def shapes(tree):
    return jax.tree.map(lambda x: x.shape, tree)

  assert shapes(golden.variables) == shapes(wanted)


@pytest.fixture(scope='module')
def evaluated(golden):
  """All that eval mode gives, from one compilation."""
  model = golden.model

  @jax.jit
  def run(variables):
    def image_encoder(module):
      return module.image(golden.images, train=False)

    def apply(method, *args):
      return model.apply(variables, *args, method=method)

    return {
      'call': apply('__call__', golden.images, golden.tokens[:, None]),
      'image': apply(image_encoder),
      'text': apply(lambda module: module.text(golden.tokens)),
      'regions': apply('encode_regions', golden.images),
      'texts': apply('encode_text', golden.tokens),
      'logit_scale': apply('logit_scale'),
    }

  return run(golden.variables)


def test_outputs_in_eval_mode(golden, evaluated):
  out = golden.under('out/')
  result = evaluated['call']
  assert_near(result['image'], out['image_embeds'])
  assert_near(result['texts'][:, 0], out['text_embeds'])
  cosines = result['image'] @ result['texts'][:, 0].T
  assert_near(cosines, out['logits_per_image'] / result['logit_scale'])
  _, intermediates = evaluated['image']
  for i, soft in enumerate(result['assignments']):
    assert_near(soft, out[f'grouping_attn_{i}'])
    noisy = intermediates['noisy_assignments'][i]
    np.testing.assert_array_equal(soft, noisy)


def test_every_stage_in_eval_mode(golden, evaluated):
  out = golden.under('out/')
  pooled, intermediates = evaluated['image']
  assert len(intermediates['hidden']) == golden.stages
  for i, hidden in enumerate(intermediates['hidden']):
    assert_near(hidden, out[f'vision_hidden_{i + 1}'])
  assert_near(intermediates['groups'], out['vision_last'])
  assert_near(pooled, out['vision_pooled'])
  assert_near(evaluated['text'], out['text_pooled'])


def test_regions_give_their_segmentation_logits(golden, evaluated):
  """Proves composed maps, group projection and token order in one."""
  regions, texts = evaluated['regions'], evaluated['texts']
  maps = regions['stages'][-1]
  b, h, w = golden.images.shape[:3]
  maps = jax.image.resize(maps, (b, h, w, maps.shape[-1]), 'linear')
  cosines = jnp.einsum('bge,ce->bcg', regions['embeddings'], texts)
  seg = jnp.einsum('bcg,bhwg->bchw', cosines, maps)
  # Their logits carry the scale twice (transformers modeling_groupvit.py,
  # GroupViTModel.forward).
  theirs = golden.arrays['out/segmentation_logits']
  assert_near(seg, theirs / evaluated['logit_scale'] ** 2)


def contrastive(result):
  """The plain symmetric loss of CLIP, which their port computes."""
  logits = result['logit_scale'] * result['image'] @ result['texts'][:, 0].T
  diagonal = jnp.diag(jax.nn.log_softmax(logits, 0))
  diagonal += jnp.diag(jax.nn.log_softmax(logits, 1))
  return -diagonal.mean() / 2


def test_loss_gradients_and_statistics_in_train_mode(
  golden_models, golden, monkeypatch
):
  noises = iter(golden.under('gumbel_').values())
  monkeypatch.setattr(grouping, 'gumbel_noise', lambda rng, shape: next(noises))

  def loss_fn(params):
    result, updates = golden.model.apply(
      golden.variables | {'params': params},
      golden.images,
      golden.tokens[:, None],
      train=True,
      rngs={'gumbel': jax.random.key(0)},
      mutable=['batch_stats'],
    )
    return contrastive(result), (result, updates)

  step = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  (loss, (result, updates)), grads = step(golden.variables['params'])
  assert next(noises, None) is None, 'a recorded noise was not used'
  assert_near(loss, golden.arrays['loss'])
  assert_near(result['image'], golden.arrays['image_embeds'])
  assert_near(result['texts'][:, 0], golden.arrays['text_embeds'])
  theirs = golden_models.to_flax(golden.under('newbuf/'))['batch_stats']
  jax.tree.map(assert_near, updates['batch_stats'], theirs)

  theirs = golden_models.to_flax(golden.under('grad/'))['params']
  largest = max(np.abs(g).max() for g in jax.tree.leaves(theirs))

  def compare(path, ours, desired):
    path = jax.tree_util.keystr(path, simple=True, separator='/')
    bound, rounding = 1e-4 * np.abs(desired).max(), 5e-6 * largest
    if path.endswith('bias') and np.abs(desired).max() < rounding:
      # A bias that the next norm removes: its gradient is 0 in theory, and
      # either side holds but rounding.
      bound = rounding
    worst = np.abs(ours - desired).max()
    assert worst <= bound, f'{path}: {worst} > {bound}'

  jax.tree_util.tree_map_with_path(compare, grads, theirs)
