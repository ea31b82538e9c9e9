"""Named sizes: frozen specs with their source, and builders from them.

A spec is what a paper's table fixes; options such as dtype or remat are the
builder's arguments, so that one spec serves every run.
"""

import dataclasses

import flax.linen as nn

from groupvit_jax.models import groupvit, text, vit


@dataclasses.dataclass(frozen=True)
class GroupViTSpec:
  """Sizes of a GroupViT; fields as in `groupvit.GroupViT`."""

  image_size: int
  patch_size: int
  width: int
  depths: tuple[int, ...]
  num_heads: int
  num_group_tokens: tuple[int, ...]
  num_output_groups: tuple[int, ...]
  mlp_ratio: float = 4.0


@dataclasses.dataclass(frozen=True)
class ViTSpec:
  """Sizes of a ViT; fields as in `vit.ViT`."""

  image_size: int
  patch_size: int
  width: int
  depth: int
  num_heads: int
  mlp_ratio: float = 4.0


@dataclasses.dataclass(frozen=True)
class TextSpec:
  """Sizes of a text encoder; fields as in `text.TextTransformer`."""

  vocab_size: int
  context_length: int
  width: int
  depth: int
  num_heads: int


# arXiv 2202.11094 section 4.1: a ViT-S of 12 layers, 2-stage, groups after
# layers 6 and 9. Released code: configs/group_vit_gcc_yfcc_30e.yml.
GROUPVIT_S = GroupViTSpec(
  image_size=224,
  patch_size=16,
  width=384,
  depths=(6, 3, 3),
  num_heads=6,
  num_group_tokens=(64, 8, 0),
  num_output_groups=(64, 8, 0),
)

# The same section, 1-stage: 64 group tokens, 8 groups after layer 6. Neither
# configuration nor weights were released (NVlabs/GroupViT issue 53).
GROUPVIT_S_ONE_STAGE = dataclasses.replace(
  GROUPVIT_S,
  depths=(6, 6),
  num_group_tokens=(64, 0),
  num_output_groups=(8, 0),
)

# The ViT that GroupViT-S is built on (arXiv 2012.12877 table 1, DeiT-S), with
# mean pooling: the baseline of GroupViT's Table 4.
VIT_S = ViTSpec(image_size=224, patch_size=16, width=384, depth=12, num_heads=6)

# arXiv 2202.11094 section 4.1, with the vocabulary of the released code.
TEXT_S = TextSpec(
  vocab_size=49408, context_length=77, width=256, depth=12, num_heads=4
)


def build_image_encoder(
  spec: GroupViTSpec | ViTSpec, **options
) -> groupvit.GroupViT | vit.ViT:
  """The image encoder of a spec.

  Args:
    spec: sizes; `dataclasses.replace` makes another.
    **options: further fields of `GroupViT` or `ViT`, such as drop_path_rate,
      assignment, remat, dtype.

  Returns:
    An unbound flax module.
  """
  sizes = dataclasses.asdict(spec)
  if isinstance(spec, ViTSpec):
    return vit.ViT(**sizes, **options)
  return groupvit.GroupViT(**sizes, **options)


def build_text_encoder(spec: TextSpec, **options) -> nn.Module:
  """The text encoder of a spec; options are fields such as remat, dtype."""
  return text.TextTransformer(**dataclasses.asdict(spec), **options)
