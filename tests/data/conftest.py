"""Images, samples, shards, a server and training batches for tests."""

import http.server
import importlib.util
import json
import threading
import time
import types
import zlib

import numpy as np
import pytest

from groupvit_jax.data import images, pipeline, reading, sampling, sources
from tests.fixtures.samples import encode, plain, write_tar

HAS_TENSORFLOW = importlib.util.find_spec('tensorflow') is not None


@pytest.fixture(params=['tf', 'numpy'])
def backend(request):
  """Each value of data.backend that can run here."""
  if request.param == 'tf' and not HAS_TENSORFLOW:
    pytest.skip("TensorFlow comes with pip install 'groupvit_jax[train]'")
  return request.param


_CODES = {'fail': 503, 'forbid': 403}


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves a folder with range requests, and the faults that it is told."""

  def do_HEAD(self):
    self._answer(body=False)

  def do_GET(self):
    self._answer(body=True)

  def _answer(self, body):
    path = self.server.folder / self.path.lstrip('/')
    self.server.requests.append((self.command, self.path))
    faults = self.server.faults.get((self.command, self.path), [])
    fault = faults.pop(0) if faults else None
    if fault in _CODES:
      return self.send_error(_CODES[fault])
    if fault == 'stall':
      time.sleep(2.5)
    if not path.is_file():
      return self.send_error(404)
    data, status = path.read_bytes(), 200
    if 'Range' in self.headers and fault != 'no range':
      first, last = self.headers['Range'].removeprefix('bytes=').split('-')
      data, status = data[int(first) : int(last) + 1], 206
    if fault == 'truncate':
      data = data[: len(data) // 2]
    self.send_response(status)
    self.send_header('Content-Length', str(len(data)))
    self.send_header('Accept-Ranges', 'bytes')
    self.end_headers()
    if body:
      self.wfile.write(data[:-1] if fault == 'drop' else data)
    return None

  def log_message(self, *unused):
    pass


@pytest.fixture
def server(tmp_path):
  pytest.importorskip('aiohttp')
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    server.folder = tmp_path / 'served'
    server.folder.mkdir()
    server.faults, server.requests = {}, []
    server.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()


@pytest.fixture(scope='session')
def make():
  """Makes images, samples, sources and shards."""
  return types.SimpleNamespace(
    arrays=arrays,
    color=color,
    encode=encode,
    encoded=encoded,
    listed=Listed,
    noise=noise,
    plain=plain,
    shard=shard,
    tar=write_tar,
  )


@pytest.fixture(scope='session')
def train():
  """Opens and reads training batches."""
  return types.SimpleNamespace(
    open=open_batches, take=take, sign=sign, assert_equal=assert_equal
  )


def noise(seed, height=40, width=48):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def color(sample):
  """The grey level of a sample with a plain image."""
  return images.decode(sample['image']).getpixel((0, 0))[0]


class Listed(reading.Source):
  """A source of given samples."""

  name = 'listed'

  def __init__(self, samples):
    self.samples = samples

  def __len__(self):
    return len(self.samples)

  def __getitem__(self, index):
    return self.samples[index]


def encoded(count=20):
  """JPEG and PNG files and arrays, of several sizes, two captions each."""
  samples = []
  for i in range(count):
    array = noise(i, 30 + i, 50 - i)
    kinds = (encode(array), encode(array, 'PNG'), array)
    captions = (f'a {i}', f'the {i}')
    samples.append({'image': kinds[i % 3], 'caption': captions})
  return Listed(samples)


def arrays(count=20):
  stack = np.stack([noise(i, 24, 24) for i in range(count)])
  captions = [(f'a {i}', f'the {i}') for i in range(count)]
  return sources.ArraySource(stack, captions)


def shard(path, first, count, extra=False):
  """A shard in img2dataset's layout: sample i is an image of grey level i."""
  members = []
  for i in range(first, first + count):
    members.append((f'{i:09d}.jpg', encode(plain(i))))
    if extra:
      members.append((f'{i:09d}.json', json.dumps({'key': i}).encode()))
    members.append((f'{i:09d}.txt', f'caption {i}'.encode()))
  return write_tar(path, members)


def sign(caption):
  """A number that tells captions apart."""
  return zlib.crc32(caption.encode()) & 0x7FFFFFFF


def batcher(captions, positions):
  """Rows [length, sign, position]: enough to tell samples."""
  rows = [
    (len(caption), sign(caption), position)
    for caption, position in zip(captions, positions, strict=True)
  ]
  return np.array(rows, np.int32)[:, None]


def open_batches(
  source,
  batch_size=6,
  start=0,
  process=0,
  processes=1,
  seed=3,
  order=None,
  **options,
):
  positions = sampling.Positions(start, batch_size, process, processes)
  options = {
    'batcher': batcher,
    'image_size': 16,
    'augment': 'light',
  } | options
  reader = reading.Reader(source, seed, order)
  return pipeline.train_batches(reader, positions=positions, **options)


def take(count, source, **options):
  """The first batches, the position after each, and the bad samples."""
  with open_batches(source, **options) as batches:
    out = [(next(batches), batches.position) for _ in range(count)]
    return [b for b, _ in out], [p for _, p in out], batches.bad_samples


def assert_equal(ours, theirs):
  for a, b in zip(ours, theirs, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])
