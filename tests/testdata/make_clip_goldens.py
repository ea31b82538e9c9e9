"""Makes the goldens of tests/convert/test_clip_files.py.

Runs open_clip, which needs torch and open_clip_torch (not dependencies of the
tests): python tests/testdata/make_clip_goldens.py
Made with open_clip_torch 3.3.0 and torch 2.13.0 on a CPU, float32.

Weights and batch-norm statistics are random; matrices are stored in float16, as
OpenAI's. Each folder of clip_files holds the weights as they are published:
  resnet/model.pt: a TorchScript archive.
  vit/: a folder for open_clip, a ViT with exact GELU and a bias of the logits.
and outputs.npz: images b h w 3, tokens, unit embeddings, logits, in float32.
"""

import json
import pathlib

import numpy as np
import open_clip
import safetensors.torch
import torch

FOLDER = pathlib.Path(__file__).parent / 'clip_files'
# An archive has no config: heads are 64 wide, as in every released model.
RESNET = {
  'embed_dim': 12,
  'quick_gelu': True,
  'vision_cfg': {'image_size': 64, 'layers': [1, 2, 1, 1], 'width': 2},
  'text_cfg': {
    'context_length': 9,
    'vocab_size': 41,
    'width': 64,
    'heads': 1,
    'layers': 1,
  },
}
VIT = {
  'embed_dim': 12,
  'quick_gelu': False,
  'init_logit_bias': -3.0,
  'vision_cfg': {
    'image_size': 24,
    'layers': 2,
    'width': 16,
    'head_width': 8,
    'patch_size': 8,
  },
  'text_cfg': {
    'context_length': 9,
    'vocab_size': 41,
    'width': 16,
    'heads': 4,
    'layers': 1,
  },
}


def make(name, config):
  """A model with random weights; its outputs."""
  torch.manual_seed(0)
  model = open_clip.model.CLIP(**config).eval()
  with torch.no_grad():
    for key, x in model.state_dict().items():
      if not x.dtype.is_floating_point or key.startswith('logit_'):
        continue
      positive = key.endswith('running_var')
      x.copy_(torch.rand_like(x) + 0.5 if positive else torch.randn_like(x) / 3)
      if x.ndim > 1:
        x.copy_(x.half())
  size = config['vision_cfg']['image_size']
  images = torch.randn(3, 3, size, size)
  tokens = torch.randint(1, 39, (3, 9))
  tokens[:, 0] = 39
  for row, end in zip(tokens, (3, 8, 5), strict=True):
    row[end] = 40
    row[end + 1 :] = 0
  with torch.no_grad():
    image = model.encode_image(images, normalize=True)
    text = model.encode_text(tokens, normalize=True)
    logits, _ = model.get_logits(images, tokens)
  folder = FOLDER / name
  folder.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(
    folder / 'outputs.npz',
    images=images.permute(0, 2, 3, 1).numpy(),
    tokens=tokens.int().numpy(),
    image=image.numpy(),
    text=text.numpy(),
    logits=logits.numpy(),
  )
  return model, folder, (images, tokens)


def main():
  """Writes both."""
  model, folder, inputs = make('resnet', RESNET)
  # As OpenAI's archives, which hold these as if they were weights.
  for name in ('input_resolution', 'context_length', 'vocab_size'):
    if name in model.__dict__:
      delattr(model, name)
    model.register_buffer(name, torch.tensor(64))
  traced = torch.jit.trace(model, inputs)
  for x in [*traced.parameters(), *traced.buffers()]:
    if x.ndim > 1 and x.dtype.is_floating_point:
      x.data = x.data.half()
  torch.jit.save(traced, folder / 'model.pt')
  model, folder, _ = make('vit', VIT)
  state = {
    k: x.half() if x.ndim > 1 else x for k, x in model.state_dict().items()
  }
  safetensors.torch.save_file(state, folder / 'open_clip_model.safetensors')
  config = {'model_cfg': VIT, 'preprocess_cfg': {'mean': [0.5] * 3}}
  (folder / 'open_clip_config.json').write_text(json.dumps(config, indent=2))


if __name__ == '__main__':
  main()
