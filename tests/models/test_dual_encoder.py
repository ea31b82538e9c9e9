"""The joint space: shapes, unit vectors, statistics, logit scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def assert_unit(tiny, x):
  assert x.dtype == jnp.float32
  tiny.assert_near(jnp.linalg.norm(x, axis=-1), np.ones(x.shape[:-1]))


def shapes(tiny, model):
  return jax.eval_shape(
    model.init, jax.random.key(0), tiny.images(), tiny.tokens()
  )


@pytest.fixture(scope='module')
def groupvit(tiny):
  model = tiny.dual()
  return model, tiny.init(model, tiny.images(), tiny.tokens())


@pytest.fixture(scope='module')
def trained(tiny, groupvit):
  """A step's outputs and statistics, without and with group embeddings."""
  model, variables = groupvit

  @jax.jit
  def step(variables):
    return [
      model.apply(
        variables,
        tiny.images(),
        tiny.tokens(),
        train=True,
        with_groups=with_groups,
        rngs=tiny.RNGS,
        mutable=['batch_stats'],
      )
      for with_groups in (False, True)
    ]

  return step(variables)


def test_outputs_are_unit_vectors_of_the_joint_width(tiny, trained):
  result, _ = trained[1]
  assert result['image'].shape == (3, 12)
  assert result['texts'].shape == (3, 2, 12)
  assert result['groups'].shape == (3, 3, 12)
  for name in ('image', 'texts', 'groups'):
    assert_unit(tiny, result[name])
  assert [a.shape for a in result['assignments']] == [(3, 6, 16), (3, 3, 6)]


def test_groups_neither_see_nor_make_batch_statistics(groupvit, trained):
  _, variables = groupvit
  (plain, stats), (_, stats_with_groups) = trained
  assert 'groups' not in plain
  jax.tree.map(np.testing.assert_array_equal, stats, stats_with_groups)
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).max() > 0,
    stats['batch_stats'],
    variables['batch_stats'],
  )
  assert all(jax.tree.leaves(moved))


def test_noise_is_drawn_in_training_only(tiny, groupvit):
  model, variables = groupvit
  variables = {'params': variables['params']['image']}

  def maps(**options):
    _, out = model.image.apply(variables, tiny.images(), **options)
    return zip(out['assignments'], out['noisy_assignments'], strict=True)

  for soft, noisy in maps(train=True, rngs=tiny.RNGS):
    assert np.abs(soft - noisy).max() > 0.1
  for soft, noisy in maps():  # needs no rngs
    np.testing.assert_array_equal(soft, noisy)


def test_encode_methods_agree_with_the_call(tiny, groupvit):
  model, variables = groupvit
  result = tiny.apply(
    model,
    variables,
    tiny.images(),
    tiny.tokens(),
    with_groups=True,
  )
  texts = tiny.tokens().reshape(6, -1)

  def encode(method, *args, **kwargs):
    return tiny.apply(model, variables, *args, method=method, **kwargs)

  tiny.assert_near(encode('encode_image', tiny.images()), result['image'])
  tiny.assert_near(encode('encode_text', texts), result['texts'].reshape(6, -1))
  raw = encode('encode_text', texts, normalize=False)
  tiny.assert_near(
    raw / jnp.linalg.norm(raw, axis=-1, keepdims=True),
    result['texts'].reshape(6, -1),
  )
  regions = encode('encode_regions', tiny.images())
  tiny.assert_near(regions['image'], result['image'])
  tiny.assert_near(regions['embeddings'], result['groups'])
  assert [s.shape for s in regions['stages']] == [(3, 4, 4, 6), (3, 4, 4, 3)]
  tiny.assert_near(regions['stages'][-1].sum(-1), np.ones((3, 4, 4)))


def test_regions_of_another_size_keep_rows_and_columns(tiny, groupvit):
  model, variables = groupvit
  regions = tiny.apply(
    model, variables, tiny.images(2, 8, 28), method='encode_regions'
  )
  _, out = tiny.apply(
    model.image,
    {'params': variables['params']['image']},
    tiny.images(2, 8, 28),
  )
  first = np.asarray(out['assignments'][0])  # b g (h w), row-major
  assert regions['stages'][0].shape == (2, 2, 7, 6)
  tiny.assert_near(regions['stages'][0][:, 1, 4], first[:, :, 1 * 7 + 4])


def test_vit_gives_its_patches_as_regions_without_maps(tiny):
  model = tiny.dual(tiny.vit_encoder())
  variables = tiny.init(model, tiny.images(), tiny.tokens())
  regions = tiny.apply(model, variables, tiny.images(), method='encode_regions')
  assert regions['embeddings'].shape == (3, 16, 12)
  assert regions['stages'] == ()
  assert_unit(tiny, regions['embeddings'])
  result = tiny.apply(model, variables, tiny.images(), tiny.tokens())
  assert result['assignments'] == ()


def test_one_linear_projector_has_no_statistics(tiny):
  variables = shapes(tiny, tiny.dual(projector_width=0))
  assert 'batch_stats' not in variables
  assert variables['params']['image_projector'].keys() == {'fc2'}


def test_logit_scales_start_as_released_and_are_clamped(groupvit):
  model, variables = groupvit

  def scales(**params):
    params = {'params': variables['params'] | params}
    methods = 'logit_scale', 'multi_label_logit_scale'
    return [float(model.apply(params, method=method)) for method in methods]

  np.testing.assert_allclose(scales(), (1 / 0.07, 1 / 0.07), rtol=1e-6)
  np.testing.assert_allclose(
    scales(logit_scale=jnp.asarray(9.0)), (100, 1 / 0.07), rtol=1e-6
  )


def test_a_shared_scale_is_one_parameter(tiny):
  model = tiny.dual(separate_multi_label_scale=False)
  assert 'multi_label_logit_scale' not in shapes(tiny, model)['params']
  variables = {'params': {'logit_scale': jnp.asarray(1.0)}}
  tiny.assert_near(
    model.apply(variables, method='multi_label_logit_scale'), jnp.e
  )


def test_what_follows_the_end_token_has_no_influence(tiny):
  model = tiny.text_encoder()
  ids = tiny.tokens().reshape(6, -1)
  variables = tiny.init(model, ids)
  y = tiny.apply(model, variables, ids)
  ended = jnp.cumsum(ids == 31, axis=1) > 0
  garbage = jnp.where(ended & (ids != 31), 7, ids)
  tiny.assert_near(tiny.apply(model, variables, garbage), y, atol=1e-6)
  longest = int(ids.argmax(1).max()) + 1
  assert longest < ids.shape[1]
  # Products of another shape add up in another order.
  tiny.assert_near(tiny.apply(model, variables, ids[:, :longest]), y, atol=5e-6)
  # Two end tokens: the first is read.
  twice = ids.at[0, -1].set(31)
  tiny.assert_near(tiny.apply(model, variables, twice), y, atol=1e-6)


def test_a_text_beyond_the_context_is_refused(tiny):
  ids = jnp.zeros((1, 10), jnp.int32)
  with pytest.raises(ValueError, match='10 tokens exceed context_length 9'):
    tiny.text_encoder().init(jax.random.key(0), ids)


def test_bfloat16_gives_float32_outputs_near_the_exact(tiny, groupvit):
  _, variables = groupvit
  rounded = tiny.dual(
    tiny.image_encoder(dtype=jnp.bfloat16, assignment='soft'),
    dtype=jnp.bfloat16,
  )
  exact = tiny.dual(tiny.image_encoder(assignment='soft'))
  dtypes = {p.dtype for p in jax.tree.leaves(shapes(tiny, rounded))}
  assert dtypes == {jnp.dtype('float32')}
  ours = tiny.apply(
    rounded,
    variables,
    tiny.images(),
    tiny.tokens(),
    with_groups=True,
  )
  theirs = tiny.apply(
    exact,
    variables,
    tiny.images(),
    tiny.tokens(),
    with_groups=True,
  )
  floats = {x.dtype for x in jax.tree.leaves(ours)}
  assert floats == {jnp.dtype('float32')}
  jax.tree.map(lambda a, b: tiny.assert_near(a, b, atol=0.08), ours, theirs)
