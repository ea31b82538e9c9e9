"""Every row of the benchmark of backgrounds is an evaluation of its own."""

import argparse
import pathlib
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import background_rows  # noqa: E402
import background_token  # noqa: E402

from groupvit_jax.evaluation import config  # noqa: E402


class Subject(background_rows.Subject):
  """One whose model is not needed: its thresholds are known."""

  def __init__(self, data):
    model = types.SimpleNamespace(architecture={}, short_side=64)
    args = argparse.Namespace(photos=None, limit=5, calibration=5, data_seed=2)
    super().__init__(model, data, args)

  def thresholds(self, each):
    return (0.5,) * (len(self.objects) if each else 1)


@pytest.mark.parametrize('name', background_rows.ROWS)
def test_a_row_is_a_question_of_its_own(name):
  row, subject = background_rows.ROWS[name], Subject('scenes_things')
  spec = row.spec(subject)
  assert spec.benchmark == 'scenes_things'
  assert spec.options == {'count': 5, 'size': 64, 'seed': 2}

  def resolved(spec):
    fields = {f'segment.{k}': v for k, v in spec.overrides.items()}
    return config.make('groupvit', 'scenes_things', background=True, **fields)

  protocol = resolved(spec)
  plain = background_rows.ROWS['released'].spec(subject)
  assert protocol.segment.mode == 'whole'
  assert protocol.segment.short_side == 64
  if name != 'released':
    same = (resolved(plain), plain.class_names)
    assert (protocol, spec.class_names) != same
  if spec.class_names:
    assert protocol.segment.background_threshold is None
    assert len(spec.class_names) == 13


def test_a_background_is_learned_after_training():
  # Of three nouns, each image has its own in one group and none in another.
  axes = np.eye(4, dtype=np.float32)
  own = np.arange(30) % 3
  embeddings = np.stack([0.8 * axes[own] + 0.1, axes[np.full(30, 3)]], 1)
  names = ('cat', 'dog', 'bird')
  model = types.SimpleNamespace(
    variables={},
    tokenizer=lambda texts: np.array(
      [[1 + [n in t for n in names].index(True)] for t in texts]
    ),
    predict_fns={
      'regions': lambda v, x, sizes=None: {
        'embeddings': jnp.asarray(embeddings)[x[:, 0, 0, 0]]
      },
      'text': lambda v, tokens: jnp.asarray(axes)[tokens[:, 0] - 1],
      'logit_scale': lambda v: jnp.float32(20),
    },
  )
  images = np.broadcast_to(
    np.arange(30, dtype=np.uint8)[:, None, None, None], (30, 2, 2, 3)
  )
  captions = [f'a {names[i]}' for i in own]
  token = background_token.fit(model, [images], captions, steps=400)
  fns = background_token.with_token(model.predict_fns, token)
  found = np.asarray(fns['regions']({}, images)['background'])
  # Above what others' nouns have, below what its own has.
  assert (found[:, 0] > 0.1).all() and (found[:, 0] < 0.9).all()


def test_photos_that_are_not_there_are_said_to_be_absent(tmp_path):
  assert background_rows.folder('scenes', None) is None
  assert background_rows.folder('voc21', None) is background_rows.ABSENT
  assert background_rows.folder('voc21', tmp_path) is background_rows.ABSENT
  (tmp_path / 'voc2012').mkdir()
  assert background_rows.folder('voc20', tmp_path) == tmp_path / 'voc2012'
