"""Models of transformers with random weights, for tests that compare."""

import pytest

torch = pytest.importorskip('torch', reason="needs the 'torch' extra")


def randomise(model, strength=1.0, sharpness=1.0, seed=0):
  """Gives a model weights that a mistake would show in; returns it.

  Args:
    model: whose parameters and statistics are changed: none stays constant.
    strength: of the matrices; 1 keeps the size of what they are applied to.
    sharpness: factor on queries and keys of the assignment.
    seed: of the weights.
  """
  generator = torch.Generator().manual_seed(seed)

  def noise(x):
    return torch.randn(x.shape, generator=generator)

  with torch.no_grad():
    for name, p in model.named_parameters():
      if p.ndim > 1 and 'position' not in name and 'group_token' not in name:
        p.copy_(noise(p) * strength * p[0].numel() ** -0.5)
      else:
        p.add_(0.1 * noise(p))
      if 'assign.q_proj.weight' in name or 'assign.k_proj.weight' in name:
        p.mul_(sharpness)
    for name, b in model.named_buffers():
      if name.endswith(('running_mean', 'running_var')):
        b.add_(0.2 * noise(b).abs())
  return model.eval()
