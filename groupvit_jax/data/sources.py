"""Random-access sources of image-caption pairs.

A source has a length, a `name`, and `source[i]` that returns
{'image': encoded bytes or uint8 [h, w, 3], 'caption': str or several,
['mask': uint8 [h, w]]}. Order, chance and bad samples are others' business.
"""

import bisect

import numpy as np
from absl import logging
from PIL import Image
from tqdm import tqdm

from groupvit_jax.data import images as images_lib
from groupvit_jax.data import sampling
from groupvit_jax.data.shards import TarSource, TFRecordSource

__all__ = [
  'ArraySource',
  'ConcatSource',
  'InMemory',
  'SceneSource',
  'TFDSSource',
  'TFRecordSource',
  'TarSource',
  'scenes_tfds',
]


class ConcatSource:
  """Several sources, one behind the other.

  Fields:
    sources: the sources.
    name: their names, joined.
  """

  def __init__(self, sources):
    self.sources = list(sources)
    if not self.sources:
      raise ValueError('ConcatSource needs at least one source.')
    self.name = ' + '.join(map(sampling.source_name, self.sources))
    self._ends = np.cumsum([len(source) for source in self.sources]).tolist()

  def __len__(self):
    return self._ends[-1]

  def __getitem__(self, index):
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

  def __init__(self, images, captions, masks=None, name='arrays'):
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
      raise ValueError(
        f'{name}: images must be uint8 [n, h, w, 3], not {images.dtype} '
        f'{images.shape}.'
      )
    lengths = {len(images), len(captions)}
    if masks is not None:
      lengths.add(len(masks))
    if len(lengths) != 1:
      raise ValueError(f'{name}: images, captions, masks differ in number.')
    self.images = images
    self.captions = [
      _cleaned(caption, name, i) for i, caption in enumerate(captions)
    ]
    self.masks = masks
    self.name = name

  def __len__(self):
    return len(self.images)

  def __getitem__(self, index):
    sample = {'image': self.images[index], 'caption': self.captions[index]}
    if self.masks is not None:
      sample['mask'] = self.masks[index]
    return sample


def _cleaned(captions, name, index):
  try:
    return sampling.clean_captions(captions)
  except images_lib.BadSampleError as error:
    raise ValueError(f'{name}, sample {index}: {error}') from error


class SceneSource(ArraySource):
  """Scenes drawn into memory from a seed, without TensorFlow or files.

  Fields: as ArraySource.
  """

  def __init__(
    self,
    split,
    count,
    size,
    seed=0,
    *,
    masks=False,
    workers=None,
    progress=True,
  ):
    """Draws scenes.

    Args:
      split: 'train', 'validation' or 'test'; they never share a scene.
      count: how many scenes.
      size: side in pixels.
      seed: int.
      masks: whether to keep the truth. Training sources must not: captions
        are all that it learns from.
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

  The whole picture is kept, as `augment='none'` does; bad samples are left
  out and counted.

  Fields: as ArraySource, and
    dropped: how many samples of the source were bad.
  """

  def __init__(self, source, size, *, name=None, progress=True):
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
    for index in tqdm(
      range(count), f'reading {name}', disable=not progress, unit=' pictures'
    ):
      try:
        sample = source[index]
        images[kept] = _square(sample['image'], size)
        captions.append(sampling.clean_captions(sample['caption']))
      except images_lib.BadSampleError as error:
        if kept + 5 > index:
          logging.warning('%s: sample %d left out: %s', name, index, error)
        continue
      if 'mask' in sample:
        masks.append(resize_mask(sample['mask'], size))
      kept += 1
    if not kept:
      raise ValueError(f'{name}: none of the {count} samples is usable.')
    self.dropped = count - kept
    if self.dropped:
      logging.warning('%s: %d samples left out', name, self.dropped)
    super().__init__(
      images[:kept], captions, np.stack(masks) if masks else None, name
    )


def _square(image, size):
  if isinstance(image, bytes):
    images_lib.check_size(images_lib.encoded_size(image))
  else:
    images_lib.check_size(image.shape[:2])
  image = images_lib.to_pil(image)
  return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def resize_mask(mask, size):
  """Resizes a label map [h, w] to a square by nearest neighbour."""
  if mask.shape == (size, size):
    return mask
  picture = Image.fromarray(np.ascontiguousarray(mask))
  return np.asarray(picture.resize((size, size), Image.Resampling.NEAREST))


class TFDSSource:
  """A TFDS data set in a random-access format, images left encoded.

  Needs the package tensorflow-datasets, but not TensorFlow.

  Fields:
    name: builder and split.
  """

  def __init__(
    self,
    builder,
    split,
    data_dir=None,
    *,
    image_key='image',
    caption_key=None,
    mask_key=None,
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

  def __len__(self):
    return len(self._data)

  def __getitem__(self, index):
    record = self._data[int(index)]
    sample = {'image': record[self._image_key]}
    sample['caption'] = _captions_of(record.get(self._caption_key, ''))
    if self._mask_key is not None:
      mask = np.asarray(record[self._mask_key], np.uint8)
      sample['mask'] = mask[..., 0] if mask.ndim == 3 else mask
    return sample


def scenes_tfds(split, count, size, seed=0, *, data_dir=None, workers=None):
  """The `scenes` of TFDS, generated to disk unless they are there.

  Args:
    split: 'train' (captions only) or 'validation' (with masks).
    count, size, seed, workers: as SceneSource.
    data_dir: where TFDS keeps its data; None means TFDS's own folder.

  Returns:
    A TFDSSource.
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
