"""A model as StableHLO programs that need nothing of this package.

`jax.export` (https://docs.jax.dev/en/latest/export/) holds weights and program
in one file: `jax.export.deserialize(bytearray(content)).call(pixels)`.
"""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.typing import DTypeLike

from groupvit_jax.convert import folder as model_folder
from groupvit_jax.evaluation import labelling, regrouping, scoring, sizes
from groupvit_jax.evaluation.regions import as_regions
from groupvit_jax.inference.model import Model

PLATFORMS = ('cpu', 'cuda', 'tpu')
SUFFIX = '.stablehlo'


def save_stablehlo(
  model: Model,
  folder: str | os.PathLike,
  names: Sequence[str] = (),
  *,
  platforms: Sequence[str] = PLATFORMS,
  overwrite: bool = False,
) -> pathlib.Path:
  """Writes the programs of a model into a folder.

  `image` takes uint8 pixels b h w 3 of the training size and returns unit
  vectors b e; `text` takes token ids b l, with zeros behind the end, and
  returns unit vectors b e. With `names`, `segment` takes uint8 pixels b s s 3,
  s the short side, and returns the scores b s s k that `Model.segment` gives
  such an image. b is any number. `programs.json` says so.

  Args:
    model: any; one without groups has no `segment`.
    folder: where; it appears when all is written.
    names: of classes, as `Model.segment` takes them.
    platforms: that the programs are for: 'cpu', 'cuda', 'tpu', 'rocm'. None of
      them needs to be on this machine.
    overwrite: replace such a folder.

  Returns:
    The absolute path of the folder.

  Raises:
    ModelError: the folder cannot be written.
  """
  (batch,) = export.symbolic_shape('b')
  variables = model.variables

  def image(pixels):
    return model.predict_fns['image'](variables, pixels)

  def text(tokens):
    found = model.predict_fns['text'](variables, tokens)
    return found / jnp.linalg.norm(found, axis=-1, keepdims=True)

  length = model.architecture['text']['context_length']
  programs: dict[str, tuple[Callable, tuple[Any, ...], DTypeLike]] = {
    'image': (image, (batch, *model.image_size, 3), np.uint8),
    'text': (text, (batch, length), np.int32),
  }
  description = {'platforms': list(platforms), 'programs': {}}
  if names:
    segment, size, description['names'] = _segment(model, names)
    programs['segment'] = segment, (batch, *size, 3), np.uint8

  def fill(scratch: pathlib.Path) -> None:
    for name, (function, shape, dtype) in programs.items():
      made = export.export(jax.jit(function), platforms=list(platforms))(
        jax.ShapeDtypeStruct(shape, dtype)
      )
      (scratch / f'{name}{SUFFIX}').write_bytes(made.serialize())
      description['programs'][name] = {
        'takes': str(made.in_avals[0]),
        'returns': str(made.out_avals[0]),
      }
    text = json.dumps(description, indent=2, ensure_ascii=False)
    (scratch / model_folder.PROGRAMS).write_text(f'{text}\n')

  return model_folder.write_folder(folder, fill, overwrite=overwrite)


def _segment(
  model: Model, names: Sequence[str]
) -> tuple[Callable[..., Any], sizes.Size, list[str]]:
  """The segmenter for fixed words, its size in pixels, the names of scores."""
  config = model.config
  classes = model.class_list(names, config)
  count = len(classes.names)
  # A whole number of patches.
  square = model.short_side, model.short_side
  size = sizes.padded_window(square, model.plan(config))
  shapes = sizes.shapes(size, model.plan(config))
  encode = regrouping.regions_fn(model.predict_fns, config.regroup != 'none')

  def one(pixels):
    regions = as_regions(encode(model.variables, pixels[None]), size)
    regions = regrouping.apply(regions, config)
    scores = scoring.score(regions, classes.embeddings, config)
    pixels = labelling.class_scores(regions, scores, shapes, config)
    return pixels[0, ..., :count]

  return jax.vmap(one), size, list(classes.names)
