"""CLIP trains by the one loop: losses, batch norms, first weights."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import groupvit_jax as gv
from configs.clip import get_config
from groupvit_jax import convert, errors, sharding
from groupvit_jax.convert import tensors
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import initial, loop, state
from groupvit_jax.training import task as task_lib

TINY = (
  'demo,steps=4,batch=16,size=32,width=16,examples=48,text.width=16,'
  'joint.embed_dim=8,run.eval_every=2,run.checkpoint_every=2,run.log_every=1,'
  'eval.examples=6,eval.batch_size=8,data.augment=square,'
  'matmul_operands=float32'
)
SMALLER = {'vit': 'model.depth=1', 'resnet': 'resnet,width=2'}


@pytest.mark.parametrize(
  ('arg', 'parameters'),
  [
    ('', 151_277_313),  # as OpenAI's
    ('b16', 149_620_737),
    ('rn50', 102_007_137),
    ('sigmoid', 151_277_314),  # the bias of the logits
  ],
)
def test_configs_of_released_sizes(arg, parameters):
  config = get_config(arg)
  config_lib.check(config)
  task = task_lib.make(config, 49_408)
  variables = jax.eval_shape(
    task.init, jax.random.key(0), state.abstract_batch(config, 1)
  )
  count = sum(x.size for x in jax.tree.leaves(variables['params']))
  assert count == parameters


def test_the_recipe_is_the_papers():
  vit, resnet = get_config(''), get_config('rn50')
  # 32 epochs of 400 million pairs.
  assert vit.num_steps * vit.batch_size == 32 * 400_000_000
  for c, b2, eps in ((vit, 0.98, 1e-6), (resnet, 0.999, 1e-8)):
    o = c.optimizer
    assert (o.learning_rate, o.b1, o.b2, o.eps) == (5e-4, 0.9, b2, eps)
    assert (o.weight_decay, o.warmup_steps) == (0.2, 2000)
    assert o.reference_batch_size == c.batch_size == 32_768


def test_gains_biases_and_the_logit_scale_are_not_decayed():
  config = get_config('demo,resnet,sigmoid')
  params = {
    'logit_scale': jnp.float32(1),
    'logit_bias': jnp.float32(-10),
    'kernel': jnp.ones((2, 2)),
    'norm': {'scale': jnp.ones(2), 'bias': jnp.ones(2)},
  }
  config.optimizer.name, config.optimizer.warmup_init = 'adamw', 1e-3
  tx, _ = state.make_optimizer(config)
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  moved = jax.tree.map(lambda x: bool((x != 0).any()), updates)
  assert moved == {
    'logit_scale': False,
    'logit_bias': False,
    'kernel': True,
    'norm': {'scale': False, 'bias': False},
  }


def variant(kind, *options):
  """A tiny config without evaluation."""
  return get_config(','.join([TINY, SMALLER[kind], 'eval.source=', *options]))


def batch_of(config):
  rng = np.random.default_rng(0)
  shape = state.abstract_batch(config, config.batch_size)
  tokens = rng.integers(1, 40, shape['tokens'].shape).astype(np.int32)
  tokens[..., -1] = 49
  image = rng.integers(0, 256, shape['image'].shape).astype(np.uint8)
  return {'image': image, 'tokens': tokens}


@pytest.mark.parametrize(
  ('kind', 'loss'), [('vit', 'sigmoid'), ('resnet', 'softmax')]
)
def test_a_step_on_eight_devices_is_that_on_one(tiny, kind, loss):
  """Negatives and batch statistics are those of the global batch."""
  config = variant(kind, f'loss.name={loss}')
  batch = batch_of(config)
  results = []
  for devices in (1, 8):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    task = task_lib.make(config, 50, mesh)
    if devices == 1:
      # The first gains of 0 would hide the last convolution of each block.
      variables = tiny.drawn(task.init, jax.random.key(0), batch)

    @jax.jit
    def step(params, stats, batch, task=task):
      def loss_fn(params):
        return task.loss_fn({'params': params, 'batch_stats': stats}, batch, 0)

      return jax.value_and_grad(loss_fn, has_aux=True)(params)

    placed = sharding.replicate(variables, mesh)
    results.append(
      step(
        placed['params'],
        placed['batch_stats'],
        sharding.shard_batch(batch, mesh),
      )
    )
  (one, one_grads), (eight, eight_grads) = results
  jax.tree.map(lambda a, b: tiny.assert_near(a, b, 1e-5), one, eight)
  assert bool(one[1][0]) == (kind == 'resnet')  # batch statistics
  largest = float(optax.global_norm(one_grads))
  assert largest > 1e-3
  jax.tree.map(
    lambda a, b: tiny.assert_near(a, b, 1e-4 * largest), one_grads, eight_grads
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of a ResNet, evaluated on crops of scenes."""
  folder = tmp_path_factory.mktemp('clip')
  config = get_config(
    f'{TINY},{SMALLER["resnet"]},data.cache={folder / "cache"}'
  )
  return folder, config, loop.train_and_evaluate(config, folder / 'run')


def test_a_run_of_a_resnet_is_a_model(run):
  folder, config, summary = run
  assert 0 <= summary['top1'] <= 100
  model = gv.load(folder / 'run')
  assert model.architecture['image_encoder'] == 'clip_resnet'
  assert model.variables['batch_stats']['image']['norm1']['mean'].any()
  image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
  shares = model.classify(image, ['a cat', 'a ball'])
  assert sum(shares.values()) == pytest.approx(1)
  # Pixels as the run normalised them.
  loaded = convert.load_source(folder / 'run')
  assert loaded.preprocessing['mean'][0] == pytest.approx(0.4814, abs=1e-4)


class _BegunError(Exception):
  """Training would begin now, with a state."""


def test_training_goes_on_from_converted_weights(run, monkeypatch):
  folder, config, _ = run
  convert.convert(folder / 'run', folder / 'model')
  source = convert.load_source(folder / 'model')
  later = config.copy_and_resolve_references()
  later.init_from, later.eval.source = 'model', ''
  with pytest.raises(errors.ConfigError, match='initial=convert.load_source'):
    loop.train_and_evaluate(later, folder / 'later')

  def begin(self, state, *unused):
    raise _BegunError(state)

  monkeypatch.setattr(loop.Run, 'train', begin)
  with pytest.raises(_BegunError) as begun:
    loop.train_and_evaluate(later, folder / 'later', initial=source)
  (found,) = begun.value.args
  assert found.step == 0
  for name in ('params', 'batch_stats'):
    ours = tensors.flatten(getattr(found, name))
    theirs = tensors.flatten(source.variables[name])
    assert ours.keys() == theirs.keys()
    for key, x in theirs.items():
      np.testing.assert_array_equal(ours[key], x, err_msg=key)


def test_init_from_another_model_is_refused(run):
  folder, config, _ = run
  source = convert.load_source(folder / 'run')
  other = config.copy_and_resolve_references()
  other.init_from, other.eval.source = 'run', ''
  other.text.num_heads = 4
  other.data.normalization = 'imagenet'
  with pytest.raises(
    errors.ConfigError, match=r'num_heads: 2, here 4.*mean of pixels'
  ):
    loop.train_and_evaluate(other, folder / 'other', initial=source)


def test_positions_are_resized_for_other_images():
  mesh = sharding.make_mesh(jax.devices()[:1])
  states, described = [], []
  for options in ((), ('size=48', 'sigmoid')):
    config = variant('vit', *options)
    task = task_lib.make(config, 50, mesh)
    tx, _ = state.make_optimizer(config)
    states.append(state.create_state(task, tx, config, mesh))
    described.append(task_lib.architecture(config, 50))
  pixels = {'mean': (0.4, 0.5, 0.6), 'std': (0.2, 0.2, 0.2)}
  source = types.SimpleNamespace(
    architecture=described[0],
    variables=states[0].variables,
    preprocessing=pixels,
  )
  large = initial.start_from(states[1], described[1], pixels, source, mesh)
  params, theirs = large.params, states[0].params
  assert params['image']['embed']['positions'].shape[0] == 1 + 6 * 6
  np.testing.assert_array_equal(
    params['image']['embed']['positions'][0],
    theirs['image']['embed']['positions'][0],
  )
  jax.tree.map(np.testing.assert_array_equal, params['text'], theirs['text'])
  # What the source lacks is as at the start of a run.
  assert params['logit_bias'] == -10
