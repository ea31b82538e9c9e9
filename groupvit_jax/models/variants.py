"""Named sizes: frozen specs with their source.

A spec is what a paper's table fixes; configurations take their sizes from it.
"""

import dataclasses


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

# arXiv 2202.11094 section 4.1, with the vocabulary of the released code.
TEXT_S = TextSpec(
  vocab_size=49408, context_length=77, width=256, depth=12, num_heads=4
)
