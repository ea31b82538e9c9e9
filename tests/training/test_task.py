"""Which terms a loss has, by its options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.gvit_s import get_config
from groupvit_jax import sharding
from groupvit_jax.training import loss as loss_lib
from groupvit_jax.training import state
from groupvit_jax.training import task as task_lib

COMPARED = {'contrastive', 'multi_label', 'part'}
SMALL = (
  'demo,size=32,batch=1,width=16,depths=1x0,model.num_heads=2,text.width=16,'
  'text.depth=1,text.num_heads=2,joint.embed_dim=16'
)


def made(tiny, options, size=1):
  """A task, a batch of ones, and variables."""
  config = get_config(options)
  task = task_lib.make(config, 50)
  batch = jax.tree.map(
    lambda x: jnp.ones(x.shape, x.dtype), state.abstract_batch(config, size)
  )
  return task, batch, tiny.drawn(task.init, jax.random.key(0), batch)


@pytest.mark.parametrize(
  'options, terms',
  [
    ('', COMPARED),
    ('loss.part_weight=0.0', COMPARED - {'part'}),
    ('nouns=0', {'contrastive'}),
    ('clip,loss.part_weight=1.0', COMPARED),
  ],
)
def test_a_loss_is_finite_and_has_its_terms(tiny, options, terms):
  options = ','.join(filter(None, [SMALL, options]))
  task, batch, variables = made(tiny, options, size=4)
  loss, (_, metrics) = jax.jit(task.loss_fn)(
    variables, batch, jax.random.key(1)
  )
  assert jnp.isfinite(loss)
  assert terms == COMPARED & set(metrics)


def test_all_terms_share_one_gather_and_are_the_same_on_any_devices(tiny):
  config = get_config('demo,loss.share_nouns=true,loss.background_weight=0.5')
  config.loss.chunk_size = 12  # 3 texts with 4 groups, 2 with 6 tokens
  b, t, e = 8, 1 + config.loss.num_nouns, 5
  out = {
    'image': tiny.unit(0, b, e),
    'texts': tiny.unit(1, b, t, e),
    'groups': tiny.unit(2, b, 4, e),
    'token_embeddings': tiny.unit(3, b, 6, e),
    'background_token': tiny.unit(4, e + 1),
    'logit_scale': np.float32(9.0),
  }
  tokens = jax.random.randint(jax.random.key(5), (b, t, 2), 0, 2)
  results = []
  for devices in (None, 2, 8):
    mesh = devices and sharding.make_mesh(jax.devices()[:devices])

    def total(out, mesh=mesh):
      terms = loss_lib.compare(out, {'tokens': tokens}, config.loss, mesh)
      assert terms.keys() == COMPARED | {'background'}
      return sum(i * terms[name] for i, name in enumerate(sorted(terms), 1))

    step = jax.value_and_grad(total)
    results.append(jax.jit(step)(out))
    tiny.assert_close(results[0], results[-1], atol=1e-5)
    if devices == 8:
      # Captions, nouns and their ids; and the gradients of the texts.
      jaxpr = str(jax.make_jaxpr(step)(out))
      assert jaxpr.count('= all_gather') == 3
      assert jaxpr.count('= reduce_scatter') == 2


def test_predictions_of_images_take_their_sizes(tiny):
  task, _, variables = made(tiny, SMALL)
  images = jax.random.randint(jax.random.key(1), (1, 32, 40, 3), 0, 256)
  images = images.astype(jnp.uint8)
  sizes = jnp.asarray([[16, 32]])
  regions = jax.jit(task.predict_fns['regions'])
  padded, alone = (
    regions(variables, images, sizes),
    regions(variables, images[:, :16, :32]),
  )
  image = jax.jit(task.predict_fns['image'])
  for actual in (padded['image'], image(variables, images, sizes)):
    assert jnp.allclose(actual, alone['image'], rtol=0, atol=1e-5)
  maps, expected = padded['stages'][-1], alone['stages'][-1]
  assert jnp.allclose(maps[:, :2, :4], expected, rtol=0, atol=1e-5)
  assert padded['grids'].tolist() == [[2, 4]]


def test_texts_are_as_the_projector_gives_them(tiny):
  task, _, variables = made(tiny, SMALL)
  tokens = jnp.asarray([[48, 1, 49, 0], [48, 2, 49, 0]])
  found = jax.jit(task.predict_fns['text'])(variables, tokens)
  length = jnp.linalg.norm(found, axis=-1, keepdims=True)
  assert (abs(length - 1) > 0.01).all()
  encode = functools.partial(task.model.apply, method='encode_text')
  expected = jax.jit(encode)(variables, tokens)
  assert jnp.allclose(found / length, expected, rtol=0, atol=1e-5)
