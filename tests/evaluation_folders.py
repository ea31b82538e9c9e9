"""A tiny model and tiny data on disk, for tests of `groupvit evaluate`."""

import json
import pathlib

import numpy as np
from PIL import Image

from groupvit_jax.convert import folder as model_folder
from tests.fixtures import tiny_inference

CLASSES = ('background', 'dog|puppy', 'grass', 'sky', 'sea')
WORDS = ('cat', 'dog', 'sea')


def picture(path: pathlib.Path, seed: int, size=(20, 26)) -> None:
  """Coarse colours with grain."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (3, 4, 3), np.uint8)
  image = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.NEAREST)
  grain = rng.integers(-20, 20, (*size, 1))
  pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


def segmented(root: pathlib.Path, count: int = 5) -> pathlib.Path:
  """images/, masks/ and classes.txt; pictures of two sizes."""
  rng = np.random.default_rng(0)
  for i in range(count):
    size = (20, 26) if i % 2 else (24, 18)
    picture(root / 'images' / f'{i}.png', i, size)
    mask = rng.integers(0, len(CLASSES), (4, 4)).astype(np.uint8)
    mask = np.kron(mask, np.ones((7, 7), np.uint8))[: size[0], : size[1]]
    mask[:2] = 255
    (root / 'masks').mkdir(exist_ok=True)
    Image.fromarray(mask).save(root / 'masks' / f'{i}.png')
  (root / 'classes.txt').write_text('\n'.join(CLASSES) + '\n')
  return root


def classified(root: pathlib.Path, names=WORDS) -> pathlib.Path:
  """A folder for each class, two pictures in it."""
  for i, name in enumerate(names):
    for j in range(2):
      picture(root / name / f'{j}.png', 10 * i + j)
  return root


def captioned(root: pathlib.Path, count: int = 4) -> pathlib.Path:
  """captions.jsonl and its pictures; as many captions as the number is odd."""
  lines = []
  for i in range(count):
    picture(root / 'images' / f'{i}.png', i)
    captions = [f'a {WORDS[i % 3]} number {i}', f'picture {i}'][: 1 + i % 2]
    lines.append({'image': f'images/{i}.png', 'captions': captions})
  text = '\n'.join(map(json.dumps, lines))
  (root / 'captions.jsonl').write_text(text + '\n')
  return root


def model(folder: pathlib.Path, source=None) -> pathlib.Path:
  """A model folder of the tiny trained model."""
  source = source or tiny_inference.source()
  model_folder.write(folder, model_folder.Converted(**vars(source)))
  return folder


def pictures(folder: pathlib.Path) -> list[np.ndarray]:
  """The pixels of all pictures in a folder, by name."""
  return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
