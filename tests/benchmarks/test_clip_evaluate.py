"""CLIP's sets by name: prompts, metrics and readers together."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from groupvit_jax.benchmarks import build, clip_sets
from groupvit_jax.errors import ConfigError, SourceError

WIDTH = 50


def tokenizer(texts):
  """The class that a prompt is of: the stub's texts are one-hot."""
  return np.array([[1 + known(text), 1] for text in texts], np.int32)


def known(text):
  """Position of the longest name in the text, over the names of this test."""
  found = [(len(name), i) for i, name in enumerate(NAMES) if name in text]
  return max(found)[1]


NAMES: list[str] = []
FNS = {
  'image': lambda variables, images: one_hot(images[:, 0, 0, 0]),
  'text': lambda variables, tokens: one_hot(tokens[:, 0] - 1),
}
ENCODER = build.Encoder(tokenizer, (8, 8), 8, groups=False, clip=True)


def one_hot(places):
  return jnp.eye(WIDTH)[places.astype(jnp.int32)]


def write_image(path, predicted):
  """An image that the stub takes for a class."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((9, 12, 3), predicted, np.uint8)).save(path)


def measure(benchmark, folder, **options):
  NAMES[:] = clip_sets.find(benchmark).class_names
  spec = build.BenchmarkSpec(benchmark, folder, **options)
  runner = build.make(spec, ENCODER)
  return dict(runner.evaluator.run(FNS, {})), runner.settings


def test_mean_accuracy_per_class(tmp_path):
  write_image(tmp_path / 'Abyssinian' / 'a.png', 0)
  write_image(tmp_path / 'Abyssinian' / 'b.png', 1)
  write_image(tmp_path / 'Bengal' / 'a.png', 1)
  figures, settings = measure('oxford_pets', tmp_path)
  assert figures == {'mean_per_class': 0.75, 'images': 3}
  assert settings['templates'] == ['a photo of a {}, a type of pet.']
  assert settings['prompt_average'] == 'unit'


def test_accuracy_and_the_users_templates(tmp_path):
  for name, predicted in (('cat', 3), ('dog', 5), ('frog', 5)):
    write_image(tmp_path / name / 'a.png', predicted)
  figures, settings = measure(
    'cifar10', tmp_path, overrides={'templates': 'simple'}
  )
  assert figures['top1'] == pytest.approx(2 / 3) and figures['top5'] <= 1
  assert settings['templates'] == ['a photo of a {}.']


def test_roc_auc_of_a_list(tmp_path):
  lines = []
  for i, (label, predicted) in enumerate(((1, 1), (1, 0), (0, 0), (0, 0))):
    write_image(tmp_path / f'{i}.png', predicted)
    lines.append(json.dumps({'image': f'{i}.png', 'label': label}))
  (tmp_path / 'labels.jsonl').write_text('\n'.join(lines))
  figures, _ = measure('hateful_memes', tmp_path)
  assert figures['roc_auc'] == pytest.approx(0.75)


def test_11_point_precision_of_voc(tmp_path):
  main = tmp_path / 'ImageSets' / 'Main'
  main.mkdir(parents=True)
  names = clip_sets.find('voc2007').class_names
  for i, name in enumerate(names):
    text = ''.join(f'{j:06d} {1 if j == i else -1}\n' for j in range(20))
    (main / f'{name}_test.txt').write_text(text)
  for i in range(20):
    write_image(tmp_path / 'JPEGImages' / f'{i:06d}.jpg', i)
  figures, _ = measure('voc2007', tmp_path)
  assert figures == {'map_11_point': 1.0, 'images': 20}


def test_synonyms_count_as_their_class(tmp_path):
  write_image(tmp_path / 'happy' / 'a.png', 3)
  found = clip_sets.open_set('fer2013', tmp_path, order='names')
  assert found.class_names[found[0].label] == 'happy|smiling'


def test_karpathys_splits_and_clips_prompt(tmp_path):
  with pytest.raises(SourceError, match='dataset_flickr30k.json'):
    measure_captions(tmp_path)
  images = [
    {'split': 'test', 'filename': '1.png', 'sentences': [{'raw': 'a cat'}]},
    {'split': 'test', 'filename': '2.png', 'sentences': [{'raw': 'a dog'}]},
    {'split': 'train', 'filename': '3.png', 'sentences': [{'raw': 'a fox'}]},
  ]
  path = tmp_path / 'dataset_flickr30k.json'
  path.write_text(json.dumps({'images': images}))
  for i in (1, 2):
    write_image(tmp_path / 'images' / f'{i}.png', i - 1)
  figures, texts = measure_captions(tmp_path)
  assert texts == ['a photo of a cat', 'a photo of a dog']
  assert figures['image_to_text_r1'] == figures['text_to_image_r1'] == 1
  assert figures['captions'] == 2


def measure_captions(folder):
  """Figures of Flickr30k, and the texts that were encoded."""
  NAMES[:] = ['cat', 'dog']
  texts = []

  def recording(prompts):
    texts.extend(prompts)
    return tokenizer(prompts)

  encoder = build.Encoder(recording, (8, 8), 8, groups=False, clip=True)
  runner = build.make(build.BenchmarkSpec('flickr30k', folder), encoder)
  return dict(runner.evaluator.run(FNS, {})), texts


def test_options_of_readers_are_checked(tmp_path):
  write_image(tmp_path / 'cat' / 'a.png', 0)
  with pytest.raises(ConfigError, match="cifar10 has no option 'size'"):
    measure('cifar10', tmp_path, options={'size': 3})
  with pytest.raises(ConfigError, match='scene_captions has no option'):
    spec = build.BenchmarkSpec('scene_captions', options={'sides': 3})
    build.make(spec, ENCODER)
