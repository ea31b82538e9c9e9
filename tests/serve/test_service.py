"""Requests are answered, limited, counted; the same image is encoded once."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from groupvit_jax import inference
from groupvit_jax.serve import Limits, Refusal, Service

NAMES = ['dog', 'grass', 'sky']


@pytest.fixture(scope='module')
def model(tiny_inference):
  return inference.Model(tiny_inference.source())


def draw(seed=0, size=(40, 30)):
  pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()


def test_new_words_need_no_second_pass(model):
  service = Service({'one': model})
  image = draw()
  with service.answering('a'):
    first = service.segment(image, NAMES, background=0.5, top_k=2)
  with service.answering('a'):
    again = service.segment(image, ['sea', 'boat'], model='one')
  assert first.names == ('background', *NAMES) and again.names[0] == 'sea'
  config = first.config
  assert (config.background_threshold, config.top_k) == (0.5, 2)
  assert service.encoded == 1
  service.segment(draw(1), NAMES)
  assert service.encoded == 2
  assert 'groupvit_requests_total{status="200"} 2' in service.metrics()


@pytest.mark.parametrize(
  ('ask', 'status', 'message'),
  [
    ({'image': b'no image'}, 400, 'not an image'),
    ({'names': []}, 400, 'is empty'),
    ({'names': ['x'] * 4}, 400, 'at most 3'),
    ({'names': ['x' * 11]}, 400, 'over 10 characters'),
    ({'model': 'two'}, 400, "no model 'two'; there are one"),
    ({'background': 2.0}, 400, 'in 0..1'),
    ({'top_k': 0}, 400, 'positive'),
    ({'image': draw(size=(200, 300))}, 413, 'at most 0.05'),
  ],
)
def test_what_is_refused(model, ask, status, message):
  limits = Limits(names=3, characters=10, megapixels=0.05)
  service = Service({'one': model}, limits)
  question = {'image': draw(), 'names': NAMES} | ask
  with pytest.raises(Refusal, match=message) as refused, service.answering('a'):
    service.segment(question.pop('image'), question.pop('names'), **question)
  assert refused.value.status == status
  assert service.statuses == {status: 1}


def test_who_asks_too_often_waits_and_others_do_not(model):
  service = Service({'one': model}, Limits(per_minute=2))
  for _ in range(2):
    with service.answering('a'):
      pass
  with (
    pytest.raises(Refusal, match='2 requests a minute') as refused,
    service.answering('a'),
  ):
    pass
  assert refused.value.status == 429
  with service.answering('b'):
    pass


def test_a_turn_is_waited_for_and_the_queue_is_short(model):
  service = Service({'one': model}, Limits(waiting=1, seconds=0.2))
  entered, leave = threading.Event(), threading.Event()

  def hold():
    with service._own_turn():
      entered.set()
      leave.wait(30)

  holder = threading.Thread(target=hold)
  holder.start()
  entered.wait(30)
  with pytest.raises(Refusal, match='no turn within 0.2 s') as refused:
    service.segment(draw(), NAMES)
  assert refused.value.status == 503
  leave.set()
  holder.join()
  assert service.segment(draw(), NAMES).names == tuple(NAMES)
