"""Names that several sources share: transformer blocks and the text encoder."""

from groupvit_jax.convert.keymaps import (
  LINEAR,
  Row,
  linear,
  norm,
  split_qkv,
  under,
)

# The transformer block in Hugging Face's GroupViT and CLIP.
HF_BLOCK = (
  *norm('layer_norm1', 'norm1'),
  *norm('layer_norm2', 'norm2'),
  *split_qkv([f'self_attn.{x}_proj' for x in 'qkv'], 'attn/qkv'),
  *linear('self_attn.out_proj', 'attn/out'),
  *linear('mlp.fc1', 'mlp/fc1'),
  *linear('mlp.fc2', 'mlp/fc2'),
)
HF_TEXT = (
  Row('embeddings.token_embedding.weight', 'tokens'),
  Row('embeddings.position_embedding.weight', 'positions'),
  *under('encoder.layers.{layer}', 'block_{layer}', HF_BLOCK),
  *norm('final_layer_norm', 'norm'),
)
# The same in OpenAI's CLIP, whose text encoder the original GroupViT keeps.
OPENAI_BLOCK = (
  *norm('ln_1', 'norm1'),
  *norm('ln_2', 'norm2'),
  Row('attn.in_proj_weight', 'attn/qkv/kernel', LINEAR),
  Row('attn.in_proj_bias', 'attn/qkv/bias'),
  *linear('attn.out_proj', 'attn/out'),
  *linear('mlp.c_fc', 'mlp/fc1'),
  *linear('mlp.c_proj', 'mlp/fc2'),
)
OPENAI_TEXT = (
  Row('token_embedding.weight', 'tokens'),
  Row('positional_embedding', 'positions'),
  *under('transformer.resblocks.{layer}', 'block_{layer}', OPENAI_BLOCK),
  *norm('ln_final', 'norm'),
)
