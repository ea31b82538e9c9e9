"""Names that the original GroupViT and Hugging Face's port share: a stage."""

from collections.abc import Sequence

from groupvit_jax.convert.keymaps import (
  Row,
  linear,
  norm,
  split_qkv,
  under,
)


def stage(
  blocks: str, block: Sequence[Row], cross_attention_out: str
) -> tuple[Row, ...]:
  """Rows of one stage: group tokens, transformer blocks, Grouping Block.

  Args:
    blocks: name of the list of blocks.
    block: rows of one of them.
    cross_attention_out: name of the output layer of the attention before the
      assignment.

  Returns:
    Rows below the stage.
  """
  cross = 'pre_assign_attn'
  grouping = (
    *norm('norm_tokens', 'norm_tokens'),
    *norm('norm_x', 'norm_x'),
    *linear('mlp_inter.fc1', 'mixer/mlp/fc1'),
    *linear('mlp_inter.fc2', 'mixer/mlp/fc2'),
    *norm('norm_post_tokens', 'norm_mixed'),
    *linear(f'{cross}.attn.q_proj', 'pre_assign/attn/q'),
    *split_qkv([f'{cross}.attn.{x}_proj' for x in 'kv'], 'pre_assign/attn/kv'),
    *linear(f'{cross}.attn.{cross_attention_out}', 'pre_assign/attn/out'),
    *norm(f'{cross}.norm2', 'pre_assign/norm2'),
    *norm(f'{cross}.norm_post', 'pre_assign/norm_post'),
    *linear(f'{cross}.mlp.fc1', 'pre_assign/mlp/fc1'),
    *linear(f'{cross}.mlp.fc2', 'pre_assign/mlp/fc2'),
    *linear('assign.q_proj', 'assign/q'),
    *split_qkv([f'assign.{x}_proj' for x in 'kv'], 'assign/kv'),
    *linear('assign.proj', 'assign/out'),
    *norm('norm_new_x', 'norm_out'),
    *linear('mlp_channels.fc1', 'mlp/fc1'),
    *linear('mlp_channels.fc2', 'mlp/fc2'),
  )
  return (
    Row('group_token', 'group_tokens'),
    *norm('group_projector.0', 'norm_previous'),
    *linear('group_projector.1.fc1', 'project_previous/mlp/fc1'),
    *linear('group_projector.1.fc2', 'project_previous/mlp/fc2'),
    *under(f'{blocks}.{{layer}}', 'block_{layer}', block),
    *under('downsample', 'grouping', grouping),
  )
