"""Makes the golden of tests/models/test_resnet.py.

Runs open_clip's modified ResNet, which needs torch and open_clip_torch (not
dependencies of the tests): python tests/testdata/make_resnet_golden.py
Made with open_clip_torch 3.3.0 and torch 2.13.0 on a CPU, float32.

clip_resnet.npz holds, for a tiny network with random weights and random
batch-norm statistics:
  sd/*: state dict.  images: b h w 3.
  out/*: the four stages' features, pooled; in eval mode and (train_*) in train
  mode.  grad/*: of the sum of squares of `train_pooled`.  new/*: statistics
  after one training step.
"""

import importlib.util
import pathlib
import sys
import types

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent
STAGES = 'layer1', 'layer2', 'layer3', 'layer4'


def modified_resnet() -> type[torch.nn.Module]:
  """The class out of its file; the package would import torchvision."""
  package = importlib.util.find_spec('open_clip')
  path = pathlib.Path(package.origin).with_name('modified_resnet.py')
  stub = types.ModuleType('open_clip.utils')
  stub.freeze_batch_norm_2d = stub.feature_take_indices = None
  parent = types.ModuleType('open_clip')
  parent.__path__ = []
  sys.modules.update({'open_clip': parent, 'open_clip.utils': stub})
  spec = importlib.util.spec_from_file_location(
    'open_clip.modified_resnet', path
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.ModifiedResNet


def run(model, images):
  """Features of the stages and the pooled output, channels last."""
  out, hooks = {}, []
  for name in STAGES:
    hooks.append(
      getattr(model, name).register_forward_hook(
        lambda _, __, y, name=name: out.update({name: y.permute(0, 2, 3, 1)})
      )
    )
  out['pooled'] = model(images)
  for hook in hooks:
    hook.remove()
  return out


def main():
  """Writes the golden."""
  torch.manual_seed(0)
  model = modified_resnet()((1, 2, 1, 1), 6, 2, image_size=64, width=2)
  for name, x in model.state_dict().items():
    if x.dtype == torch.float32 and x.ndim < 2:
      positive = name.endswith(('running_var', 'weight'))
      x.copy_(torch.rand_like(x) + 0.5 if positive else torch.randn_like(x) / 3)
  images = torch.randn(4, 3, 64, 64)
  arrays = {'images': images.permute(0, 2, 3, 1)}
  arrays |= {f'sd/{k}': v.clone() for k, v in model.state_dict().items()}
  with torch.no_grad():
    out = run(model.eval(), images)
  arrays |= {f'out/{k}': v for k, v in out.items()}
  out = run(model.train(), images)
  arrays |= {f'out/train_{k}': v for k, v in out.items()}
  out['pooled'].square().sum().backward()
  arrays |= {f'grad/{k}': v.grad for k, v in model.named_parameters()}
  arrays |= {f'new/{k}': v for k, v in model.named_buffers()}
  arrays = {k: v.detach().numpy() for k, v in arrays.items()}
  np.savez_compressed(FOLDER / 'clip_resnet.npz', **arrays)


if __name__ == '__main__':
  main()
