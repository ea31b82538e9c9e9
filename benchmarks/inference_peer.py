"""Segmentation by transformers' GroupViT: what `inference.py` compares with.

The model call is theirs. They have no released post-processing (no softmaxes,
gate, threshold or one-hot groups), so it is written here in PyTorch.
"""

import functools
import os
import pathlib
from collections.abc import Sequence
from concurrent import futures

import numpy as np
import torch
import transformers
from PIL import Image
from torch.nn import functional

from groupvit_jax.data import on_device

try:
  import cv2  # what the released code resizes with
except ImportError:
  cv2 = None
RESIZER = f'cv2 {cv2.__version__}' if cv2 else 'torch (cv2 is not installed)'

# CLIP's logit scale is clamped here, and assignments are as sure as trained
# ones: one group's share of a token is .7 to .8 in the mean.
LOGIT_SCALE = float(np.log(100))
SHARPNESS = 4
LINEAR = 'bilinear'


class Peer:
  """transformers' model for one input size, and what follows it.

  Attributes:
    model: `GroupViTModel`, in eval mode.
    size: side in pixels of what it sees.
    device: 'cpu' or 'cuda'.
  """

  def __init__(self, folder, size: int, dtype: str, device: str, threshold):
    """Loads a Hugging Face folder.

    Args:
      folder: of a model for 224 pixels.
      size: theirs takes only the size of its config, so positions are resized
        as the original's are (bicubically).
      dtype: 'float32' or 'bfloat16': weights and computation.
      device: 'cpu' or 'cuda'.
      threshold: of the background.
    """
    model = transformers.GroupViTModel.from_pretrained(folder)
    if size != model.config.vision_config.image_size:
      model = at_size(model, size)
    self.model = model.eval().to(device, getattr(torch, dtype))
    self.size = size
    self.device = device
    self._threshold = threshold
    self._pool = futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    self._mean = self._channels(on_device.MEAN)
    self._std = self._channels(on_device.STD)

  def _channels(self, values):
    return torch.tensor(values, device=self.device).view(3, 1, 1) * 255

  @torch.inference_mode()
  def encode_text(self, tokens: np.ndarray) -> torch.Tensor:
    """Unit vectors of token rows."""
    ids = torch.as_tensor(tokens, dtype=torch.long, device=self.device)
    found = self.model.get_text_features(input_ids=ids).pooler_output
    return functional.normalize(found.float(), dim=-1)

  def files(self, paths: Sequence[pathlib.Path]):
    """Files to (sides, scaled pixels [b, 3, h, w] in 0..255); in threads."""
    found = list(self._pool.map(self._file, paths))
    return [sides for sides, _ in found], torch.stack([x for _, x in found])

  @torch.inference_mode()
  def _file(self, path):
    pixels = np.array(Image.open(path).convert('RGB'))
    size = (self.size, self.size)  # images are square here
    if cv2:
      scaled = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
      return pixels.shape[:2], torch.from_numpy(scaled).permute(2, 0, 1)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    # The kernel for bytes; 0.3 to 0.2 of the time of that for floats.
    return pixels.shape[:2], functional.interpolate(image, size, mode=LINEAR)[0]

  @torch.inference_mode()
  def network(self, scaled: torch.Tensor) -> dict[str, torch.Tensor]:
    """Unit embeddings of images and groups, and the soft maps of stages."""
    pixels = (scaled.to(self.device) - self._mean) / self._std
    out = self.model.get_image_features(
      pixel_values=pixels.to(self.model.dtype), output_attentions=True
    )
    groups = out.last_hidden_state
    found = self.model.visual_projection(groups.flatten(0, 1))
    return {
      'image': functional.normalize(out.pooler_output.float(), dim=-1),
      'embeddings': functional.normalize(
        found.view(*groups.shape[:2], -1).float(), dim=-1
      ),
      'stages': out.attentions,
    }

  @torch.inference_mode()
  def scores(self, out, text: torch.Tensor) -> torch.Tensor:
    """Score of each class for each group: two softmaxes, one of them gated."""
    scale = self.model.logit_scale.float().exp().clamp(max=100)
    logits = out['embeddings'] @ text.T * scale
    best = (out['image'] @ text.T).topk(min(5, len(text))).indices
    gated = torch.full_like(out['image'] @ text.T, -torch.inf)
    gated = gated.scatter(1, best, 0.0)[:, None] + logits
    return logits.softmax(-1) * gated.softmax(-1)

  @torch.inference_mode()
  def decide(self, out, text: torch.Tensor, sides) -> np.ndarray:
    """Labels at the images' own sizes, from the outputs of the network."""
    scores = self.scores(out, text)
    # Soft maps are [b, groups, tokens]; the second stage's tokens are groups.
    first, *others = out['stages']
    maps = functools.reduce(lambda x, y: y @ x, others, first).float()
    grid = round(maps.shape[-1] ** 0.5)
    maps = functional.interpolate(
      maps.unflatten(-1, (grid, grid)), (self.size, self.size), mode=LINEAR
    )
    groups = functional.one_hot(maps.argmax(1), maps.shape[1]).float()
    pixels = torch.einsum('bhwg,bgc->bhwc', groups, scores)
    limit = scores.amax((1, 2)).clamp(max=self._threshold)[:, None, None]
    background = (pixels.amax(-1) < limit).float()
    pixels = torch.cat([background[..., None], pixels], -1)
    pixels = pixels.permute(0, 3, 1, 2)
    # All at once and channels last, the fastest of six ways tried: images
    # are of one size here. The released code's softmax before the argmax is
    # left out, as it changes nothing.
    pixels = functional.interpolate(pixels, tuple(sides[0]), mode=LINEAR)
    return pixels.argmax(1).int().cpu().numpy()

  def segment(self, paths, text: torch.Tensor) -> np.ndarray:
    """Files to labels."""
    sides, scaled = self.files(paths)
    return self.decide(self.network(scaled), text, sides)


def at_size(model, size: int):
  """The same model for square images of another size."""
  config = model.config.__class__.from_dict(model.config.to_dict())
  config.vision_config.image_size = size
  state = model.state_dict()
  name = 'vision_model.embeddings.position_embeddings'
  grid = round(state[name].shape[1] ** 0.5)
  positions = state[name].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
  count = size // config.vision_config.patch_size
  positions = functional.interpolate(positions, (count, count), mode='bicubic')
  state[name] = positions.flatten(2).transpose(1, 2)
  other = transformers.GroupViTModel(config)
  other.load_state_dict(state)
  return other


def write_random(
  folder: pathlib.Path, images: np.ndarray, tokens: np.ndarray, seed: int = 0
) -> None:
  """A full-size GroupViT-S with random weights, as a Hugging Face folder.

  Strong weights, and no parameter or statistic at a constant. The embeddings of
  groups and of texts are centred on examples, so that groups get different
  classes as they do in a trained model, some of them above the threshold.

  Args:
    folder: to write.
    images: examples, uint8 [b, 224, 224, 3].
    tokens: examples, rows of ids.
    seed: of the weights.
  """
  model = transformers.GroupViTModel(transformers.GroupViTConfig())
  generator = torch.Generator().manual_seed(seed)

  def noise(x):
    return torch.randn(x.shape, generator=generator)

  with torch.no_grad():
    for name, p in model.named_parameters():
      if p.ndim > 1 and 'position' not in name and 'group_token' not in name:
        p.copy_(noise(p) * p[0].numel() ** -0.5)
      else:
        p.add_(0.1 * noise(p))
      if name.endswith(('.assign.q_proj.weight', '.assign.k_proj.weight')):
        p.mul_(SHARPNESS)
    model.logit_scale.fill_(LOGIT_SCALE)
    for name, b in model.named_buffers():
      if name.endswith(('running_mean', 'running_var')):
        b.add_(0.2 * noise(b).abs())
    model.eval()
    pixels = torch.from_numpy(images / 255 - 0.45).float() / 0.225
    found = model.vision_model(pixels.permute(0, 3, 1, 2)).last_hidden_state
    found = model.visual_projection(found.flatten(0, 1))
    model.visual_projection[-1].bias.sub_(found.mean(0))
    texts = model.get_text_features(torch.as_tensor(tokens, dtype=torch.long))
    model.text_projection[-1].bias.sub_(texts.pooler_output.mean(0))
  model.save_pretrained(folder)
