"""Files of each kind, mutated by rules of their format, are read.

A process of its own: `python fuzz.py KIND COUNT SEED` reads COUNT files and
prints one JSON object. A case is made from (seed, number) alone, so a failure
is made again by `python fuzz.py KIND 1 SEED NUMBER`. A case fails if it raises
anything but the refusal of its kind, takes over 5 seconds of processor time, or
makes the process grow by more than 1 GB; a crash ends the process. Several
kinds, and as many counts, are joined by commas: an object each.
"""

import collections
import contextlib
import faulthandler
import io
import json
import math
import pathlib
import pickletools
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from groupvit_jax import convert, errors
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.convert import tensors, torch_files
from groupvit_jax.data import images, tar
from tests.fixtures import golden_models, pickles

SECONDS = 5
GROWTH = 2**30  # bytes

_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32)
_NUMBERS += tuple(-n for n in _NUMBERS) + (
  2**62,
  2**63 - 1,
  2**64 - 1,
  -(2**63),
)


# Bytes of any format.


def mutated(rng: random.Random, data: bytes, first: int | None = None) -> bytes:
  """One to four changes of bytes, in the first `first` of them."""
  data = bytearray(data)
  for _ in range(rng.randint(1, 4)):
    end = min(len(data), first or len(data))
    at = rng.randrange(end + 1) if end else 0
    length = min(end - at, rng.choice((1, 2, 4, 8, 64, 500)))
    match rng.randrange(6):
      case 0 if at < len(data):
        data[at] ^= 1 << rng.randrange(8)
      case 1:
        data[at : at + length] = rng.randbytes(length)
      case 2:
        del data[at : at + length]
      case 3:
        data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))
      case 4:
        size = rng.choice((1, 2, 4, 8))
        number = rng.choice(_NUMBERS) % 256**size
        order = rng.choice(('big', 'little'))
        data[at : at + size] = number.to_bytes(size, order)
      case 5 if not first:
        del data[at:]
  return bytes(data)


# Images.


def _image_seeds() -> dict[str, bytes]:
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 255, (40, 60, 4), np.uint8)
  pixels[:20] = 90
  rgba = Image.fromarray(pixels)
  deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
  seeds = {}
  for name, image, form, options in (
    ('jpeg', rgba.convert('RGB'), 'JPEG', {}),
    ('progressive', rgba.convert('RGB'), 'JPEG', {'progressive': True}),
    ('grey', rgba.convert('L'), 'JPEG', {}),
    ('cmyk', rgba.convert('CMYK'), 'JPEG', {}),
    ('png', rgba, 'PNG', {}),
    ('palette', rgba.convert('P'), 'PNG', {}),
    ('deep', deep, 'PNG', {}),
    ('bits', rgba.convert('1'), 'PNG', {}),
    ('webp', rgba.convert('RGB'), 'WEBP', {}),
    ('lossless', rgba, 'WEBP', {'lossless': True}),
    ('gif', rgba.convert('P'), 'GIF', {}),
    ('bmp', rgba.convert('RGB'), 'BMP', {}),
    ('tiff', rgba.convert('RGB'), 'TIFF', {}),
    (
      'deflated',
      rgba.convert('RGB'),
      'TIFF',
      {'compression': 'tiff_adobe_deflate'},
    ),
    ('float', Image.fromarray(pixels[..., 0].astype(np.float32)), 'TIFF', {}),
    ('eps', rgba.convert('RGB'), 'EPS', {}),
    ('ppm', rgba.convert('RGB'), 'PPM', {}),
    ('ico', rgba, 'ICO', {}),
  ):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    seeds[name] = buffer.getvalue()
  return seeds


IMAGE_SEEDS = _image_seeds()


def _mutated_png(rng: random.Random, data: bytes) -> bytes:
  """Chunks are changed, lost or doubled; most checksums are right again."""
  chunks, at = [], 8
  while at + 8 <= len(data):
    (length,) = struct.unpack('>I', data[at : at + 4])
    chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
    at += 12 + length
  i = rng.randrange(len(chunks))
  kind, body = chunks[i]
  match rng.randrange(5):
    case 0:
      chunks[i] = (kind, mutated(rng, body) if body else b'x')
    case 1:
      del chunks[i]
    case 2:
      chunks[i:i] = [chunks[i]] * rng.choice((1, 3, 200))
    case 3:
      width, height = (rng.choice(_NUMBERS) % 2**32 for _ in range(2))
      head = struct.pack('>II', width, height) + chunks[0][1][8:]
      chunks[0] = (chunks[0][0], head)
    case 4:
      text = zlib.compress(bytes(rng.choice((10, 10**6, 10**8))))
      chunks[1:1] = [(b'zTXt', b'key\0\0' + text)]
  out = data[:8]
  for kind, body in chunks:
    check = zlib.crc32(kind + body) if rng.random() < 0.9 else 7
    out += struct.pack('>I', len(body)) + kind + body + struct.pack('>I', check)
  return out


def _mutated_jpeg(rng: random.Random, data: bytes) -> bytes:
  """Segments are changed, lost or doubled, scans many times."""
  parts, at = [], 2
  while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xD9:
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    if data[at + 1] == 0xDA:
      following = end
      while following < len(data) - 1 and (
        data[following] != 0xFF
        or data[following + 1] in (0, *range(0xD0, 0xD8))
      ):
        following += 1
      end = following
    parts.append(data[at:end])
    at = end
  i = rng.randrange(len(parts))
  match rng.randrange(5):
    case 0:
      parts[i] = parts[i][:4] + mutated(rng, parts[i][4:])
    case 1:
      del parts[i]
    case 2:
      parts[i:i] = [parts[i]] * rng.choice((1, 3, 300))
    case 3:
      frames = [j for j, p in enumerate(parts) if p[1] in (0xC0, 0xC2)]
      for j in frames:
        sides = struct.pack(
          '>HH', *(rng.choice(_NUMBERS) % 65536 for _ in '12')
        )
        parts[j] = parts[j][:5] + sides + parts[j][9:]
    case 4:
      parts[i] = parts[i][:2] + rng.randbytes(2) + parts[i][4:]
  return data[:2] + b''.join(parts) + b'\xff\xd9'


def image_case(rng: random.Random) -> bytes:
  """An image file, mutated."""
  name = rng.choice(list(IMAGE_SEEDS))
  data = IMAGE_SEEDS[name]
  if rng.random() < 0.6:
    if data[:4] == b'\x89PNG':
      return _mutated_png(rng, data)
    if data[:2] == b'\xff\xd8':
      return _mutated_jpeg(rng, data)
    return mutated(rng, data, first=200)
  if rng.random() < 0.1:
    other = IMAGE_SEEDS[rng.choice(list(IMAGE_SEEDS))]
    cut = rng.randrange(len(data))
    return data[:cut] + other[cut:]
  return mutated(rng, data)


def read_image(rng: random.Random, folder: pathlib.Path) -> str:
  """As training and as inference read it."""
  data = image_case(rng)
  outcome = 'read'
  try:
    images.open_image(data, 'an image')
  except errors.ImageError:
    outcome = 'refused'
  try:
    images.decode(data)
  except images.BadSampleError as error:
    return f'{outcome}, bad sample: {getattr(error, "reason", "")}'
  return outcome


# Tar shards.

_CAPTIONS = (
  b'a cat on a mat',
  b'',
  b'\0',
  b'\xef\xbb\xbf',
  '​'.encode(),
  'a cat'.encode('utf-16'),
  b'\xff\xfe\xfa',
  b'{"caption": "a dog"}',
  b'{"caption": 3}',
  b'{"caption": ' * 5000,
  b'[' * 50_000 + b']' * 50_000,
  b'{"caption": "\\ud800"}',
  b'{"text": ' + b'9' * 5000 + b'}',
  b'x' * 200_000,
)


def _header(rng: random.Random, name: str, size: int, kind: bytes) -> bytes:
  """A header of ustar, of which a field may be wrong; its checksum is right."""
  head = bytearray(512)
  head[: len(name[:100])] = name[:100].encode()
  head[100:108] = b'0000644\0'
  head[124:136] = b'%011o\0' % size
  head[156:157] = kind
  head[257:265] = b'ustar\x0000'
  if rng.random() < 0.04:
    number = rng.choice((*_NUMBERS, size + 1, size - 1, 2**70))
    head[124:136] = rng.choice(
      (
        (number % 2**95 | 1 << 95).to_bytes(12, 'big'),
        b'-%010o\0' % abs(number % 2**29),
        b'%011o\0' % (abs(number) % 8**11),
        rng.randbytes(12),
        b'            ',
      )
    )
  if rng.random() < 0.02:
    head[156:157] = rng.choice((b'x', b'g', b'L', b'K', b'1', b'2', b'5', b'S'))
  head[148:156] = b' ' * 8
  head[148:156] = b'%06o\0 ' % sum(head)
  if rng.random() < 0.01:
    head[148:156] = b'0000000\0'
  return bytes(head)


_PAX = (
  b'19 path=long.jpg\n',
  b'0 path=a\n',
  b'-5 path=a\n',
  b'99999999999 path=a\n',
  b'path=a',
  b'',
  b'20 size=-1\n',
  b'18 size=99999999\n',
  b'\xff\xff',
)


def tar_case(rng: random.Random) -> bytes:
  """A shard of some samples, some members of which are wrong."""
  out = b''
  for i in range(rng.randint(1, 6)):
    image = IMAGE_SEEDS[rng.choice(('jpeg', 'png', 'webp'))]
    if rng.random() < 0.3:
      image = image_case(rng)
    key = rng.choice((f'{i:04}', f'{i:04}', f'{i:04}', '../x', 'a.b', 'é', ''))
    members = [
      (f'{key}.jpg', image),
      (
        f'{key}.{rng.choice(("txt", "json"))}',
        rng.choice(_CAPTIONS) if rng.random() < 0.6 else _CAPTIONS[0],
      ),
    ]
    if rng.random() < 0.1:
      rng.shuffle(members)
    for name, content in members:
      if rng.random() < 0.05:
        extra = rng.choice(_PAX)
        kind = rng.choice((b'x', b'g', b'L'))
        out += _header(rng, 'pax', len(extra), kind)
        out += extra + bytes(-len(extra) % 512)
      out += _header(rng, name, len(content), b'0')
      out += content + bytes(-len(content) % 512)
  out += bytes(1024)
  return mutated(rng, out) if rng.random() < 0.2 else out


def read_tar(rng: random.Random, folder: pathlib.Path) -> str:
  """Indexes a shard and reads every sample of it."""
  path = folder / 'shard.tar'
  path.write_bytes(tar_case(rng))
  try:
    source = tar.TarSource(str(path))
  except (errors.SourceError, ValueError) as error:
    assert 'shard.tar' in str(error), error
    return 'refused'
  outcomes = collections.Counter()
  for i in range(len(source)):
    try:
      images.decode(source[i]['image'])
      outcomes['read'] += 1
    except images.BadSampleError:
      outcomes['bad'] += 1
  return 'some bad' if outcomes['bad'] else 'read'


# Model folders.

_LEAVES = (
  *(None, True, '', 'x' * 1000, [], {}, [[]], 0, -1, 1, 2, 1e308, -0.5),
  *(float('nan'), float('inf'), 10**6, 3 * 10**8, 2**31, 2**63, 10**400),
  *([1] * 1000, '\x1b[2J', '../../x', '\ud800', [0.0] * 3, [1, 2]),
)


def _mutate_json(rng: random.Random, value: Any) -> Any:
  """One value somewhere in it is replaced, lost or doubled."""
  node, parent, key = value, None, None
  while isinstance(node, dict | list) and node and rng.random() < 0.9:
    keys = list(node) if isinstance(node, dict) else range(len(node))
    parent, key = node, rng.choice(list(keys))
    node = parent[key]
  if parent is None:
    return rng.choice(_LEAVES)
  match rng.randrange(8):
    case 0:
      del parent[key]
    case 1 if isinstance(parent, list):
      parent.append(node)
    case 1:
      parent[f'{key}_'] = node
    case 2 if isinstance(node, int | float):
      parent[key] = node * rng.choice((2, 3, -1, 0, 1000, 0.5))
    case 3 if isinstance(node, int | float):
      parent[key] = node + rng.choice((1, -1))
    case _:
      parent[key] = rng.choice(_LEAVES)
  return value


class Folders:
  """A model folder, and changes of it."""

  def __init__(self):
    model = golden_models.converted(golden_models.load())
    with tempfile.TemporaryDirectory() as name:
      folder = model_folder.write(pathlib.Path(name) / 'm', model)
      self._files = {p.name: p.read_bytes() for p in folder.iterdir()}
      self._arrays = tensors.read(folder / 'model.safetensors')[0]

  def __call__(self, rng: random.Random, folder: pathlib.Path) -> str:
    folder = folder / 'model'
    folder.mkdir()
    files = dict(self._files)
    if rng.random() < 0.7:
      config, arrays = json.loads(files['config.json']), dict(self._arrays)
      for _ in range(rng.choice((1, 1, 1, 2, 3))):
        config = _mutate_json(rng, config)
      if rng.random() < 0.3:
        name = rng.choice(list(arrays))
        x = arrays[name]
        arrays[name] = rng.choice(
          (x[:0], x * np.nan, x.astype(np.int32), x[None], x.ravel()[:1])
          if x.ndim
          else (x[None], x * np.inf)
        )
        if rng.random() < 0.3:
          del arrays[name]
      with contextlib.suppress(KeyError, TypeError, ValueError):
        config['sha256'] = model_folder._digest(config, arrays)  # fits again
      files['config.json'] = json.dumps(config).encode()
      tensors.write(folder / 'model.safetensors', arrays, model_folder.MARK)
      files['model.safetensors'] = (folder / 'model.safetensors').read_bytes()
    else:
      name = rng.choice(('config.json', 'model.safetensors'))
      data = files[name]
      if name == 'model.safetensors' and rng.random() < 0.7:
        length = int.from_bytes(data[:8], 'little')
        header = _mutate_json(rng, json.loads(data[8 : 8 + length]))
        text = json.dumps(header).encode()
        files[name] = (
          len(text).to_bytes(8, 'little') + text + data[8 + length :]
        )
      else:
        files[name] = mutated(rng, data)
    for name, data in files.items():
      (folder / name).write_bytes(data)
    try:
      model = convert.load_source(folder)
    except errors.ModelError as error:
      assert len(str(error)) < 4000, len(str(error))
      return 'refused'
    convert.describe(model)
    return 'read'


# PyTorch's files.


def _torch_content(rng: random.Random) -> dict[str, Any]:
  def tensor():
    array = np.arange(rng.choice((0, 1, 6, 100)), dtype=np.float32)
    if rng.random() < 0.7:
      return array
    claims = {
      'offset': rng.choice(_NUMBERS),
      'count': rng.choice(_NUMBERS),
      'shape': tuple(rng.choice(_NUMBERS) for _ in range(rng.randrange(4))),
      'strides': tuple(rng.choice(_NUMBERS) for _ in range(rng.randrange(4))),
    }
    some = rng.sample(list(claims), rng.randint(1, 3))
    return pickles.View(array, **{k: claims[k] for k in some})

  weights = {f'layer.{i}': tensor() for i in range(rng.randint(1, 5))}
  if rng.random() < 0.5:
    return weights
  return {
    'model': weights,
    'epoch': rng.choice(_NUMBERS),
    'config': {'a': [1, {'b': [2.5, 'c', None, True]}]},
    'metrics': {'max_miou': 1.5},
  }


def _mutate_pickle(rng: random.Random, data: bytes) -> bytes:
  """Instructions are lost, doubled, swapped, or have other arguments."""
  places = [at for _, _, at in pickletools.genops(data)] + [len(data)]
  parts = [data[a:b] for a, b in zip(places, places[1:], strict=False)]
  for _ in range(rng.randint(1, 3)):
    i = rng.randrange(1, len(parts))
    match rng.randrange(5):
      case 0:
        del parts[i]
      case 1:
        parts[i:i] = [parts[i]] * rng.choice((1, 2, 10_000))
      case 2:
        j = rng.randrange(1, len(parts))
        parts[i], parts[j] = parts[j], parts[i]
      case 3:
        number = struct.pack('<i', rng.choice(_NUMBERS) % 2**31)
        parts[i] = rng.choice((b'J', b'r', b'j', b'X')) + number
      case 4:
        parts[i] = rng.choice(
          (
            b'0',
            b'1',
            b'2',
            b'(',
            b't',
            b'R',
            b'b',
            b'\x81',
            b'Q',
            b'ccollections\nOrderedDict\n',
            b'cos\nsystem\n',
            b'\x85' * 30_000,
          )
        )
    if len(parts) < 3:
      break
  return b''.join(parts)


def read_pth(rng: random.Random, folder: pathlib.Path) -> str:
  """Reads a file of weights."""
  path = folder / 'weights.pth'
  content, legacy = _torch_content(rng), rng.random() < 0.3
  if legacy or rng.random() < 0.4:
    try:
      pickles.save(content, path, legacy=legacy)
    except (struct.error, OverflowError):
      return 'not made'
    if rng.random() < 0.7:
      path.write_bytes(mutated(rng, path.read_bytes()))
  else:
    body, storages = pickles.pickled(content)
    members = {'data.pkl': _mutate_pickle(rng, body)}
    for i, x in enumerate(storages):
      members[f'data/{i}'] = x.tobytes()
    if rng.random() < 0.2:
      members.pop(rng.choice(list(members)))
    pickles.write_members(path, members)
  try:
    state = torch_files.read_state_dict(path)
  except errors.ModelError as error:
    assert len(str(error)) < 4000, len(str(error))
    return 'refused'
  assert sum(x.nbytes for x in state.arrays.values()) < 10**6
  return 'read'


KINDS: dict[str, Callable[[], Callable[[random.Random, pathlib.Path], str]]] = {
  'images': lambda: read_image,
  'tars': lambda: read_tar,
  'folders': Folders,
  'pth': lambda: read_pth,
}


class Hang(BaseException):
  """A case took too long; no handler of errors catches it."""


def _on_alarm(*unused: Any) -> None:
  raise Hang


def main(kind: str, count: int, seed: int, first: int = 0) -> dict[str, Any]:
  """Reads `count` files from number `first` on; returns the figures."""
  # Ends the process where no Python runs for a minute.
  faulthandler.enable()
  read = KINDS[kind]()
  signal.signal(signal.SIGVTALRM, _on_alarm)
  outcomes, failures, slowest = collections.Counter(), [], 0.0
  scratch = pathlib.Path(tempfile.mkdtemp(prefix='fuzz_'))
  for number in range(first, first + count):
    faulthandler.dump_traceback_later(60, exit=True)
    folder = scratch / str(number)
    folder.mkdir()
    if number == first + min(count - 1, 20):
      before = _peak()  # whatever is imported and compiled on the way is there
    start = time.process_time()
    try:
      signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
      outcome = read(random.Random(f'{kind} {seed} {number}'), folder)
      outcomes[outcome] += 1
    except Hang:
      failures.append((number, f'took over {SECONDS} s'))
    except Exception as error:
      failures.append((number, f'{type(error).__name__}: {str(error)[:300]}'))
    finally:
      signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    slowest = max(slowest, time.process_time() - start)
    shutil.rmtree(folder)
  faulthandler.cancel_dump_traceback_later()
  shutil.rmtree(scratch)
  growth = _peak() - before
  if growth > GROWTH:
    failures.append((-1, f'grew by {growth} bytes'))
  return {
    'kind': kind,
    'seed': seed,
    'count': count,
    'outcomes': dict(outcomes),
    'slowest_seconds': round(slowest, 2),
    'grew_mb': math.ceil(growth / 2**20),
    'failures': failures,
  }


def _peak() -> int:
  """The most memory that the process has had, in bytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == '__main__':
  kinds, counts, *rest = sys.argv[1:]
  for one, many in zip(kinds.split(','), counts.split(','), strict=True):
    print(json.dumps(main(one, int(many), *map(int, rest))))
