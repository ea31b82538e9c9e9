"""Prepares pairs for training: checked, scaled, without duplicates, in shards.

The work is cut into shards, each a function of the plan and its number, so that
processes of one machine, or Apache Beam, do them in any order, and a run that
was stopped goes on.
"""

import collections
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt64
from PIL import Image

from groupvit_jax import errors, files, processes
from groupvit_jax.data import (
  augment,
  remote,
  sampling,
  tables,
  writers,
)
from groupvit_jax.data import captions as captions_lib
from groupvit_jax.data import images as images_lib
from groupvit_jax.data.images import BadSampleError
from groupvit_jax.data.reading import Source
from groupvit_jax.data.shards import MANIFEST

DROPPED = 'dropped.jsonl'
_PROGRESS = '.progress'
_KEPT = {'JPEG': 'jpg', 'MPO': 'jpg', 'PNG': 'png', 'WEBP': 'webp'}
_ORIENTATION = 0x0112
_QUALITY = 90  # of JPEGs that are written anew


@dataclasses.dataclass(frozen=True)
class Plan:
  """Sources, target and options of a conversion.

  Fields:
    sources: tables, shards or addresses (see `tables.open_source`).
    out: folder or address of the shards.
    format: 'tar', 'array_record' or 'tfrecord'.
    short_side: most pixels of an image's short side; None keeps all sizes.
    shard_size: samples of the input per shard.
    shuffle: seed of a permutation of all samples; None keeps their order.
    keep_duplicates: whether pairs of equal bytes stay.
    images: folder that image paths of tables are relative to.
    columns: (kind, name) of columns with other names than usual.
  """

  sources: tuple[str, ...]
  out: str
  format: str = 'tar'
  short_side: int | None = None
  shard_size: int = 5_000
  shuffle: int | None = None
  keep_duplicates: bool = False
  images: str | None = None
  columns: tuple[tuple[str, str], ...] = ()

  @property
  def shards(self) -> int:
    """Number of shards."""
    return -(-len(opened(self)) // self.shard_size)

  def indices(self, number: int) -> list[int]:
    """Samples of the source that belong to a shard."""
    source = opened(self)
    first = number * self.shard_size
    positions = np.arange(first, min(first + self.shard_size, len(source)))
    if self.shuffle is None:
      return positions.tolist()
    return sampling.EpochShuffle(len(source), self.shuffle)(positions).tolist()

  def record(self) -> dict[str, Any]:
    """The plan and its source, fit for JSON; the same plan, the same record."""
    fields = dataclasses.asdict(self)
    del fields['out']
    fields |= {'quality': _QUALITY, 'source': opened(self).identity()}
    return json.loads(json.dumps(fields))


@functools.lru_cache(1)
def opened(plan: Plan) -> Source:
  """The source of a plan, opened once in a process."""
  return tables.open_source(
    plan.sources,
    images=plan.images,
    columns=dict(plan.columns),
    cache=remote.own_cache(),
  )


def prepare(
  sample: dict[str, Any], short_side: int | None
) -> tuple[str, bytes, tuple[str, ...]]:
  """Checks a sample, and scales its image down if it is larger.

  A JPEG, PNG or WebP that is upright and small enough keeps its bytes.

  Args:
    sample: 'image' (encoded) and 'caption' (one or several).
    short_side: most pixels of the short side; None for any.

  Returns:
    Suffix of the image's format, encoded image, captions.

  Raises:
    BadSampleError: it cannot be used.
  """
  captions = captions_lib.clean_captions(sample['caption'])
  data = sample['image']
  image = images_lib.decode(data, max_pixels=augment.MAX_PIXELS)
  header = images_lib.open_header(io.BytesIO(data))
  factor = (short_side or min(image.size)) / min(image.size)
  upright = header.getexif().get(_ORIENTATION, 1) == 1
  if factor >= 1 and header.format in _KEPT and upright:
    return _KEPT[header.format], data, captions
  if factor < 1:
    width, height = (max(1, round(side * factor)) for side in image.size)
    image = image.resize(
      (width, height), Image.Resampling.BICUBIC, reducing_gap=3.0
    )
  out = io.BytesIO()
  image.save(out, 'JPEG', quality=_QUALITY)
  return 'jpg', out.getvalue(), captions


def digests(plan: Plan, number: int) -> UInt64[np.ndarray, 'n']:
  """Hashes of the pairs of a shard, by their bytes; 0 for unreadable ones."""
  return np.array(
    [_digest(opened(plan), index) for index in plan.indices(number)], np.uint64
  )


def _digest(source, index):
  try:
    sample = source[index]
    captions = captions_lib.clean_captions(sample['caption'])
  except BadSampleError:
    return 0
  sha = hashlib.sha256(sample['image'])
  sha.update('\n'.join(captions).encode())
  return int.from_bytes(sha.digest()[:8])


def convert_shard(
  plan: Plan, number: int, duplicates: tuple[int, ...] = ()
) -> dict[str, Any]:
  """Converts a shard, unless an earlier run has.

  Args:
    plan: what to do.
    number: of the shard.
    duplicates: places in the shard of pairs that are duplicates of others.

  Returns:
    Its `name`, `samples`, `bytes`, `sha256`, and `dropped`: a list of
    [sample, reason, message].
  """
  store = Store(plan.out)
  done = store.read(f'{_PROGRESS}/shard-{number:05d}.json')
  if done:
    return json.loads(done)
  dropped: list[tuple[str, str, str]] = []
  name = f'{number:05d}.{plan.format}'
  pairs = _prepared(plan, number, set(duplicates), dropped)
  entry: dict[str, Any] = {'name': name, 'samples': 0, 'dropped': dropped}
  if first := next(pairs, None):
    pairs = itertools.chain([first], pairs)
    entry |= writers.write_shard(plan.out, name, pairs)
    entry['samples'] = len(plan.indices(number)) - len(dropped)
  store.write(f'{_PROGRESS}/shard-{number:05d}.json', json.dumps(entry))
  return entry


def _prepared(
  plan: Plan, number: int, duplicates: set[int], dropped: list
) -> Iterator[tuple[str, str, bytes, tuple[str, ...]]]:
  """Yields the pairs of a shard, and lists the others in `dropped`."""
  source = opened(plan)
  for place, index in enumerate(plan.indices(number)):
    try:
      if place in duplicates:
        raise BadSampleError('equal to another pair', 'duplicate')
      made = prepare(source[index], plan.short_side)
    except BadSampleError as error:
      name = source.describe(index)
      dropped.append((name, error.reason, str(error)))
      continue
    yield f'{number * plan.shard_size + place:09d}', *made


def convert(
  plan: Plan,
  *,
  workers: int | None = None,
  overwrite: bool = False,
) -> dict[str, Any]:
  """Converts on this machine.

  Args:
    plan: what to do.
    workers: processes; None means one for each core.
    overwrite: whether what is at `plan.out` is removed first.

  Returns:
    The manifest, as written to `manifest.json`.

  Raises:
    SourceError: the folder holds the result of another plan.
    ValueError, OSError: a source that cannot be read, or a full disk.
  """
  if finished := begin(plan, overwrite):
    return finished
  workers = processes.usable_cores() if workers is None else workers
  numbers = range(plan.shards)

  def all_of(function, jobs, title):
    total = len(opened(plan))
    with processes.Bar(total=total, desc=title, unit=' pairs') as bar:
      for number, result in zip(
        numbers, processes.mapped(function, jobs, workers), strict=True
      ):
        yield result
        bar.update(len(plan.indices(number)))

  doubles: dict[int, tuple[int, ...]] = {}
  if not plan.keep_duplicates:
    jobs = [(plan, number) for number in numbers]
    doubles = find_duplicates(
      np.concatenate(list(all_of(_digests_once, jobs, 'duplicates'))),
      plan.shard_size,
    )
  jobs = [(plan, number, doubles.get(number, ())) for number in numbers]
  return finish(plan, list(all_of(_convert_job, jobs, 'convert')))


def find_duplicates(
  digests: UInt64[np.ndarray, 'n'], shard_size: int
) -> dict[int, tuple[int, ...]]:
  """Places in each shard of pairs that an earlier pair equals."""
  _, first = np.unique(digests, return_index=True)
  again = np.ones(len(digests), bool)
  again[first] = False
  again[digests == 0] = False
  doubles: dict[int, list[int]] = collections.defaultdict(list)
  for position in np.flatnonzero(again).tolist():
    doubles[position // shard_size].append(position % shard_size)
  return {number: tuple(places) for number, places in doubles.items()}


def _digests_once(job):
  """The digests of a shard, from an earlier run if there are."""
  plan, number = job
  store, name = Store(plan.out), f'{_PROGRESS}/digests-{number:05d}'
  data = store.read(name)
  if data is None:
    data = digests(plan, number).tobytes()
    store.write(name, data)
  return np.frombuffer(data, np.uint64)


def _convert_job(job):
  return convert_shard(*job)


def begin(plan: Plan, overwrite: bool = False) -> dict[str, Any] | None:
  """Prepares the folder; returns the manifest if all is done already.

  Raises:
    SourceError: the folder holds the result of another plan.
  """
  if plan.format not in writers.FORMATS:
    raise ValueError(
      f'unknown format {plan.format!r}; choose from {writers.FORMATS}'
    )
  store, record = Store(plan.out), plan.record()
  if not record['source']['samples']:
    raise errors.SourceError(f'{", ".join(plan.sources)}: no pair to convert')
  if overwrite:
    store.clear()
  manifest = store.read(MANIFEST)
  begun = store.read(f'{_PROGRESS}/plan.json')
  stored = (
    json.loads(manifest)['plan'] if manifest else json.loads(begun or '0')
  )
  if stored and stored != record:
    raise errors.SourceError(
      f'{plan.out} holds the result of other options or another source; choose '
      'another folder, or replace it with --overwrite'
    )
  if manifest:
    return json.loads(manifest)
  store.write(f'{_PROGRESS}/plan.json', json.dumps(record))
  return None


def finish(plan: Plan, entries: list[dict[str, Any]]) -> dict[str, Any]:
  """Writes the manifest and the list of dropped pairs; returns the manifest."""
  store = Store(plan.out)
  entries = sorted(entries, key=lambda entry: entry['name'])
  dropped = [item for entry in entries for item in entry['dropped']]
  reasons = collections.Counter(reason for _, reason, _ in dropped)
  manifest = {
    'version': 1,
    'samples': sum(entry['samples'] for entry in entries),
    'dropped': dict(sorted(reasons.items())),
    'shards': {
      entry['name']: {k: entry[k] for k in ('samples', 'bytes', 'sha256')}
      for entry in entries
      if entry['samples']
    },
    'plan': plan.record(),
  }
  lines = (
    json.dumps(dict(zip(('sample', 'reason', 'message'), item, strict=True)))
    for item in dropped
  )
  store.write(DROPPED, ''.join(f'{line}\n' for line in lines))
  store.write(MANIFEST, json.dumps(manifest, indent=1))
  store.clear(_PROGRESS)
  return manifest


class Store:
  """Small files in a local folder or at an address, written atomically."""

  def __init__(self, folder: str):
    self.folder = folder.rstrip('/')
    self._far = remote.is_remote(folder)

  def read(self, name: str) -> bytes | None:
    """A file; None if there is none."""
    path = f'{self.folder}/{name}'
    if self._far:
      return remote.read(path)
    try:
      with open(path, 'rb') as file:
        return file.read()
    except FileNotFoundError:
      return None

  def write(self, name: str, data: str | bytes) -> None:
    """Writes a file."""
    path = f'{self.folder}/{name}'
    if self._far:
      fs, target = remote.filesystem(path)
      fs.makedirs(target.rpartition('/')[0], exist_ok=True)
      fs.pipe_file(target, data.encode() if isinstance(data, str) else data)
    else:
      os.makedirs(os.path.dirname(path), exist_ok=True)
      files.write_atomically(path, data)

  def clear(self, name: str = '') -> None:
    """Removes a folder in it, or what a conversion wrote into it."""
    if name:
      names = [name]
    else:
      manifest = json.loads(self.read(MANIFEST) or '{}')
      names = [_PROGRESS, MANIFEST, DROPPED, *manifest.get('shards', ())]
    for each in names:
      path = f'{self.folder}/{each}'
      if self._far:
        fs, target = remote.filesystem(path)
        if fs.exists(target):
          fs.rm(target, recursive=True)
      elif os.path.isdir(path):
        shutil.rmtree(path)
      elif os.path.exists(path):
        os.remove(path)
