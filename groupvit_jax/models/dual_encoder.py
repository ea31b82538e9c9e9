"""An image and a text encoder, projected into one joint space.

Knows nothing of groups beyond the encoder's `out` dict, so GroupViT and the
plain ViT share losses and evaluation.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from groupvit_jax.embeddings import unit_norm
from groupvit_jax.models import grouping, layers, ops, patches

MAX_SCALE = 100.0
INITIAL_LOG_SCALE = math.log(1 / 0.07)
# Of the sigmoid loss: arXiv 2303.15343, section 3.2.
SIGMOID_LOG_SCALE, SIGMOID_BIAS = math.log(10), -10.0


class Projector(nn.Module):
  """Linear, batch norm, ReLU, linear; or one linear layer.

  Attributes:
    features: joint width.
    hidden: width between the layers; 0 for one linear layer.
    bias: of the linear layers; CLIP's projections have none.
    dtype: of the computation; batch norm and output are float32.
  """

  features: int
  hidden: int
  bias: bool = True
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, '*b d'], train: bool
  ) -> Float[Array, '*b e']:
    """Projects; batch statistics only if `train`."""

    def dense(features: int, fan_in: int, name: str) -> nn.Module:
      return ops.Dense(
        features,
        use_bias=self.bias,
        dtype=self.dtype,
        kernel_init=layers.TORCH_DEFAULT,
        bias_init=layers.torch_bias(fan_in),
        name=name,
      )

    fan_in = x.shape[-1]
    if self.hidden:
      x = dense(self.hidden, fan_in, 'fc1')(x)
      x = nn.relu(layers.BatchNorm(self.dtype, name='norm')(x, train))
      fan_in = self.hidden
    return dense(self.features, fan_in, 'fc2')(x).astype(jnp.float32)


def _with_operands(method: Callable[..., Any]) -> Callable[..., Any]:
  """A method of `DualEncoder` that multiplies by its `matmul_operands`."""

  @functools.wraps(method)
  def wrapped(self, *args, **options):
    with ops.matmul_operands(self.matmul_operands):
      return method(self, *args, **options)

  return wrapped


class DualEncoder(nn.Module):
  """Image and text in one space.

  Attributes:
    image: GroupViT, or an image encoder without groups.
    text: TextTransformer.
    embed_dim: joint width.
    projector_width: hidden width of the projectors; 0: one linear layer.
    projector_bias: of the projectors' linear layers.
    image_projector_bias: of the image projector where it differs (CLIP's
      ResNets); None: as `projector_bias`.
    separate_multi_label_scale: a logit scale of its own for the multi-label
      loss (released); False shares the caption's.
    learned_background: hold the vector and the level of a learned background
      (`losses/background.py`); without it there are no such parameters.
    logit_bias: hold a bias of the logits, which the sigmoid loss learns; scale
      and bias then start as SigLIP's.
    dtype: of the projectors' computation.
    matmul_operands: of linear layers and attention in float32: 'float32', or
      'bfloat16' (rounded operands, sums in float32; see `ops.product`).
  """

  image: nn.Module
  text: nn.Module
  embed_dim: int = 256
  projector_width: int = 4096
  projector_bias: bool = True
  image_projector_bias: bool | None = None
  separate_multi_label_scale: bool = True
  learned_background: bool = False
  logit_bias: bool = False
  dtype: DTypeLike = jnp.float32
  matmul_operands: str = 'float32'

  def setup(self) -> None:
    """Makes the projectors and the parameters of the joint space."""
    sizes = self.embed_dim, self.projector_width
    bias = self.image_projector_bias
    bias = self.projector_bias if bias is None else bias
    self.image_projector = Projector(*sizes, bias, self.dtype)
    self.text_projector = Projector(*sizes, self.projector_bias, self.dtype)
    scale = SIGMOID_LOG_SCALE if self.logit_bias else INITIAL_LOG_SCALE
    initial = nn.initializers.constant(scale)
    # The parameters are logarithms; the methods of the same names
    # exponentiate them.
    self._log_scale = self.param('logit_scale', initial, ())
    if self.separate_multi_label_scale:
      self._multi_label_log_scale = self.param(
        'multi_label_logit_scale', initial, ()
      )
    if self.logit_bias:
      bias = nn.initializers.constant(SIGMOID_BIAS)
      self._logit_bias = self.param('logit_bias', bias, ())
    if self.learned_background:
      # One dimension: weight decay leaves it alone.
      self.background_token = self.param(
        'background_token', nn.initializers.zeros, (self.embed_dim + 1,)
      )

  @_with_operands
  def __call__(
    self,
    images: Float[Array, 'b h w 3'],
    tokens: Int[Array, 'b t l'],
    *,
    train: bool = False,
    with_groups: bool = False,
    with_token_embeddings: bool = False,
  ) -> dict:
    """Embeds images and their texts.

    Args:
      images: already normalised.
      tokens: t texts for each image: the caption, then any prompted nouns.
      train: batch statistics, drop-path, Gumbel noise (rng collections
        'drop_path' and 'gumbel'); make 'batch_stats' mutable.
      with_groups: project the regions too; by the stored statistics, as
        the original does (only pooled images make batch statistics).
      with_token_embeddings: project the token embeddings too (`GroupViT`); with
        several grouping stages the tokens are groups of the stage before.

    Returns:
      image (b e), texts (b t e), groups (b g e) and token_embeddings (b n e;
      both only if asked for): unit vectors, float32. logit_scale,
      multi_label_logit_scale: scalars, exponentiated. assignments: as the image
      encoder gives them. background_token (e + 1, vector and level) and
      logit_bias (scalar) if there is one.
    """
    return self.joint(
      self.image_outputs(images, train),
      self.text_outputs(tokens.reshape(-1, tokens.shape[-1])),
      train=train,
      with_groups=with_groups,
      with_token_embeddings=with_token_embeddings,
    )

  @_with_operands
  def image_outputs(
    self, images: Float[Array, 'b h w 3'], train: bool
  ) -> tuple[Float[Array, 'b d'], dict]:
    """Outputs of the image encoder for normalised images."""
    return self.image(images, train=train)

  @_with_operands
  def text_outputs(self, tokens: Int[Array, 'u l']) -> Float[Array, 'u w']:
    """Outputs of the text encoder."""
    return self.text(tokens)

  @_with_operands
  def joint(
    self,
    image_outputs: tuple[Float[Array, 'b d'], dict],
    texts: Float[Array, '_bt _w'],
    *,
    train: bool = False,
    with_groups: bool = False,
    with_token_embeddings: bool = False,
  ) -> dict:
    """`__call__` from what both encoders return: all that follows them."""
    pooled, out = image_outputs
    texts = self.text_projector(texts, train).reshape(
      len(pooled), -1, self.embed_dim
    )
    result = {
      'texts': unit_norm(texts),
      'logit_scale': self.logit_scale(),
      'multi_label_logit_scale': self.multi_label_logit_scale(),
      'assignments': out.get('assignments', ()),
    }
    # Before the pooled images: these must see the statistics as stored.
    if with_groups:
      result['groups'] = self.project_regions(out)
    if with_token_embeddings:
      result['token_embeddings'] = self.project_regions(out, 'token_embeddings')
    if self.learned_background:
      result['background_token'] = self.background_token
    if self.logit_bias:
      result['logit_bias'] = self._logit_bias
    image = self.image_projector(pooled, train)
    return result | {'image': unit_norm(image)}

  def project_regions(
    self, out: dict, name: str = 'groups'
  ) -> Float[Array, 'b g e']:
    """Unit embeddings of groups or tokens; a ViT's patch tokens are both."""
    regions = out[name] if name in out else out['tokens']
    return unit_norm(self.image_projector(regions, False))

  @_with_operands
  def encode_image(
    self,
    images: Float[Array, 'b h w 3'],
    sizes: Int[Array, 'b 2'] | None = None,
  ) -> Float[Array, 'b e']:
    """Unit embeddings of normalised images; sizes as in `encode_regions`."""
    pooled, _ = self.image(images, train=False, sizes=sizes)
    return unit_norm(self.image_projector(pooled, False))

  @_with_operands
  def image_features(
    self, images: Float[Array, 'b h w 3']
  ) -> dict[str, Float[Array, 'b _d']]:
    """Features of normalised images for a linear probe; no unit vectors.

    Returns:
      projected (b e): as the projector gives them. pooled (b d): before it.
    """
    pooled, _ = self.image(images, train=False)
    return {
      'projected': self.image_projector(pooled, False),
      'pooled': pooled,
    }

  @_with_operands
  def encode_text(
    self, tokens: Int[Array, 'c l'], normalize: bool = True
  ) -> Float[Array, 'c e']:
    """Embeddings of texts; unit vectors unless `normalize` is False.

    The released evaluation averages templates before normalising.
    """
    texts = self.text_projector(self.text(tokens), False)
    return unit_norm(texts) if normalize else texts

  @_with_operands
  def encode_regions(
    self,
    images: Float[Array, 'b h w 3'],
    sizes: Int[Array, 'b 2'] | None = None,
    with_tokens: bool = False,
  ) -> dict:
    """Regions of normalised images, for zero-shot segmentation.

    Args:
      images: any size of at least one patch.
      sizes: real (height, width) in pixels of images that lie in the top left
        corner of the padded shape; the padding is not read, and every image
        gets the result that it would get alone. None: there is no padding.
      with_tokens: return the token embeddings too.

    Returns:
      image (b e) and embeddings (b g e): unit vectors of the image and of
      its final groups (a ViT: of its patch tokens). stages: per grouping
      stage, soft maps b h w g on the token grid, composed down to the image;
      the last are the masks of `embeddings`. A ViT has none. grid: (h, w).
      With sizes, maps and a ViT's embeddings are zero in the padding, and
      grids (b 2) are the (h, w) of every image in tokens. background (b g),
      if it was learned: the cosine that a noun has to exceed in each group.
      tokens (b m e), if asked for: unit vectors of the tokens that the last
      stage grouped.
    """
    pooled, out = self.image(images, train=False, sizes=sizes)
    maps = grouping.compose_assignments(out.get('assignments', ()))
    result = {
      'image': unit_norm(self.image_projector(pooled, False)),
      'embeddings': self.project_regions(out),
      'stages': tuple(
        m.reshape(m.shape[0], *out['grid'], m.shape[-1]) for m in maps
      ),
      'grid': out['grid'],
    }
    if with_tokens:
      result['tokens'] = self.project_regions(out, 'token_embeddings')
    if self.learned_background:
      vector, level = self.background_token[:-1], self.background_token[-1]
      near = jnp.einsum(
        'bge,e->bg', result['embeddings'], vector, precision='highest'
      )
      result['background'] = near + level
    if sizes is None:
      return result
    if not maps:  # the regions are tokens
      mask = patches.token_mask(out['grids'], out['grid'])[..., None]
      result['embeddings'] = jnp.where(mask, result['embeddings'], 0)
    return result | {'grids': out['grids']}

  def logit_scale(self) -> Float[Array, '']:
    """Factor on the logits of the caption loss: exponentiated, at most 100."""
    return jnp.minimum(jnp.exp(self._log_scale), MAX_SCALE)

  def multi_label_logit_scale(self) -> Float[Array, '']:
    """The same for the multi-label loss; the caption's if shared."""
    if not self.separate_multi_label_scale:
      return self.logit_scale()
    return jnp.minimum(jnp.exp(self._multi_label_log_scale), MAX_SCALE)


def predict_fns(
  model: nn.Module, normalize: Callable[[Any], Any]
) -> dict[str, Callable[..., Any]]:
  """Functions for evaluation, not compiled; see `docs/architecture.md`.

  Args:
    model: has the methods of `DualEncoder`.
    normalize: from the pixels that callers pass to those that `model` takes.

  Returns:
    Pure functions by name: `image`, `regions` and `regions_and_tokens` of
    (variables, images, sizes=None), `text` of (variables, tokens),
    `logit_scale` of (variables).
  """

  def of_images(method, **options):
    def predict(variables, images, sizes=None):
      images = normalize(images)
      return model.apply(variables, images, sizes, method=method, **options)

    return predict

  def text(variables, tokens):
    # Not normalised: templates are averaged first.
    return model.apply(variables, tokens, normalize=False, method='encode_text')

  def logit_scale(variables):
    return model.apply(variables, method='logit_scale')

  def features(variables, images):
    return model.apply(variables, normalize(images), method='image_features')

  return {
    'features': features,
    'image': of_images('encode_image'),
    'text': text,
    'regions': of_images('encode_regions'),
    'regions_and_tokens': of_images('encode_regions', with_tokens=True),
    'logit_scale': logit_scale,
  }
