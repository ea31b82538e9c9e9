"""A model as programs that need nothing of this package.

Three formats: StableHLO files of `jax.export`
(https://docs.jax.dev/en/latest/export/), a TensorFlow SavedModel (jax2tf), and
ONNX files (jax2onnx).
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.typing import DTypeLike
from scipy import special

from groupvit_jax.convert import folder as model_folder
from groupvit_jax.embeddings import unit_norm
from groupvit_jax.errors import ModelError
from groupvit_jax.evaluation import labelling, regrouping, scoring, sizes
from groupvit_jax.evaluation.regions import as_regions
from groupvit_jax.inference.model import Model
from groupvit_jax.models import ops

PLATFORMS = ('cpu', 'cuda', 'tpu')


@dataclasses.dataclass(frozen=True)
class _Program:
  """A function of (variables, array), and that array without its batch."""

  function: Callable[[Any, Any], Any]
  shape: tuple[int, ...]
  dtype: DTypeLike


def save(
  model: Model,
  folder: str | os.PathLike,
  names: Sequence[str] = (),
  *,
  format: str = 'stablehlo',
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
    format: 'stablehlo' and 'onnx' write a file for each program, 'tf' a
      SavedModel with a signature for each. For 'onnx' jax2onnx leaves changes
      in `jax.numpy`: do nothing else in such a process.
    platforms: that the programs are for: 'cpu', 'cuda', 'tpu', 'rocm'. None of
      them needs to be on this machine. ONNX files name no platform.
    overwrite: replace such a folder.

  Returns:
    The absolute path of the folder.

  Raises:
    ModelError: the folder cannot be written, or the format needs a package
      that is not there.
  """

  def image(variables, pixels):
    return model.predict_fns['image'](variables, pixels)

  def text(variables, tokens):
    return unit_norm(model.predict_fns['text'](variables, tokens))

  length = model.architecture['text']['context_length']
  programs = {
    'image': _Program(image, (*model.image_size, 3), np.uint8),
    'text': _Program(text, (length,), np.int32),
  }
  description: dict[str, Any] = {'format': format}
  if names and format == 'onnx' and model.config.regroup != 'none':
    raise ModelError(
      'jax2onnx cannot convert the k-means that this model remakes its groups '
      'by: export it with --format stablehlo or tf, or without class names'
    )
  if names:
    programs['segment'], description['names'] = _segment(model, names)
  if format != 'onnx':
    description['platforms'] = list(platforms)
  write = {'stablehlo': _stablehlo, 'tf': _saved_model, 'onnx': _onnx}[format]

  def fill(scratch: pathlib.Path) -> None:
    write(scratch, programs, model.variables, platforms)
    description['programs'] = {
      name: _described(program, model.variables)
      for name, program in programs.items()
    }
    text = json.dumps(description, indent=2, ensure_ascii=False)
    (scratch / model_folder.PROGRAMS).write_text(f'{text}\n')

  return model_folder.write_folder(folder, fill, overwrite=overwrite)


def _segment(model: Model, names: Sequence[str]) -> tuple[_Program, list[str]]:
  """The segmenter for fixed words, and the names of its scores."""
  config = model.config
  classes = model.class_list(names, config)
  count = len(classes.names)
  # A whole number of patches.
  square = model.short_side, model.short_side
  size = sizes.padded_window(square, model.plan(config))
  shapes = sizes.shapes(size, model.plan(config))
  encode = regrouping.regions_fn(model.predict_fns, config.regroup != 'none')

  def one(found):
    found = jax.tree.map(lambda x: x[None], found)
    # Numbers of numpy may be of 64 bits, which jax2onnx would keep.
    regions = jax.tree.map(jnp.asarray, as_regions(found, size))
    regions = regrouping.apply(regions, config)
    scores = scoring.score(regions, classes.embeddings, config)
    pixels = labelling.class_scores(regions, scores, shapes, config)
    return pixels[0, ..., :count]

  def segment(variables, images):
    found = dict(encode(variables, images))
    del found['grid']  # plain numbers
    return jax.vmap(one)(found)

  return _Program(segment, (*size, 3), np.uint8), list(classes.names)


def _argument(program: _Program) -> jax.ShapeDtypeStruct:
  (batch,) = export.symbolic_shape('b')
  return jax.ShapeDtypeStruct((batch, *program.shape), program.dtype)


def _described(program: _Program, variables: Any) -> dict[str, str]:
  taken = _argument(program)
  given = jax.eval_shape(program.function, variables, taken)
  return {
    name: f'{x.dtype}[{",".join(map(str, x.shape))}]'
    for name, x in (('takes', taken), ('returns', given))
  }


def _stablehlo(
  folder: pathlib.Path,
  programs: Mapping[str, _Program],
  variables: Any,
  platforms: Sequence[str],
) -> None:
  for name, program in programs.items():
    # The weights become constants: of each program those that it needs.
    whole = jax.jit(lambda x, program=program: program.function(variables, x))
    made = export.export(whole, platforms=list(platforms))(_argument(program))
    (folder / f'{name}.stablehlo').write_bytes(made.serialize())


def _saved_model(
  folder: pathlib.Path,
  programs: Mapping[str, _Program],
  variables: Any,
  platforms: Sequence[str],
) -> None:
  """A SavedModel: the programs are its signatures and share its variables."""
  try:
    import tensorflow as tf
    from jax.experimental import jax2tf
  except ImportError as error:
    raise ModelError(_lacks('tf', error, 'train')) from error
  module: Any = tf.Module()
  module.weights = jax.tree.map(
    lambda x: tf.Variable(tf.constant(np.asarray(x))), variables
  )
  signatures = {}
  for name, program in programs.items():
    shape = ', '.join(['b', *map(str, program.shape)])
    function = jax2tf.convert(
      program.function,
      polymorphic_shapes=[None, shape],
      with_gradient=False,
      native_serialization_platforms=list(platforms),
    )
    dtype = tf.as_dtype(np.dtype(program.dtype))
    takes = tf.TensorSpec((None, *program.shape), dtype, 'x')
    signatures[name] = tf.function(
      _called(function, module.weights, name), [takes], autograph=False
    )
  try:
    # TensorFlow 2.21 does not know the erf of JAX 0.10's StableHLO.
    with ops.erf_by(_erf):
      tf.saved_model.save(module, str(folder), signatures)
      for name, program in programs.items():
        dtype = tf.as_dtype(np.dtype(program.dtype))
        signatures[name](tf.zeros((1, *program.shape), dtype))
  except tf.errors.OpError as error:
    raise ModelError(
      f'TensorFlow {tf.__version__} does not read the programs of jax '
      f'{jax.__version__}: take jax 0.10, or --format stablehlo'
    ) from error


def _called(function, weights, name):
  return lambda x: {name: function(weights, x)}


def _erf(x: jax.Array) -> jax.Array:
  """The error function by additions and products, within 2e-7.

  erf(x)/x as a polynomial of x^2, interpolated at Chebyshev's points.
  """
  largest = 3.9  # erf is 1 in float32 beyond it
  series = np.polynomial.chebyshev.chebinterpolate(
    lambda t: _erf_over(np.sqrt((t + 1) / 2) * largest), 24
  )
  x = jnp.clip(x, -largest, largest)
  t = 2 * (x / largest) ** 2 - 1
  # Clenshaw's recurrence.
  last, before = jnp.zeros_like(t), jnp.zeros_like(t)
  for c in series[:0:-1]:
    last, before = 2 * t * last - before + float(c), last
  return x * (t * last - before + float(series[0]))


def _erf_over(x):
  return special.erf(x) / x


def _onnx(
  folder: pathlib.Path,
  programs: Mapping[str, _Program],
  variables: Any,
  platforms: Sequence[str],
) -> None:
  try:
    import jax2onnx  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise ModelError(_lacks('onnx', error, 'onnx')) from error
  for name, program in programs.items():
    jax2onnx.to_onnx(
      lambda x, program=program: program.function(variables, x),
      [_argument(program)],
      model_name=name,
      return_mode='file',
      output_path=str(folder / f'{name}.onnx'),
    )


def _lacks(form: str, error: ImportError, extra: str) -> str:
  return (
    f"--format {form} needs {error.name}: pip install 'groupvit_jax[{extra}]'"
  )
