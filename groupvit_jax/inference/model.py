"""A trained model: segments and classifies images, embeds images and texts.

The released inference is the default, and every step of it an option of
`SegmentConfig`.
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float32

from groupvit_jax import errors, files
from groupvit_jax.benchmarks import build as build_lib
from groupvit_jax.convert import Converted
from groupvit_jax.data import images as images_lib
from groupvit_jax.data import on_device
from groupvit_jax.data.images import Source
from groupvit_jax.evaluation import regions as regions_lib
from groupvit_jax.evaluation import regrouping, scoring, sizes
from groupvit_jax.evaluation.config import (
  OWN_STEPS,
  RELEASED_THRESHOLD,
  SegmentConfig,
)
from groupvit_jax.inference import text as text_lib
from groupvit_jax.inference import traced
from groupvit_jax.inference.regions import ClassList, ImageRegions
from groupvit_jax.inference.result import Segmentation
from groupvit_jax.models import build, dual_encoder, ops
from groupvit_jax.text import base as tokenizers
from groupvit_jax.text import make_tokenizer, prompts

RELEASED = SegmentConfig(background_threshold=RELEASED_THRESHOLD)

_READ_AHEAD = 2  # batches


class Model:
  """A trained model.

  Attributes:
    architecture: its plain description (`models.build`).
    metadata: where it comes from, and what was measured.
    variables: params and batch_stats.
    module: the `DualEncoder`.
    predict_fns: what evaluators call, the contract of docs/architecture.md:
      pure functions of (variables, inputs), the same objects every time. Pixels
      are normalised by the model's own mean and deviation.
    image_size: (h, w) in pixels of the images it was trained on.
    short_side: images are segmented at, unless the config says otherwise.
    own_steps: fields of `SegmentConfig` that it was evaluated with.
    config: how it segments unless the caller says otherwise: as released, or as
      a run of one's own was evaluated (`own_steps`).
  """

  def __init__(
    self,
    source: Converted,
    *,
    dtype: DTypeLike = jnp.float32,
    matmul_operands: str = 'float32',
    programs: pathlib.Path | None = None,
  ):
    """Builds the model; compiles nothing yet.

    Args:
      source: as `convert.load_source` returns it.
      dtype: of the computation.
      matmul_operands: 'float32', 'bfloat16' or 'auto'; see `inference.load`.
      programs: a folder where traced encoders are kept for other processes.
    """
    self.architecture: Mapping[str, Any] = source.architecture
    self.metadata: Mapping[str, Any] = source.metadata
    if matmul_operands == 'auto':
      width = source.architecture['image']['width']
      matmul_operands = ops.faster_operands(1024, width, 4 * width)
    self.module = build.build(
      source.architecture, dtype=dtype, matmul_operands=matmul_operands
    )
    variables = source.variables
    if matmul_operands == 'bfloat16':
      # Once, and not at every call: half of the bytes to read.
      variables = ops.store_rounded(variables)
    self.variables = jax.device_put(variables)
    size = source.architecture['image']['image_size']
    self.image_size = (size, size) if isinstance(size, int) else tuple(size)
    preprocessing = source.preprocessing
    self.short_side: int = preprocessing['short_side']
    self.own_steps = {
      name: preprocessing[name] for name in OWN_STEPS if name in preprocessing
    }
    self.config = dataclasses.replace(RELEASED, **self.own_steps)
    normalize = functools.partial(
      on_device.normalize, mean=preprocessing['mean'], std=preprocessing['std']
    )
    self.predict_fns: Mapping[str, Callable[..., Any]] = (
      dual_encoder.predict_fns(self.module, normalize)
    )
    self._encoders = self.predict_fns
    if programs:
      kind = self.architecture, preprocessing, str(dtype), matmul_operands
      self._encoders = {
        name: traced.Kept(function, repr((name, kind)), programs)
        for name, function in self.predict_fns.items()
      }
    self._image = jax.jit(self._encoders['image'])
    self._text = jax.jit(self._encoders['text'])
    self._tokenizer_name = source.tokenizer

  def encode(
    self,
    images: Source | Sequence[Source],
    config: SegmentConfig | None = None,
    *,
    batch_size: int = 8,
  ) -> ImageRegions | list[ImageRegions]:
    """Encodes images once, to be segmented by any number of class lists.

      regions = model.encode('photo.jpg')
      regions.segment(['dog', 'grass'])
      regions.segment(['animal', 'plant'])

    Args:
      images: a path, bytes, PIL image or uint8 array [H, W, 3], or a list.
      config: its sizes and windows are used; None for the model's own.
      batch_size: images (or windows) that go through the network together.

    Returns:
      Regions of each image: a list if `images` is one.

    Raises:
      ImageError: an image that cannot be used.
      errors.ModelError: the model does not group.
    """
    found = self.encode_each(images, config, batch_size=batch_size)
    return list(found) if images_lib.is_list(images) else next(found)

  def encode_each(
    self,
    images: Source | Sequence[Source],
    config: SegmentConfig | None = None,
    *,
    batch_size: int = 8,
  ) -> Iterator[ImageRegions]:
    """`encode`, one by one: for more images than memory holds."""
    check_batch_size(batch_size)
    if not self.groups:
      raise errors.ModelError(
        'this model does not group pixels and cannot segment; classify, '
        'encode_image and encode_text work with it'
      )
    config = config or self.config
    plan = self.plan(config)

    def prepare(item):
      image = images_lib.open_image(*item)
      return image, sizes.prepare(image, plan, item[1])

    chunks = files.ahead(
      prepare, images_lib.named(images), _READ_AHEAD * batch_size
    )
    return self._encode_chunks(chunks, config, batch_size)

  def _encode_chunks(self, chunks, config, batch_size):
    encode = regrouping.regions_fn(self._encoders, config.regroup != 'none')
    for chunk in chunks:
      images, inputs = zip(*chunk, strict=True)
      alike = collections.defaultdict(list)
      for i, x in enumerate(inputs):
        alike[x.shapes].append(i)
      running = []
      # All are started before the first is waited for.
      for shapes, places in alike.items():
        most = sizes.at_a_time(shapes.window, self.patch_size, batch_size)
        step = max(1, most // shapes.count)
        for start in range(0, len(places), step):
          some = places[start : start + step]
          encoded = regions_lib.encode(
            encode,
            self.variables,
            [inputs[i] for i in some],
            count=sizes.bucket(len(some)),
            limit=most,
          )
          running.append((some, encoded))
      found = {}
      for some, encoded in running:
        split = regions_lib.split(encoded, len(some))
        found |= zip(some, split, strict=True)
      for i, (image, x) in enumerate(zip(images, inputs, strict=True)):
        size = x.scaled.shape[:2]
        yield ImageRegions(image, found[i], size, x.shapes, config, self)

  def segment(
    self,
    images: Source | Sequence[Source],
    names: Sequence[str],
    config: SegmentConfig | None = None,
    *,
    templates: str | Sequence[str] = 'simple',
    background: bool | None = None,
    batch_size: int = 8,
  ) -> Segmentation | list[Segmentation]:
    """Finds the named classes in images: `encode`, then `ImageRegions.segment`.

    Args:
      images: a path, bytes, PIL image or uint8 array [H, W, 3], or a list.
      names: of the classes; synonyms as 'person|man|woman'. An image or group
        is as near to a class as to the nearest of its names.
      config: every step of the inference; None for the model's own (`config`):
        the released one, with a background at threshold .95. To change a field
        of that: `dataclasses.replace(model.config, ...)`.
      templates: prompts that names are put into: simple, subset, full, or your
        own with '{}'.
      background: whether class 0 is for all other pixels. None follows
        the config, which has a background if it has a threshold; True without a
        threshold takes .95.
      batch_size: images (or windows) that go through the network together.

    Returns:
      A result per image: a list if `images` is one.

    Raises:
      ImageError, LabelError: an image or list of names that cannot be used.
      errors.ModelError: the model does not group.
    """
    results = self.segment_each(
      images,
      names,
      config,
      templates=templates,
      background=background,
      batch_size=batch_size,
    )
    return list(results) if images_lib.is_list(images) else next(results)

  def segment_each(
    self,
    images: Source | Sequence[Source],
    names: Sequence[str],
    config: SegmentConfig | None = None,
    *,
    templates: str | Sequence[str] = 'simple',
    background: bool | None = None,
    batch_size: int = 8,
  ) -> Iterator[Segmentation]:
    """`segment`, result by result: for more images than memory holds."""
    config = config or self.config
    encoded = self.encode_each(images, config, batch_size=batch_size)
    classes = self.class_list(names, config, templates, background)
    return (regions.find(classes) for regions in encoded)

  def plan(self, config: SegmentConfig) -> sizes.Plan:
    """How images are scaled and cut into windows."""
    return sizes.plan(config, self.short_side, self.patch_size)

  def class_list(
    self,
    names: Sequence[str],
    config: SegmentConfig,
    templates: str | Sequence[str] = 'simple',
    background: bool | None = None,
  ) -> ClassList:
    """Embeds class names; arguments of `segment`."""
    if background is not None:
      threshold = config.background_threshold if background else None
      if background and threshold is None:
        threshold = RELEASED_THRESHOLD
      config = dataclasses.replace(config, background_threshold=threshold)
    background = config.background_threshold is not None
    embeddings, shown = self._class_embeddings(names, templates, background)
    if config.class_thresholds is not None:
      with errors.explained_as(text_lib.LabelError):
        scoring.check_thresholds(
          len(cast(Sequence, config.class_thresholds)), len(shown) - background
        )
    return ClassList(embeddings, shown, config)

  def classify(
    self,
    images: Source | Sequence[Source],
    names: Sequence[str],
    *,
    templates: str | Sequence[str] = 'subset',
    prompt_average: str | None = None,
    batch_size: int = 32,
  ) -> dict[str, float] | list[dict[str, float]]:
    """How probable each class is, of an image as a whole.

    Args:
      images, names: as in `segment`.
      templates: the same; by default those of the released ImageNet figures.
      prompt_average: of a class's prompts: 'unit' averages unit vectors, 'raw'
        the text projector's outputs; None for the original of the model: 'unit'
        for CLIP, 'raw' for GroupViT.
      batch_size: images that go through the network together.

    Returns:
      Probability by name (of synonyms the first), the most probable first; a
      list of them if `images` is one.
    """
    clip = self._crops_as_clip
    average = prompt_average or ('unit' if clip else 'raw')
    if average not in ('unit', 'raw'):
      raise ValueError(f"prompt_average is 'unit' or 'raw', not {average!r}.")
    embeddings, shown = self._class_embeddings(
      names, templates, False, normalize_each=average == 'unit'
    )
    several = images_lib.is_list(images)
    vectors = np.atleast_2d(self.encode_image(images, batch_size=batch_size))
    text = np.asarray(embeddings.vectors)[: len(shown)]
    cosines = np.einsum('be,cse->bcs', vectors, text).max(-1)
    logits = cosines * float(embeddings.logit_scale)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    odds /= odds.sum(-1, keepdims=True)
    ranked = [
      {shown[i]: float(row[i]) for i in np.argsort(-row, kind='stable')}
      for row in odds
    ]
    return ranked if several else ranked[0]

  def encode_image(
    self, images: Source | Sequence[Source], *, batch_size: int = 32
  ) -> Float32[np.ndarray, '*b e']:
    """Unit vectors of images: of their middle square, as in classification.

    An image's shorter side is scaled to 8/7 of the training size, bilinearly
    with antialiasing, and its middle cut out (CLIP: to the training size
    itself, bicubically).

    Args:
      images: a list as in `segment`, or a single one, which gives one vector.
      batch_size: images that go through the network together.

    Returns:
      float32, unit length.
    """
    check_batch_size(batch_size)
    chunks = files.ahead(
      lambda item: images_lib.crop(
        images_lib.open_image(*item),
        self.image_size,
        clip=self._crops_as_clip,
      ),
      images_lib.named(images),
      batch_size,
    )
    vectors = [self.encode_pixels(np.stack(chunk)) for chunk in chunks]
    vectors = np.concatenate(vectors)
    return vectors if images_lib.is_list(images) else vectors[0]

  def encode_pixels(
    self, pixels: np.ndarray | jax.Array
  ) -> Float32[np.ndarray, 'b e']:
    """Unit vectors of images that are given as arrays.

    Args:
      pixels: float32 [b, h, w, 3], normalised already; or uint8, which the
        model's mean and deviation are applied to. Every h and w is compiled for
        once; b is padded.

    Returns:
      float32, unit length.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or not len(pixels):
      raise images_lib.ImageError(
        f'pixels are [b, h, w, 3], not {list(pixels.shape)}.'
      )
    if pixels.dtype != np.uint8:
      pixels = pixels.astype(np.float32)
    extra = sizes.bucket(len(pixels)) - len(pixels)
    padded = np.pad(pixels, ((0, extra), (0, 0), (0, 0), (0, 0)))
    vectors = self._image(self.variables, padded)
    return np.asarray(vectors)[: len(pixels)]

  def encode_text(
    self, texts: str | Sequence[str]
  ) -> Float32[np.ndarray, '*b e']:
    """Unit vectors of texts as they are; of one text, one vector."""
    if isinstance(texts, str):
      return self._text_encoder([texts])[0]
    if not len(texts):
      raise text_lib.LabelError('The list of texts is empty.')
    return self._text_encoder(list(texts))

  def _class_embeddings(
    self, names, templates, background, normalize_each=False
  ):
    """Embeddings of classes, and their names as results show them."""
    classes = text_lib.read_classes(names, background)
    text_lib.warn_of_doubtful(classes, self.metadata.get('words', ()))
    with errors.explained_as(text_lib.LabelError):
      prompt_templates = prompts.find_templates(templates)
    vectors, valid = text_lib.class_matrix(
      self._text_encoder,
      classes,
      prompt_templates,
      normalize_each=normalize_each,
    )
    embeddings = scoring.ClassEmbeddings(
      jnp.asarray(vectors), jnp.float32(self.logit_scale), jnp.asarray(valid)
    )
    first = (text_lib.BACKGROUND,) if background else ()
    return embeddings, first + tuple(words[0] for words in classes)

  @property
  def patch_size(self) -> int:
    """Side of a token in pixels."""
    return self.module.image.patch_size

  @property
  def groups(self) -> bool:
    """Whether it groups pixels, as a ViT does not."""
    return any(self.architecture['image'].get('num_group_tokens', ()))

  @property
  def tokenizer(self) -> tokenizers.Tokenizer:
    """Texts to rows of ids. ModelError if the model came without its own."""
    return self._text_encoder.tokenizer

  @functools.cached_property
  def logit_scale(self) -> float:
    """The learned factor on cosines, exponentiated."""
    return float(jax.jit(self.predict_fns['logit_scale'])(self.variables))

  def as_encoder(self) -> build_lib.Encoder:
    """Properties of the model that `build.make` needs."""
    return build_lib.Encoder(
      tokenizer=self.tokenizer,
      image_size=self.image_size,
      patch_size=self.patch_size,
      groups=self.groups,
      clip=self._crops_as_clip,
      own_steps=self.own_steps,
    )

  @property
  def _crops_as_clip(self) -> bool:
    return self.architecture['image_encoder'].startswith('clip_')

  @functools.cached_property
  def _text_encoder(self) -> text_lib.TextEncoder:
    if self._tokenizer_name is None:
      raise errors.ModelError(
        'this model came without its tokenizer, and cannot read words; convert '
        'it from a source that has one'
      )
    tokenizer = make_tokenizer(
      self._tokenizer_name, self.architecture['text']['context_length']
    )
    return text_lib.TextEncoder(
      lambda tokens: self._text(self.variables, tokens), tokenizer
    )

  def __repr__(self) -> str:
    count = sum(x.size for x in jax.tree.leaves(self.variables['params']))
    kind = self.architecture['image_encoder']
    return f'{type(self).__name__}({kind}, {count:,} parameters)'


def check_batch_size(batch_size: int) -> None:
  """Raises ValueError for a batch without images."""
  if batch_size < 1:
    raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
