"""The full-size GroupViT against transformers' with the same random weights.

Opt-in, with the released weights: GROUPVIT_WEIGHTS names a folder with any of
group_vit_gcc_yfcc_30e-879422e0.pth, group_vit_gcc_redcap_30e-3dd09a76.pth, and
000000039769.jpg of COCO (two cats).
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from groupvit_jax import convert
from groupvit_jax.convert import load, tensors
from groupvit_jax.models import build, grouping
from groupvit_jax.text import make_tokenizer

torch = pytest.importorskip('torch', reason="needs the 'torch' extra")
transformers = pytest.importorskip(
  'transformers', reason="needs the 'torch' extra"
)

pytestmark = pytest.mark.slow
WEIGHTS = os.environ.get('GROUPVIT_WEIGHTS')
TEXTS = (
  'a photo of a cat',
  'a small dog that sleeps on a red sofa',
  'grass',
  'two people riding bicycles along the coast in the evening',
  'sky',
  'an old wooden boat, painted blue',
  'pizza with mushrooms',
  'the tower',
)


@pytest.fixture(scope='module')
def theirs(torch_models):
  torch.manual_seed(3)  # of what `randomise` only adds to
  model = transformers.GroupViTModel(transformers.GroupViTConfig())
  return torch_models.randomise(model, strength=0.5, sharpness=4)


@pytest.fixture(scope='module')
def converted(theirs, tmp_path_factory):
  folder = tmp_path_factory.mktemp('hf') / 'groupvit'
  theirs.save_pretrained(folder)
  return convert.load_source(folder)


def make_inputs(pixels):
  texts = TEXTS[: len(pixels)]
  ids = torch.from_numpy(make_tokenizer('clip')(texts)).long()
  return {'pixel_values': pixels, 'input_ids': ids}


@pytest.fixture(scope='module')
def inputs():
  generator = torch.Generator().manual_seed(1)
  return make_inputs(torch.randn((3, 3, 224, 224), generator=generator))


@pytest.fixture(scope='module')
def unlike_inputs():
  """Eight images of large shapes, each with a colour of its own.

  Batch norm divides by what the images of a batch differ in. Of three
  images of noise, torch's own float32 gradients are 1e-3 from its float64
  ones; of these, 5e-5.
  """
  generator = torch.Generator().manual_seed(1)

  def noise(side):
    return torch.randn((8, 3, side, side), generator=generator)

  shapes = torch.nn.functional.interpolate(3 * noise(4), 224, mode='bilinear')
  return make_inputs(shapes + 0.3 * noise(224) + 2 * noise(1))


def ours_of(inputs):
  images = jnp.asarray(inputs['pixel_values'].numpy().transpose(0, 2, 3, 1))
  return images, jnp.asarray(inputs['input_ids'].numpy(), jnp.int32)


def assert_near(ours, theirs, atol=2e-5):
  theirs = theirs.detach().numpy() if torch.is_tensor(theirs) else theirs
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def require_clear_winners(soft):
  """A near tie may flip between libraries, and proves nothing."""
  first, second = soft.topk(2, dim=1).values.unbind(1)
  assert (first - second).min() > 1e-5, 'choose another seed'


def test_the_released_architecture_is_found(converted):
  image = converted.architecture['image']
  assert image['depths'] == [6, 3, 3]
  assert image['num_group_tokens'] == [64, 8, 0]
  count = sum(
    x.size for x in tensors.flatten(converted.variables['params']).values()
  )
  assert count == 55_726_609  # docs of the original, without a second scale
  assert converted.tokenizer == 'clip'
  assert converted.preprocessing['short_side'] == 448


def test_outputs(theirs, converted, inputs):
  with torch.no_grad():
    out = theirs(**inputs, output_hidden_states=True, output_attentions=True)
  vision = out.vision_model_output
  for soft in vision.attentions:
    require_clear_winners(soft)
  model = build.build(converted.architecture)
  images, tokens = ours_of(inputs)

  @jax.jit
  def run(variables):
    def apply(method, *args):
      return model.apply(variables, *args, method=method)

    return (
      apply('__call__', images, tokens[:, None]),
      apply(lambda module: module.image(images, train=False)),
      apply(lambda module: module.text(tokens)),
    )

  result, (pooled, hidden), texts = run(converted.variables)
  assert_near(result['image'], out.image_embeds)
  assert_near(result['texts'][:, 0], out.text_embeds)
  logits = result['logit_scale'] * result['image'] @ result['texts'][:, 0].T
  assert_near(logits, out.logits_per_image)
  assert len(result['assignments']) == len(vision.attentions) == 2
  for soft, wanted in zip(
    result['assignments'], vision.attentions, strict=True
  ):
    assert_near(soft, wanted)
  for ours, wanted in zip(
    hidden['hidden'], vision.hidden_states[1:], strict=True
  ):
    assert_near(ours, wanted)
  assert_near(pooled, vision.pooler_output)
  assert_near(texts, out.text_model_output.pooler_output)


def test_train_loss_and_gradients(
  theirs, converted, unlike_inputs, monkeypatch
):
  inputs = unlike_inputs
  noises = record_noise(monkeypatch)
  theirs.train()
  out = theirs(**inputs, return_loss=True, output_attentions=True)
  out.loss.backward()
  theirs.eval()
  for soft, noise in zip(
    out.vision_model_output.attentions, noises, strict=True
  ):
    require_clear_winners((soft.detach().log() + noise).softmax(1))
  replayed = iter([jnp.asarray(noise.numpy()) for noise in noises])
  monkeypatch.setattr(
    grouping, 'gumbel_noise', lambda rng, shape: next(replayed)
  )
  loss, grads = loss_and_gradients(converted, *ours_of(inputs))
  assert next(replayed, None) is None
  np.testing.assert_allclose(loss, out.loss.item(), rtol=1e-4)
  wanted = load.HF_GROUPVIT.to_flax(
    {name: p.grad.numpy() for name, p in theirs.named_parameters()}
  )
  compare_gradients(tensors.flatten({'params': grads}), wanted)


def record_noise(monkeypatch):
  """What torch draws from here on, in order."""
  kind = torch.distributions.gumbel.Gumbel
  sample, noises = kind.sample, []

  def record(self, shape):
    noises.append(sample(self, shape))
    return noises[-1]

  monkeypatch.setattr(kind, 'sample', record)
  torch.manual_seed(2)
  return noises


def loss_and_gradients(converted, images, tokens):
  """The plain symmetric loss of CLIP, which their port computes."""
  model = build.build(converted.architecture)
  stats = {'batch_stats': converted.variables['batch_stats']}

  def loss_fn(params):
    out, _ = model.apply(
      stats | {'params': params},
      images,
      tokens[:, None],
      train=True,
      rngs={'gumbel': jax.random.key(0)},
      mutable=['batch_stats'],
    )
    logits = out['logit_scale'] * out['image'] @ out['texts'][:, 0].T
    diagonal = jnp.diag(jax.nn.log_softmax(logits, 0))
    diagonal += jnp.diag(jax.nn.log_softmax(logits, 1))
    return -diagonal.mean() / 2

  return jax.jit(jax.value_and_grad(loss_fn))(converted.variables['params'])


def compare_gradients(ours, theirs):
  """Within 1e-4 of the largest gradient of each parameter."""
  assert ours.keys() == theirs.keys()
  largest = max(np.abs(g).max() for g in theirs.values())
  wrong = []
  for path, wanted in theirs.items():
    size = np.abs(wanted).max()
    bound, rounding = 1e-4 * size, 5e-6 * largest
    if path.endswith('bias') and size < rounding:
      # A bias that the next norm removes: its gradient is 0 in theory, and
      # either side holds but rounding.
      bound = rounding
    worst = np.abs(ours[path] - wanted).max()
    if not worst <= bound:
      wrong.append(f'{path}: off by {worst:.2e} of {size:.2e}')
  assert not wrong, wrong


@pytest.mark.parametrize(
  ('name', 'published'),
  [
    ('group_vit_gcc_yfcc_30e-879422e0.pth', (13.3523, 6.3629)),
    ('group_vit_gcc_redcap_30e-3dd09a76.pth', (16.1873, 8.6230)),
  ],
)
def test_published_logits_of_the_two_cats(name, published):
  """transformers, convert_groupvit_nvlab_to_hf.py; CLIP's preprocessing."""
  if not WEIGHTS or not (pathlib.Path(WEIGHTS) / name).exists():
    pytest.skip(f'set GROUPVIT_WEIGHTS to a folder with {name}')
  folder = pathlib.Path(WEIGHTS)
  converted = convert.load_source(folder / name)
  image = Image.open(folder / '000000039769.jpg').convert('RGB')
  scale = 224 / min(image.size)
  size = [round(side * scale) for side in image.size]
  image = image.resize(size, Image.Resampling.BICUBIC)
  left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
  image = image.crop((left, top, left + 224, top + 224))
  # The published logits were made with CLIP's mean and deviation.
  mean, std = (np.array(load.CLIP[k], np.float32) for k in ('mean', 'std'))
  images = (np.asarray(image, np.float32) / 255 - mean) / std
  texts = ['a photo of a cat', 'a photo of a dog']
  tokens = make_tokenizer('clip')(texts)
  model = build.build(converted.architecture)
  variables = converted.variables

  def apply(method, *args):
    return model.apply(variables, *args, method=method)

  image = apply('encode_image', jnp.asarray(images[None]))
  cosines = image @ apply('encode_text', jnp.asarray(tokens)).T
  assert_near(cosines[0] * apply('logit_scale'), np.array(published), 1e-3)
