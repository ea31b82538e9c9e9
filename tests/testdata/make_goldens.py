"""Makes the goldens of tests/test_groupvit_parity.py and test_layers.py.

Runs Hugging Face's GroupViT, which needs torch and transformers (neither is
a dependency of the tests): python tests/testdata/make_goldens.py
Made with transformers 5.23.0 and torch 2.13.0 on a CPU, float32.

Files hf_*.npz hold, for a tiny configuration with random weights:
  cfg: the configuration, JSON bytes.  sd/*: state dict.  in/*: inputs.
  out/*: outputs in eval mode.
  loss, image_embeds, text_embeds, grad/*, newbuf/*: train mode; gumbel_i: its
  recorded noise, in the order of drawing.
bicubic.npz holds torch's bicubic resize of one array to several grids.
"""

import pathlib

import numpy as np
import torch
from torch.distributions import gumbel
from transformers import GroupViTConfig, GroupViTModel

FOLDER = pathlib.Path(__file__).parent
TEXT = {
  'vocab_size': 41,
  'hidden_size': 8,
  'intermediate_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'max_position_embeddings': 11,
  'bos_token_id': 39,
  'eos_token_id': 40,
}
# Seed and vision configuration: images that are not square, groups fewer than
# group tokens, a stage without blocks, three grouping stages.
CONFIGS = {
  'hf_one_stage': (
    0,
    {
      'hidden_size': 15,
      'intermediate_size': 30,
      'num_hidden_layers': 3,
      'depths': [2, 1],
      'num_group_tokens': [6, 0],
      'num_output_groups': [4, 0],
      'num_attention_heads': 3,
      'image_size': [24, 40],
      'patch_size': 8,
    },
  ),
  'hf_three_stage': (
    1,
    {
      'hidden_size': 12,
      'intermediate_size': 36,
      'num_hidden_layers': 3,
      'depths': [1, 1, 0, 1],
      'num_group_tokens': [7, 5, 3, 0],
      'num_output_groups': [7, 5, 2, 0],
      'num_attention_heads': 2,
      'image_size': [20, 12],
      'patch_size': 4,
    },
  ),
}
GRIDS = ((7, 5), (3, 9), (4, 4), (2, 3), (1, 1), (14, 21))


def main() -> None:
  for name, (seed, vision) in CONFIGS.items():
    arrays = golden(vision, seed)
    np.savez_compressed(FOLDER / f'{name}.npz', **arrays)
  np.savez_compressed(FOLDER / 'bicubic.npz', **bicubic())


def golden(vision: dict, seed: int) -> dict[str, np.ndarray]:
  """Everything one configuration gives, in eval and in train mode."""
  torch.manual_seed(seed)
  config = GroupViTConfig(
    projection_dim=10,
    projection_intermediate_dim=14,
    text_config=TEXT,
    vision_config=vision,
  )
  model = GroupViTModel(config)
  randomise(model)
  inputs = {
    'pixel_values': torch.randn(4, 3, *vision['image_size']),
    'input_ids': random_texts(4),
  }
  arrays = {'cfg': np.frombuffer(config.to_json_string().encode(), np.uint8)}
  arrays |= {f'in/{k}': v.numpy() for k, v in inputs.items()}
  state = model.state_dict().items()
  arrays |= {f'sd/{k}': v.numpy().copy() for k, v in state}
  return arrays | evaluated(model, inputs) | trained(model, inputs)


def randomise(model: torch.nn.Module) -> None:
  """Strong weights, and no parameter or statistic at a constant."""
  with torch.no_grad():
    for name, p in model.named_parameters():
      if p.ndim > 1 and 'position' not in name and 'group_token' not in name:
        p.normal_(std=p[0].numel() ** -0.5)
      else:
        p.add_(0.1 * torch.randn_like(p))
    for name, b in model.named_buffers():
      if name.endswith(('running_mean', 'running_var')):
        b.add_(0.2 * torch.rand_like(b))


def random_texts(n: int) -> torch.Tensor:
  """Start token, random ids, one end token, zeros."""
  ids = torch.zeros(n, TEXT['max_position_embeddings'], dtype=torch.long)
  for i in range(n):
    length = int(torch.randint(1, ids.shape[1] - 2, ()))
    ids[i, 0] = TEXT['bos_token_id']
    ids[i, 1 : 1 + length] = torch.randint(1, TEXT['bos_token_id'], (length,))
    ids[i, 1 + length] = TEXT['eos_token_id']
  return ids


def evaluated(model: GroupViTModel, inputs: dict) -> dict[str, np.ndarray]:
  """Outputs in eval mode."""
  model.eval()
  with torch.no_grad():
    out = model(**inputs, output_hidden_states=True, output_segmentation=True)
  vision, text = out.vision_model_output, out.text_model_output
  arrays = {
    'image_embeds': out.image_embeds,
    'text_embeds': out.text_embeds,
    'logits_per_image': out.logits_per_image,
    'segmentation_logits': out.segmentation_logits,
    'vision_last': vision.last_hidden_state,
    'vision_pooled': vision.pooler_output,
    'text_pooled': text.pooler_output,
  }
  for i, x in enumerate(vision.hidden_states):
    arrays[f'vision_hidden_{i}'] = x
  for i, x in enumerate(vision.attentions):
    require_clear_winners(x)
    arrays[f'grouping_attn_{i}'] = x
  return {f'out/{k}': v.numpy() for k, v in arrays.items()}


def trained(model: GroupViTModel, inputs: dict) -> dict[str, np.ndarray]:
  """Loss, gradients, noise and new statistics of one step in train mode."""
  model.train()
  noises = []
  sample = gumbel.Gumbel.sample

  def record(self, shape):
    noises.append(sample(self, shape))
    return noises[-1]

  gumbel.Gumbel.sample = record
  out = model(**inputs, return_loss=True, output_attentions=True)
  gumbel.Gumbel.sample = sample
  out.loss.backward()
  for soft, noise in zip(
    out.vision_model_output.attentions, noises, strict=True
  ):
    require_clear_winners((soft.detach().log() + noise).softmax(1))
  arrays = {
    'loss': out.loss.detach(),
    'image_embeds': out.image_embeds.detach(),
    'text_embeds': out.text_embeds.detach(),
  }
  arrays |= {f'gumbel_{i}': x for i, x in enumerate(noises)}
  arrays |= {f'grad/{k}': p.grad for k, p in model.named_parameters()}
  for k, b in model.named_buffers():
    if 'running' in k:
      arrays[f'newbuf/{k}'] = b
  return {k: v.numpy() for k, v in arrays.items()}


def require_clear_winners(soft: torch.Tensor) -> None:
  """A near tie could flip between libraries: such a seed is no golden."""
  first, second = soft.topk(2, dim=1).values.unbind(1)
  if (first - second).min() < 1e-4:
    raise SystemExit('an assignment is nearly tied; choose another seed')


def bicubic() -> dict[str, np.ndarray]:
  """One 4x6 grid of vectors, resized as the original resizes positions."""
  x = torch.randn(1, 2, 4, 6, generator=torch.Generator().manual_seed(0))
  arrays = {'input': x}
  for h, w in GRIDS:
    arrays[f'{h}x{w}'] = torch.nn.functional.interpolate(
      x, size=(h, w), mode='bicubic', align_corners=False
    )
  return {k: v.permute(0, 2, 3, 1).numpy() for k, v in arrays.items()}


if __name__ == '__main__':
  main()
