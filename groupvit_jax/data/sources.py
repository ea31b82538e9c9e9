"""Random-access sources of image-caption pairs (`reading.Source`)."""

import bisect
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import UInt8
from PIL import Image

from groupvit_jax import processes
from groupvit_jax.data import captions as captions_lib
from groupvit_jax.data import images as images_lib
from groupvit_jax.data import reading
from groupvit_jax.data.images import BadSampleError
from groupvit_jax.data.reading import Source
from groupvit_jax.data.sampling import (
  EpochShuffle,
  Ingredient,
  MixedOrder,
  Order,
  StreamOrder,
  Turns,
)
from groupvit_jax.errors import SourceError


class Joined(Source):
  """Several sources, one behind the other.

  Fields:
    sources: the sources by name.
    name: their names, joined.
    parts: names and numbers of samples.
    lengths: numbers of samples of all shards.
  """

  def __init__(self, sources: Mapping[str, Source]):
    """Joins sources, at least one."""
    self.sources = dict(sources)
    self.name = ' + '.join(self.sources)
    self.parts = tuple((n, len(source)) for n, source in self.sources.items())
    self._ends = np.cumsum([count for _, count in self.parts]).tolist()
    shards = [source.lengths for source in self.sources.values()]
    self.lengths = list(itertools.chain(*shards))
    self._first_shards = np.cumsum([0, *map(len, shards)]).tolist()

  def __len__(self) -> int:
    return self._ends[-1]

  @property
  def is_remote(self) -> bool:
    """Whether a source has a remote shard."""
    return any(source.is_remote for source in self.sources.values())

  def __getitem__(self, index: int) -> dict[str, Any]:
    source, at = self._locate(index)
    return source[at]

  def describe(self, index: int) -> str:
    """Names a sample as its source does."""
    source, at = self._locate(index)
    return source.describe(at)

  def ahead(self, shards: Sequence[int]) -> None:
    """Tells the sources which of their shards are read next."""
    for first, source in zip(
      self._first_shards, self.sources.values(), strict=False
    ):
      last = first + len(source.lengths)
      source.ahead([shard - first for shard in shards if first <= shard < last])

  def identity(self) -> dict[str, Any]:
    """See `Source.identity`."""
    facts = {n: source.identity() for n, source in self.sources.items()}
    kinds = sorted({fact['kind'] for fact in facts.values()})
    text = json.dumps(facts, sort_keys=True)
    return reading.describe_identity(
      '+'.join(kinds), len(self), len(self.lengths), [text]
    )

  def _locate(self, index):
    which = bisect.bisect_right(self._ends, index)
    source = list(self.sources.values())[which]
    return source, index - (self._ends[which - 1] if which else 0)


@dataclasses.dataclass(frozen=True)
class Ordering:
  """How the samples of a source are ordered.

  Fields:
    kind: 'full' (a permutation of all samples), 'streams' (shards one after
      another, shuffled nearby), or 'auto': streams if a shard is remote.
    streams: of shards that are read at the same time.
    window: samples of a stream that are shuffled together.
    batch_size: samples of a global batch, divided among the streams.
    weights: of the parts of the source; {} joins them by their sizes.
  """

  kind: str = 'auto'
  streams: int = 8
  window: int = 4096
  batch_size: int = 1
  weights: Mapping[str, float] = dataclasses.field(default_factory=dict)


ORDERS = ('auto', 'full', 'streams')


def order_of(source: Source, seed: int, ordering: Ordering) -> Order:
  """The order of a source.

  Raises:
    ValueError: weights of other parts than the source has, or that are not
      positive.
  """
  kind = ordering.kind
  if kind == 'auto':
    kind = 'streams' if source.is_remote else 'full'
  turns = Turns()
  if kind == 'streams':
    run = max(1, ordering.batch_size // max(1, ordering.streams))
    turns = Turns(ordering.streams, run)
    logging.info(
      'order: %d streams of shards, shuffled within windows of %d samples '
      '(data.order=streams)',
      *(ordering.streams, ordering.window),
    )

  def order(one: Source) -> Order:
    if kind == 'full':
      return EpochShuffle(len(one), seed)
    return StreamOrder(one.lengths, seed, turns, ordering.window)

  weights = dict(ordering.weights)
  if not weights:
    return order(source)
  parts = source.sources if isinstance(source, Joined) else {}
  if parts.keys() != weights.keys():
    raise ValueError(
      f'data.weights names {", ".join(weights)}, and the sources are '
      f'{", ".join(parts) or "one without a name"}: give each a name '
      '(NAME=PATTERN) and a weight.'
    )
  return MixedOrder(
    [
      Ingredient(order(one), len(one), len(one.lengths), weights[name])
      for name, one in parts.items()
    ],
    seed,
    turns,
  )


def open_named(
  entries: Sequence[str], open_one: Callable[[list[str], str | None], Source]
) -> Source:
  """Opens entries such as `cc3m=/data/cc3m/*.tar`.

  Args:
    entries: with or without NAME=; those of one name belong together.
    open_one: opens a source from its entries and its name (None without).

  Returns:
    A Joined source, or the one source if none has a name.
  """
  by_name: dict[str | None, list[str]] = {}
  for entry in entries:
    match = _NAMED.match(entry)
    name, what = (match[1], match[2]) if match else (None, entry)
    by_name.setdefault(name, []).append(what)
  if by_name.keys() <= {None}:
    return open_one(list(entries), None)
  return Joined(
    {name or 'others': open_one(w, name) for name, w in by_name.items()}
  )


# A path of such a form is written ./a=b.tar.
_NAMED = re.compile(r'([A-Za-z]\w*)=(.+)')


class ArraySource(Source):
  """Images of one size in memory; pipelines gather whole batches from it.

  Fields:
    images: uint8 [n, h, w, 3].
    captions: list of n tuples of str (given as str or sequences of them).
    masks: uint8 [n, h, w] or None.
    name: what messages call it.
  """

  def __init__(
    self,
    images: UInt8[np.ndarray, 'n h w 3'],
    captions: Sequence[captions_lib.Captions],
    masks: UInt8[np.ndarray, 'n h w'] | None = None,
    name: str = 'arrays',
  ):
    lengths = {len(images), len(captions)}
    if masks is not None:
      lengths.add(len(masks))
    if len(lengths) != 1:
      raise ValueError(f'{name}: images, captions, masks differ in number.')
    self.images = images
    self.captions = []
    for i, caption in enumerate(captions):
      try:
        self.captions.append(captions_lib.clean_captions(caption))
      except BadSampleError as error:
        raise ValueError(f'{name}, sample {i}: {error}') from error
    self.masks = masks
    self.name = name

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index: int) -> dict[str, Any]:
    sample = {'image': self.images[index], 'caption': self.captions[index]}
    if self.masks is not None:
      sample['mask'] = self.masks[index]
    return sample

  def identity(self) -> dict[str, Any]:
    """See `Source.identity`: captions, and at most 1,000 of the images."""
    step = -(-len(self) // 1000) or 1
    pixels = hashlib.sha256(self.images[::step].tobytes())
    facts = [*self.captions, self.images.shape, pixels.hexdigest()]
    return reading.describe_identity('arrays', len(self), 0, facts)


class SceneSource(ArraySource):
  """Scenes drawn into memory from a seed, without TensorFlow or files.

  Fields: as ArraySource.
  """

  def __init__(
    self,
    split: str,
    count: int,
    size: int,
    seed: int = 0,
    *,
    masks: bool = False,
  ):
    """Draws scenes.

    Args:
      split: 'train', 'validation' or 'test'; they never share a scene.
      count: how many scenes.
      size: side in pixels.
      seed: int.
      masks: whether to keep label maps. Training sources must not: captions
        are all that a model learns from.
    """
    from groupvit_jax import scenes

    drawn = scenes.generate_many(split, count, size, seed, masks=masks)
    super().__init__(
      drawn.images, drawn.captions, drawn.masks, f'scenes/{split}'
    )


class InMemory(ArraySource):
  """Another source, decoded once and resized to squares (small data).

  The whole image is kept, as `augment='none'` does; bad samples are left out.
  Label maps have to be of that size already.

  Fields: as ArraySource, and
    dropped: how many samples of the source were bad.
  """

  def __init__(self, source: Source, size: int, *, name: str | None = None):
    """Decodes a source.

    Args:
      source: any source.
      size: side in pixels.
      name: what messages call it; None means as the source.

    Raises:
      ValueError: no sample is usable.
    """
    name = name or source.name
    count = len(source)
    images = np.empty((count, size, size, 3), np.uint8)
    captions, masks, kept = [], [], 0
    bar = processes.Bar(range(count), f'reading {name}', unit=' images')
    for index in bar:
      try:
        sample = source[index]
        image = images_lib.decode(sample['image'])
        captions.append(captions_lib.clean_captions(sample['caption']))
      except BadSampleError as error:
        if kept + 5 > index:
          logging.warning('%s left out: %s', source.describe(index), error)
        continue
      if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
      images[kept] = np.asarray(image)
      if 'mask' in sample:
        masks.append(sample['mask'])
      kept += 1
    if not kept:
      raise ValueError(f'{name}: none of the {count} samples is usable.')
    self.dropped = count - kept
    if self.dropped:
      logging.warning('%s: %d samples left out', name, self.dropped)
    super().__init__(
      images[:kept], captions, np.stack(masks) if masks else None, name
    )


class TFDSRecords:
  """A split that TFDS has prepared, by random access.

  Needs the package tensorflow-datasets, but not TensorFlow.

  Fields:
    name: builder and split.
    builder, features: of the data set, as TFDS has them.
  """

  def __init__(
    self,
    builder: Any,
    split: str,
    encoded: Sequence[str],
    decoded: Sequence[str] = (),
    *,
    data_dir: str | os.PathLike | None = None,
  ):
    """Opens a split.

    Args:
      builder: 'name' or 'name/config', a builder, or the folder of a version.
      split: such as 'train' or 'train[:1000]'.
      encoded: features that must be there, and stay encoded.
      decoded: others that must be there.
      data_dir: where it was prepared; None means TFDS's own folder.

    Raises:
      SourceError: no such split or feature, or not in array_record format.
    """
    try:
      import tensorflow_datasets as tfds
    except ImportError as error:
      raise SourceError(
        f'{builder} is a data set of TFDS, and to read it takes: pip install '
        "'groupvit_jax[train]'"
      ) from error
    if isinstance(builder, pathlib.Path):
      builder = tfds.builder_from_directory(str(builder))
    elif isinstance(builder, str):
      builder = tfds.builder(builder, data_dir=data_dir)
    self.builder, self.features = builder, builder.info.features
    self.name, self._split = f'{builder.info.full_name}[{split}]', split
    for key in (*encoded, *decoded):
      if key not in self.features:
        known = ', '.join(self.features)
        raise SourceError(f'{self.name} has no feature {key!r}, only {known}.')
    skip = {key: tfds.decode.SkipDecoding() for key in encoded}
    try:
      self._data = builder.as_data_source(split=split, decoders=skip)
    except (AssertionError, KeyError, NotImplementedError, ValueError) as error:
      raise SourceError(
        f'{builder.data_dir} cannot be read at random as {split!r} (its '
        f'splits: {", ".join(builder.info.splits)}); prepare it with '
        f"tfds.builder({builder.name!r}, file_format='array_record')"
        '.download_and_prepare().'
      ) from error

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._data[int(index)]

  def names(self) -> list[str]:
    """A name for each record, as they are numbered."""
    return [f'{self._split}-{i:06d}' for i in range(len(self))]


class TFDSSource(Source):
  """Pairs of a TFDS data set, images left encoded.

  Fields:
    name: builder and split.
  """

  def __init__(
    self,
    builder: Any,
    split: str,
    data_dir: str | os.PathLike | None = None,
    *,
    image_key: str = 'image',
    caption_key: str | None = None,
    mask_key: str | None = None,
  ):
    """Opens a split.

    Args:
      builder, split, data_dir: see `TFDSRecords`.
      image_key: feature with the image.
      caption_key: feature with the caption(s); None finds 'caption',
        'captions' or 'text'.
      mask_key: feature with the label map, or None to read no masks.

    Raises:
      SourceError: as TFDSRecords.
    """
    decoded = [key for key in (caption_key, mask_key) if key]
    self._records = TFDSRecords(
      builder, split, [image_key], decoded, data_dir=data_dir
    )
    self.name = self._records.name
    keys = [caption_key] if caption_key else ['caption', 'captions', 'text']
    features = self._records.features
    self._caption_key = next((k for k in keys if k in features), '')
    self._image_key, self._mask_key = image_key, mask_key

  def __len__(self) -> int:
    return len(self._records)

  def identity(self) -> dict[str, Any]:
    """See `Source.identity`: the builder with its version, and the split."""
    info = self._records.builder.info.splits
    facts = [self.name, *((n, s.num_examples) for n, s in info.items())]
    return reading.describe_identity('tfds', len(self), 0, facts)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._records[index]
    sample = {'image': record[self._image_key]}
    sample['caption'] = _captions_of(record.get(self._caption_key, ''))
    if self._mask_key is not None:
      mask = np.asarray(record[self._mask_key], np.uint8)
      sample['mask'] = mask[..., 0] if mask.ndim == 3 else mask
    return sample


def scenes_tfds(
  split: str,
  count: int,
  size: int,
  seed: int = 0,
  *,
  data_dir: str | os.PathLike | None = None,
) -> TFDSSource:
  """The `scenes` of TFDS, generated to disk unless they are there.

  Args:
    split: 'train' (captions only) or 'validation' (with masks).
    count, size, seed: as SceneSource.
    data_dir: where TFDS keeps its data; None means TFDS's own folder.

  Returns:
    The source.
  """
  kinds = {'train': 'captions', 'validation': 'masks'}
  if split not in kinds:
    raise ValueError(f'scenes_tfds has the splits {list(kinds)}, not {split!r}')
  from groupvit_jax.scenes import tfds_builder

  builder = tfds_builder.prepared(
    kinds[split], size, count, seed, data_dir=data_dir
  )
  mask_key = 'mask' if split == 'validation' else None
  return TFDSSource(builder, split, mask_key=mask_key)


def _captions_of(value):
  """A text feature, a sequence of them, or COCO's {'text': sequence}."""
  if isinstance(value, dict):
    value = value['text']
  return value if isinstance(value, (str, bytes)) else tuple(value)
