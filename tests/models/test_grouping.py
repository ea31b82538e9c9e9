"""Assignment of tokens to groups, by hand and at the extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import embeddings
from groupvit_jax.models import grouping
from groupvit_jax.models.grouping import GroupingConfig as Config


def test_straight_through_is_one_hot_forward_and_soft_backward(tiny):
  logits = tiny.normal(2, 3, 5)

  def loss(assign, logits):
    return (
      assign(jax.nn.softmax(logits, 1)) * tiny.normal(2, 3, 5, seed=1)
    ).sum()

  hard = grouping.straight_through(jax.nn.softmax(logits, 1))
  expected = logits == logits.max(1, keepdims=True)
  np.testing.assert_array_equal(hard, expected.astype(np.float32))
  tiny.assert_near(
    jax.grad(loss, 1)(grouping.straight_through, logits),
    jax.grad(loss, 1)(lambda x: x, logits),
  )


def test_a_tie_has_one_winner():
  hard = grouping.straight_through(jnp.full((2, 4, 3), 0.25))
  np.testing.assert_array_equal(hard.sum(1), np.ones((2, 3)))


def test_composed_assignments_are_the_product(tiny):
  soft = [
    jax.nn.softmax(tiny.normal(2, *s), 1) for s in ((6, 10), (4, 6), (3, 4))
  ]
  composed = grouping.compose_assignments(soft)
  assert [c.shape for c in composed] == [(2, 10, 6), (2, 10, 4), (2, 10, 3)]
  first, second, third = map(np.asarray, soft)
  expected = (third @ second @ first).transpose(0, 2, 1)
  tiny.assert_near(composed[-1], expected)
  tiny.assert_near(composed[-1].sum(-1), np.ones((2, 10)))
  assert grouping.compose_assignments([]) == ()


def plain_assign(params, groups, x, assignment):
  """(A V) / (sum A + 1), A one-hot or soft, in numpy."""

  def linear(name, y):
    return y @ np.asarray(params[name]['kernel']) + params[name]['bias']

  q, kv = linear('q', groups), linear('kv', x)
  k, v = np.split(kv, 2, -1)
  logits = q @ k.transpose(0, 2, 1) / np.sqrt(x.shape[-1])
  soft = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  used = soft
  if assignment == 'hard':
    used = (soft == soft.max(1, keepdims=True)).astype(soft.dtype)
  y = used @ v / (used.sum(2, keepdims=True) + 1)
  return linear('out', y), soft


@pytest.mark.parametrize('assignment', grouping.ASSIGNMENTS)
def test_assign_by_hand(tiny, assignment):
  groups, x = tiny.normal(2, 3, 8), tiny.normal(2, 7, 8, seed=1)
  assign = grouping.Assign(Config(assignment=assignment))
  variables = tiny.init(assign, groups, x, False)
  # At its initial scale every map is nearly uniform.
  variables = jax.tree.map(lambda p: 20 * p, variables)
  y, soft, noisy, _ = assign.apply(variables, groups, x, False)
  expected, maps = plain_assign(
    variables['params'], np.asarray(groups), np.asarray(x), assignment
  )
  tiny.assert_near(y, expected)
  tiny.assert_near(soft, maps)
  np.testing.assert_array_equal(soft, noisy)


def test_noise_in_training_follows_the_temperature(tiny, monkeypatch):
  noise = tiny.normal(2, 3, 7, seed=4)
  monkeypatch.setattr(grouping, 'gumbel_noise', lambda rng, shape: noise)
  groups, x = tiny.normal(2, 3, 8), tiny.normal(2, 7, 8, seed=1)
  assign = grouping.Assign(Config(gumbel_temperature=0.5))
  variables = tiny.init(assign, groups, x, False)
  rngs = tiny.RNGS
  _, soft, noisy, _ = assign.apply(variables, groups, x, True, rngs=rngs)
  expected = jax.nn.softmax((jnp.log(soft) + noise) / 0.5, axis=1)
  tiny.assert_near(noisy, expected)


def test_gumbel_noise_has_its_mean_and_deviation(tiny):
  noise = grouping.gumbel_noise(jax.random.key(0), (40_000,))
  tiny.assert_near(noise.mean(), np.euler_gamma, atol=0.03)
  tiny.assert_near(noise.std(), np.pi / np.sqrt(6), atol=0.03)


def test_soft_assignment_draws_no_noise(tiny):
  groups, x = tiny.normal(2, 3, 8), tiny.normal(2, 7, 8, seed=1)
  assign = grouping.Assign(Config(assignment='soft'))
  variables = tiny.init(assign, groups, x, True)
  _, soft, noisy, _ = assign.apply(variables, groups, x, True)  # no rngs
  np.testing.assert_array_equal(soft, noisy)


def test_an_unknown_assignment_names_the_known():
  with pytest.raises(ValueError, match="'firm'; choose one of .'hard', 'soft'"):
    Config(assignment='firm')


def tied_block():
  config = Config(
    group_residual=False, pre_assign_attn=False, token_mixer=False
  )
  return grouping.GroupingBlock(3, 2, config=config)


def test_a_tied_group_holds_only_its_own_tokens(tiny):
  groups, x = tiny.normal(1, 3, 8), tiny.normal(1, 9, 8, seed=1)
  block = tied_block()
  variables = tiny.init(block, x, groups, False)
  variables = jax.tree.map(lambda p: 10 * p, variables)

  def run(x):
    return block.apply(variables, x, groups, False)

  y, soft, _, _ = jax.jit(run)(x)
  winner = int(soft[0, :, 0].argmax())
  moved = x.at[0, 0].add(0.01 * tiny.normal(8, seed=2))
  z, moved_soft, *_ = jax.jit(run)(moved)
  np.testing.assert_array_equal(soft.argmax(1), moved_soft.argmax(1))
  changed = np.abs(y - z).max((0, 2)) > 0
  np.testing.assert_array_equal(changed, np.arange(3) == winner)


def test_parts_are_what_groups_are_made_of(tiny):
  groups, x = tiny.normal(2, 3, 8), tiny.normal(2, 7, 8, seed=1)
  assign = grouping.Assign()
  variables = tiny.init(assign, groups, x, False)
  y, soft, _, parts = assign.apply(variables, groups, x, False)
  bias = variables['params']['out']['bias']
  hard = jax.nn.one_hot(soft.argmax(1), 3, axis=1)
  total = jnp.einsum('bgn,bnd->bgd', hard, parts - bias)
  tiny.assert_near(y, total / (hard.sum(2, keepdims=True) + 1) + bias)


def test_centred_keys_leave_no_group_the_whole_image(tiny):
  groups, x = tiny.normal(2, 3, 8), tiny.normal(2, 7, 8, seed=1)
  x += 10 * tiny.normal(2, 1, 8, seed=2)  # what all patches of a image share
  assign = grouping.Assign(Config(center_keys=True), init_std=1.0)
  variables = tiny.init(assign, groups, x, False)
  _, soft, *_ = assign.apply(variables, groups, x, False)
  share = jax.nn.one_hot(soft.argmax(1), 3, axis=1).mean(2)
  assert share.max() < 1
  # A softmax keeps its logits up to a constant of each token: their averages
  # over the image are equal for all groups.
  mean = jnp.log(soft).mean(2)
  tiny.assert_near(mean, jnp.broadcast_to(mean[:, :1], mean.shape), atol=1e-3)
  _, common, *_ = assign.clone(config=Config()).apply(
    variables, groups, x, False
  )
  assert jax.nn.one_hot(common.argmax(1), 3, axis=1).mean(2).max() == 1


def test_an_empty_tied_group_has_finite_gradients(tiny):
  x = jnp.broadcast_to(tiny.normal(1, 1, 8), (2, 5, 8))  # all go to one group
  groups = tiny.normal(2, 3, 8, seed=1)
  block = tied_block()
  variables = tiny.init(block, x, groups, False)

  def loss(variables):
    y, soft, _, _ = block.apply(variables, x, groups, False)
    return (embeddings.unit_norm(y) * tiny.normal(2, 3, 8, seed=3)).sum(), (
      y,
      soft,
    )

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (_, (y, soft)), grads = step(variables)
  empty = [g for g in range(3) if g not in np.asarray(soft.argmax(1))[0]]
  assert empty
  np.testing.assert_array_equal(y[0, empty], 0)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_token_mixer_is_needed_to_change_the_number(tiny):
  block = tied_block().clone(num_output_groups=4)
  with pytest.raises(ValueError, match='3 group tokens cannot become 4 groups'):
    block.init(
      jax.random.key(0),
      tiny.normal(1, 9, 8),
      tiny.normal(1, 3, 8),
      False,
    )


LAYOUTS = {
  'no blocks after grouping': {
    'depths': (2, 0),
    'num_group_tokens': (5, 0),
    'num_output_groups': (4, 0),
  },
  'grouping is last': {
    'depths': (1,),
    'num_group_tokens': (5,),
    'num_output_groups': (4,),
  },
  'soft, no blocks before grouping': {
    'depths': (0, 1, 1),
    'assignment': 'soft',
  },
  'groups in the second stage only': {
    'num_group_tokens': (0, 4, 0),
    'num_output_groups': (0, 4, 0),
  },
  'tied': {
    'depths': (1, 0),
    'num_group_tokens': (4, 0),
    'num_output_groups': (4, 0),
    'group_residual': False,
    'pre_assign_attn': False,
    'token_mixer': False,
  },
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_any_layout_trains(tiny, layout):
  model = tiny.image_encoder(drop_path_rate=0.3, **LAYOUTS[layout])
  images = tiny.images()
  variables = tiny.init(model, images)

  @jax.jit
  def step(variables):
    def loss(variables):
      pooled, out = model.apply(variables, images, train=True, rngs=tiny.RNGS)
      out.pop('grid')
      return jnp.square(pooled - tiny.normal(3, 16)).mean(), out

    return jax.value_and_grad(loss, has_aux=True)(variables)

  (loss, out), grads = step(variables)
  grouped = [g for g in model.num_output_groups if g]
  assert [a.shape[1] for a in out['assignments']] == grouped
  for soft in (*out['assignments'], *out['noisy_assignments']):
    tiny.assert_near(soft.sum(1), np.ones((3, soft.shape[2])))
  assert out['groups'].shape == (3, grouped[-1], 16)
  assert np.isfinite(loss)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  # Nothing of the image is cut off from the loss.
  assert np.abs(grads['params']['embed']['kernel']).max() > 0


def test_any_image_size_is_encoded(tiny):
  model = tiny.image_encoder(**LAYOUTS['grouping is last'])
  variables = tiny.init(model, tiny.images())
  for h, w in ((8, 4), (19, 30)):
    images = tiny.images(2, h, w)
    pooled, out = tiny.apply(model, variables, images)
    assert out['grid'] == (h // 4, w // 4)
    assert out['assignments'][0].shape == (2, 4, (h // 4) * (w // 4))
    assert np.isfinite(pooled).all()


def test_drop_path_rates_are_linear_over_all_blocks(tiny):
  model = tiny.image_encoder(depths=(2, 1, 2), drop_path_rate=0.4)
  first, second, third = model.drop_path_rates()
  tiny.assert_near([*first, *second, *third], [0, 0.1, 0.2, 0.3, 0.4])
  assert [len(r) for r in (first, second, third)] == [2, 1, 2]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'depths': (1, 1)}, 'one number for each stage'),
    ({'num_output_groups': (6, 0, 0)}, 'needs num_output_groups > 0'),
  ],
)
def test_a_layout_that_does_not_fit_is_refused(tiny, options, message):
  model = tiny.image_encoder(**options)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), tiny.images())


def test_a_soft_group_that_wins_no_token_still_learns():
  config = Config(
    assignment='soft', group_residual=False, pre_assign_attn=False
  )
  block = grouping.GroupingBlock(4, 2, config=config)
  x, groups = jax.random.normal(jax.random.key(1), (2, 1, 6, 8))
  variables = block.init(jax.random.key(0), x, groups[:, :4], True)
  _, soft, _, _ = block.apply(variables, x, groups[:, :4], True)
  losers = set(range(4)) - set(np.unique(soft.argmax(1)).tolist())
  assert losers, 'the test needs a group that wins nothing'

  def total(x):
    y, *_ = block.apply(variables, x, groups[:, :4], True)
    return jnp.square(y[0, sorted(losers)]).sum()

  assert np.abs(jax.grad(total)(x)).max() > 0


def test_a_group_without_tokens_passes_no_gradient():
  assignment = jnp.array([[[0.9, 0.6], [0.1, 0.4]]])  # group 1 wins nothing

  def total(y):
    return grouping.stop_gradient_if_empty(y, assignment).sum()

  gradient = jax.grad(total)(jnp.ones((1, 2, 3)))
  np.testing.assert_array_equal(gradient[0, 0], np.ones(3))
  np.testing.assert_array_equal(gradient[0, 1], np.zeros(3))
