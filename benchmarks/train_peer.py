"""A training step of transformers' GroupViT: what `train.py` compares with.

The model is theirs; their loss has captions only, so the released losses are
written here in PyTorch.
"""

import numpy as np
import torch
import transformers
from torch.nn import functional

VERSIONS = f'torch {torch.__version__}, transformers {transformers.__version__}'


class Peer:
  """transformers' model with random weights, its losses and optimizer."""

  def __init__(
    self, pixels: np.ndarray, tokens: np.ndarray, device: str, compiled: bool
  ):
    """Takes a batch: normalised b 3 h w, and ids b t l that end in the highest.

    Args:
      pixels, tokens: the batch.
      device: 'cpu' or 'cuda'.
      compiled: by torch.compile.
    """
    torch.manual_seed(0)
    config = transformers.GroupViTConfig()
    self._device = device
    self._model = transformers.GroupViTModel(config).to(device).train()
    decayed = [p for p in self._model.parameters() if p.ndim != 1]
    others = [p for p in self._model.parameters() if p.ndim == 1]
    self._optimizer = torch.optim.AdamW(
      [{'params': decayed}, {'params': others, 'weight_decay': 0.0}],
      lr=1e-4,
      weight_decay=0.05,
      fused=True,
    )
    self._pixels = torch.tensor(pixels, device=device)
    self._tokens = torch.tensor(tokens, dtype=torch.long, device=device)
    self._loss = torch.compile(self._losses) if compiled else self._losses

  def run(self) -> torch.Tensor:
    """One step; returns its loss."""
    with torch.autocast(self._device, torch.bfloat16):
      loss = self._loss(self._pixels, self._tokens)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self._model.parameters(), 5.0)
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    return loss

  def memory(self) -> int | None:
    """Most bytes that were allocated; None on a CPU."""
    if self._device == 'cpu':
      return None
    return torch.cuda.max_memory_allocated()

  def _losses(self, pixels, tokens):
    """Captions against images, and three nouns of each image (released)."""
    model = self._model
    image = model.get_image_features(pixel_values=pixels).pooler_output
    flat = tokens.flatten(0, 1)
    texts = model.get_text_features(input_ids=flat).pooler_output
    image = functional.normalize(image.float(), dim=-1)
    texts = functional.normalize(texts.float(), dim=-1)
    texts = texts.unflatten(0, tokens.shape[:2])
    scale = model.logit_scale.exp().clamp(max=100)
    own = torch.arange(len(image), device=image.device)
    logits = scale * image @ texts[:, 0].T
    loss = functional.cross_entropy(logits, own)
    loss = loss + functional.cross_entropy(logits.T, own)
    nouns = texts[:, 1:].flatten(0, 1)
    logits, count = scale * image @ nouns.T, tokens.shape[1] - 1
    target = functional.one_hot(own.repeat_interleave(count)).T.float() / count
    loss = loss + functional.cross_entropy(logits, target)
    loss = loss + functional.cross_entropy(
      logits.T, own.repeat_interleave(count)
    )
    return loss / 2
