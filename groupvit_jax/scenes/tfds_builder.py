"""TFDS builder `scenes`: the embedded data set, prepared on disk.

Training and evaluation are separate configs, so that what training reads
holds no mask at all.
"""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import filelock

from groupvit_jax import scenes

# Scenes of each kind where the name of a config does not say.
_COUNTS = {'captions': 20_000, 'masks': 1_000}
_SPLITS = {'captions': 'train', 'masks': 'validation'}
_VERSION = '2.1.0'


@functools.cache
def classes() -> tuple[Any, Any]:
  """The config and builder classes; here, as importing TFDS takes seconds."""
  import tensorflow_datasets as tfds

  @dataclasses.dataclass
  class ScenesConfig(tfds.core.BuilderConfig):
    """Kind, size, number and seed of the scenes.

    Fields: kind ('captions': split train, images and captions; 'masks': split
    validation, with masks too), size (pixels), count (scenes), seed (the
    user's; each split derives its own).
    """

    kind: str = 'captions'
    size: int = 64
    count: int = _COUNTS['captions']
    seed: int = 0

  class Scenes(tfds.core.GeneratorBasedBuilder):
    """Drawn things on textured grounds, with captions and masks."""

    name = 'scenes'
    builder_config: ScenesConfig
    VERSION = tfds.core.Version(_VERSION)
    RELEASE_NOTES = {
      _VERSION: 'The same scenes, in the order of their numbers.',
      '2.0.0': 'Larger things, each with a usual colour.',
      '1.0.0': 'First release.',
    }

    def __init__(self, *, file_format='array_record', **kwargs):
      super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
      size = self.builder_config.size
      features = {
        'image': tfds.features.Image(
          shape=(size, size, 3), encoding_format='png'
        ),
        'captions': tfds.features.Sequence(tfds.features.Text()),
      }
      if self.builder_config.kind == 'masks':
        features['mask'] = tfds.features.LabeledImage(
          labels=list(scenes.CLASS_NAMES),
          shape=(size, size, 1),
          encoding_format='png',
        )
      return self.dataset_info_from_configs(
        features=tfds.features.FeaturesDict(features),
        description=(
          'Drawn images of one to four things on a textured ground, each '
          'with captions; the validation config also holds masks.'
        ),
        license='Apache-2.0',
        # As drawn into memory: a run does not depend on who keeps its scenes.
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      split = _SPLITS[self.builder_config.kind]
      return {split: self._generate_examples(split)}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
      config = self.builder_config
      with_masks = config.kind == 'masks'
      for chunk in scenes.generate_chunks(
        split,
        config.count,
        config.size,
        config.seed,
        masks=with_masks,
        png=True,
      ):
        for i, captions in enumerate(chunk.captions):
          example = {
            'image': io.BytesIO(chunk.images[i]),
            'captions': list(captions),
          }
          if with_masks:
            example['mask'] = io.BytesIO(chunk.masks[i])
          yield chunk.start + i, example

  Scenes.__module__ = ScenesConfig.__module__ = __name__
  return ScenesConfig, Scenes


def config(kind: str, size: int, count: int, seed: int) -> Any:
  """A builder config; its name tells apart all that differs on disk.

  Args:
    kind: 'captions' (training) or 'masks' (evaluation).
    size: side of the images in pixels.
    count: scenes.
    seed: the user's seed; training and evaluation derive different ones.

  Returns:
    A `ScenesConfig`, named 'captions_64' or, away from the defaults,
    'captions_64_n5000_s1'.
  """
  if kind not in _SPLITS:
    raise ValueError(
      f'unknown kind {kind!r}: use one of {tuple(_SPLITS)} (training data '
      'holds captions only, masks are for evaluation)'
    )
  plain = count == _COUNTS[kind] and seed == 0
  return classes()[0](
    name=f'{kind}_{size}' + ('' if plain else f'_n{count}_s{seed}'),
    description=f'{size} px, split {_SPLITS[kind]}.',
    kind=kind,
    size=size,
    count=count,
    seed=seed,
  )


def prepared(
  kind: str,
  size: int,
  count: int,
  seed: int,
  *,
  data_dir: str | os.PathLike | None = None,
) -> Any:
  """Generates the data unless it is on disk; returns its builder.

  Args:
    kind, size, count, seed: as of `config`.
    data_dir: where TFDS keeps its data; None is TFDS's own default.

  Returns:
    A builder in a random-access format. An example has 'image' uint8
    [h, w, 3], 'captions' (array of bytes) and, for 'masks', 'mask' uint8
    [h, w, 1].
  """
  make = functools.partial(
    classes()[1],
    config=config(kind, size, count, seed),
    data_dir=None if data_dir is None else os.fspath(data_dir),
  )
  folder = pathlib.Path(make().data_dir)
  folder.parent.mkdir(parents=True, exist_ok=True)
  # Several processes may want the same scenes at once: one draws them. The
  # others read what is there only after that.
  with filelock.FileLock(f'{folder}.lock'), _quiet_tfds():
    builder = make()
    builder.download_and_prepare()
  return builder


@contextlib.contextmanager
def _quiet_tfds():
  """Leaves the screen to our own progress bar.

  TFDS nests three more around it, and prints that it downloads data whose size
  is unknown.
  """
  from tensorflow_datasets.core.utils import tqdm_utils

  shown = tqdm_utils._active  # there is no public way to ask
  tqdm_utils.display_progress_bar(False)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tqdm_utils.display_progress_bar(shown)
