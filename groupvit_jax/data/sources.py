"""Random-access sources of image-caption pairs (`sampling.Source`)."""

import bisect
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from groupvit_jax.data import captions as captions_lib
from groupvit_jax.data import images as images_lib
from groupvit_jax.data import sampling
from groupvit_jax.data.images import BadSampleError
from groupvit_jax.data.sampling import Source


class ConcatSource:
  """Several sources, one behind the other.

  Fields:
    sources: the sources.
    name: their names, joined.
  """

  def __init__(self, sources: Sequence[Source]):
    self.sources = list(sources)
    if not self.sources:
      raise ValueError('ConcatSource needs at least one source.')
    self.name = ' + '.join(map(sampling.source_name, self.sources))
    self._ends = np.cumsum([len(source) for source in self.sources]).tolist()

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> dict[str, Any]:
    which = bisect.bisect_right(self._ends, index)
    return self.sources[which][index - (self._ends[which - 1] if which else 0)]


class ArraySource:
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
    workers: int | None = None,
    progress: bool = True,
  ):
    """Draws scenes.

    Args:
      split: 'train', 'validation' or 'test'; they never share a scene.
      count: how many scenes.
      size: side in pixels.
      seed: int.
      masks: whether to keep label maps. Training sources must not: captions
        are all that a model learns from.
      workers: processes to draw with; None means one for each core.
      progress: whether to show a progress bar.
    """
    from groupvit_jax import scenes

    drawn = scenes.generate_many(
      split,
      count,
      size,
      seed,
      masks=masks,
      workers=workers,
      progress=progress,
    )
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

  def __init__(
    self,
    source: Source,
    size: int,
    *,
    name: str | None = None,
    progress: bool = True,
  ):
    """Decodes a source.

    Args:
      source: any source.
      size: side in pixels.
      name: what messages call it; None means as the source.
      progress: whether to show a progress bar.

    Raises:
      ValueError: no sample is usable.
    """
    name = name or sampling.source_name(source)
    count = len(source)
    images = np.empty((count, size, size, 3), np.uint8)
    captions, masks, kept = [], [], 0
    bar = tqdm(
      range(count), f'reading {name}', disable=not progress, unit=' images'
    )
    for index in bar:
      try:
        sample = source[index]
        image = images_lib.decode(sample['image'])
        captions.append(captions_lib.clean_captions(sample['caption']))
      except BadSampleError as error:
        if kept + 5 > index:
          where = sampling.sample_name(source, index)
          logging.warning('%s left out: %s', where, error)
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


class TFDSSource:
  """A TFDS data set in a random-access format, images left encoded.

  Needs the package tensorflow-datasets, but not TensorFlow.

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
    """Opens a prepared TFDS data set.

    Args:
      builder: 'name' or 'name/config', or a builder object.
      split: such as 'train' or 'train[:1000]'.
      data_dir: where it was prepared; None means TFDS's own folder.
      image_key: feature with the image.
      caption_key: feature with the caption(s); None finds 'caption',
        'captions' or 'text'.
      mask_key: feature with the label map, or None to read no masks.

    Raises:
      ValueError: it is not prepared, or not in array_record format.
    """
    try:
      import tensorflow_datasets as tfds
    except ImportError as error:
      raise ImportError(
        "TFDS sources need: pip install 'groupvit_jax[train]'"
      ) from error
    if isinstance(builder, str):
      builder = tfds.builder(builder, data_dir=data_dir)
    self._builder = builder
    self.name = f'{builder.info.full_name}[{split}]'
    features = builder.info.features
    keys = [caption_key] if caption_key else ['caption', 'captions', 'text']
    self._caption_key = next((k for k in keys if k in features), None)
    self._image_key, self._mask_key = image_key, mask_key
    for key in (image_key, self._caption_key, mask_key):
      if key is not None and key not in features:
        raise ValueError(
          f'{self.name} has no feature {key!r}, only {sorted(features)}.'
        )
    try:
      self._data = builder.as_data_source(
        split=split, decoders={image_key: tfds.decode.SkipDecoding()}
      )
    except (
      AssertionError,
      KeyError,
      NotImplementedError,
      ValueError,
    ) as error:
      raise ValueError(
        f'{self.name} cannot be read at random from {builder.data_dir}: '
        f'prepare it with tfds.builder({builder.name!r}, '
        "file_format='array_record').download_and_prepare() "
        f'({error})'
      ) from error

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._data[int(index)]
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
  workers: int | None = None,
) -> TFDSSource:
  """The `scenes` of TFDS, generated to disk unless they are there.

  Args:
    split: 'train' (captions only) or 'validation' (with masks).
    count, size, seed, workers: as SceneSource.
    data_dir: where TFDS keeps its data; None means TFDS's own folder.

  Returns:
    The source.
  """
  kinds = {'train': 'captions', 'validation': 'masks'}
  if split not in kinds:
    raise ValueError(f'scenes_tfds has the splits {list(kinds)}, not {split!r}')
  from groupvit_jax.scenes import tfds_builder

  builder = tfds_builder.prepared(
    kinds[split], size, count, seed, data_dir=data_dir, workers=workers
  )
  mask_key = 'mask' if split == 'validation' else None
  return TFDSSource(builder, split, mask_key=mask_key)


def _captions_of(value):
  """A text feature, a sequence of them, or COCO's {'text': sequence}."""
  if isinstance(value, dict):
    value = value['text']
  return value if isinstance(value, (str, bytes)) else tuple(value)
