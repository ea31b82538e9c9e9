"""The rows of background.py: what each changes in an evaluation."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import background_token
import numpy as np
from PIL import Image

from groupvit_jax import benchmarks, scenes
from groupvit_jax.benchmarks import build, label_sets
from groupvit_jax.evaluation import calibration, regions, zero_shot
from groupvit_jax.evaluation.config import LOWEST
from groupvit_jax.text import prompts

ABSENT = object()
DATA = ('scenes', 'scenes_things', 'voc21', 'voc20', 'coco_object')
WITH_BACKGROUND = ('scenes_things', 'voc21', 'coco_object')
_FOLDERS = {'voc21': 'voc2012', 'voc20': 'voc2012', 'coco_object': 'coco_seg'}
SIDE = 64  # of scenes, as in :demo
# Stuff, in words of our own; none of them is a class of VOC.
STUFF = (
  'background|sky|wall|floor|ceiling|ground|grass|field|road|pavement|sand|snow'
  '|water|sea|mountain|hill|rock|tree|forest|bush|building|house|fence|window'
  '|curtain|shelf|carpet'
)


def folder(data: str, photos: pathlib.Path | None):
  """Where a benchmark's data lie: None for scenes, ABSENT if they are not."""
  if data.startswith('scenes'):
    return None
  path = None if photos is None else photos / _FOLDERS[data]
  return path if path is not None and path.is_dir() else ABSENT


class Subject:
  """A model and what its rows are measured on.

  Attributes:
    model: from `gv.load`.
    learned: whether it has learned a background.
  """

  def __init__(self, model, data: str, args):
    """Opens nothing yet; `args` are those of background.py."""
    self.model, self.data, self._args = model, data, args
    self.learned = bool(model.architecture.get('learned_background'))
    self.folder = folder(data, args.photos)
    label_set = label_sets.class_names(data)
    self.objects = tuple(label_set[int(data in WITH_BACKGROUND) :])

  def spec(self, **changes) -> build.BenchmarkSpec:
    """The evaluation that rows change: whole images, no gate on scenes."""
    # Of the learned groups, whatever the model is evaluated with.
    own = {'regroup': 'none', 'one_hot': True, 'mix_logits': False}
    if not self.folder:
      own |= {'top_k': None, 'mode': 'whole'}
    options = {}
    if self.folder is None:
      options = {
        'count': self._args.limit,
        'size': SIDE,
        'seed': self._args.data_seed,
      }
    overrides = {**build.at_size(self.side), **own}
    overrides |= changes.pop('overrides', {})
    return build.BenchmarkSpec(
      benchmark=self.data,
      folder=self.folder,
      limit=None if self.folder is None else self._args.limit,
      overrides=overrides,
      options=options,
      **changes,
    )

  @property
  def side(self) -> int:
    """Shorter side of the images, the one that the model was trained on."""
    return self.model.short_side

  @functools.cached_property
  def calibration(self) -> tuple[list[np.ndarray], Sequence]:
    """Images in batches, and their captions; no mask is ever looked at."""
    count = self._args.calibration
    if self.folder is None:
      drawn = scenes.generate_many(
        'train',
        count,
        SIDE,
        self._args.data_seed,
        masks=False,
        progress=False,
      )
      images, captions = drawn.images, [c[0] for c in drawn.captions]
    else:
      # Neither VOC's nor those of coco_object, which are of val2017 and
      # captioned: Flickr's, of the split that photos.py does not train on.
      images, captions = _photos(self._args.photos / 'flickr8k_224', count)
      images = np.stack([_square(p, self.side) for p in images])
    return [images[i : i + 50] for i in range(0, len(images), 50)], captions

  @functools.cached_property
  def fitted_fns(self):
    """The model's functions, with a background learned afterwards."""
    token = background_token.fit(self.model, *self.calibration)
    return background_token.with_token(self.model.predict_fns, token)

  @functools.cached_property
  def cosines(self) -> np.ndarray:
    """Every object class's best cosine in each calibration image."""
    tokens = zero_shot.tokenize_classes(
      self.model.tokenizer, self.objects, prompts.SIMPLE
    )
    fns, variables = self.model.predict_fns, self.model.variables
    text = zero_shot.embed_tokens(fns['text'], variables, tokens)
    encode = functools.partial(regions.encode_batch, fns['regions'], variables)
    return np.concatenate(
      [
        np.asarray(calibration.best_cosines(encode(images), text))
        for images in self.calibration[0]
      ]
    )

  def thresholds(self, each: bool) -> tuple[float, ...]:
    """Of each class, or one for all."""
    named = calibration.mentions(self.calibration[1], self.objects)
    if each:
      return calibration.from_captions(self.cosines, named)
    prior = float('inf')
    return calibration.from_captions(self.cosines, named, prior=prior)[:1]


@dataclasses.dataclass(frozen=True)
class Row:
  """One change.

  Attributes:
    what: in words.
    spec: from a subject.
    background_only: only for sets with a background.
    learned: only for models that have learned one.
    fitted: with one that is learned afterwards, on the calibration images.
  """

  what: str
  spec: Callable[[Subject], build.BenchmarkSpec]
  background_only: bool = True
  learned: bool = False
  fitted: bool = False


def _learned(**others):
  return _plain(background_threshold=LOWEST, learned_background=True, **others)


def _plain(**overrides):
  return lambda subject: subject.spec(overrides=overrides)


def _calibrated(*, each: bool, **others):
  def spec(subject):
    overrides = {
      'background_threshold': LOWEST,
      'class_thresholds': subject.thresholds(each),
      'threshold_cosines': True,
      **others,
    }
    return subject.spec(overrides=overrides)

  return spec


def _words(words: Callable[[Subject], str]):
  def spec(subject):
    overrides = {'background_threshold': None, 'background_prompts': True}
    names = (words(subject), *subject.objects)
    return subject.spec(overrides=overrides, class_names=names)

  return spec


def _stuff(subject: Subject) -> str:
  if subject.folder is not None:
    return STUFF
  return '|'.join(('background', *label_sets.LABEL_SETS['scenes_grounds']))


ROWS = {
  'released': Row('the protocol as it is', _plain(), background_only=False),
  'threshold_.5': Row('one threshold of .5', _plain(background_threshold=0.5)),
  'threshold_.98': Row('one of .98', _plain(background_threshold=0.98)),
  'cosine_one': Row(
    'one cosine threshold, from captions', _calibrated(each=False)
  ),
  'cosine_captions': Row(
    'a cosine threshold per class, from captions', _calibrated(each=True)
  ),
  'word': Row('prompted by "background"', _words(lambda _: 'background')),
  'stuff_words': Row('prompted by words of stuff', _words(_stuff)),
  'learned': Row('the learned background', _learned(), learned=True),
  'learned_after': Row(
    'one learned afterwards, the model as it is', _learned(), fitted=True
  ),
  'soft_maps': Row(
    'groups mixed by their soft maps',
    _plain(one_hot=False),
    background_only=False,
  ),
  'pamr': Row('PAMR', _plain(refine='pamr'), background_only=False),
  'pamr_cosine': Row(
    'PAMR, and a cosine threshold per class',
    _calibrated(each=True, refine='pamr'),
  ),
  'pamr_learned': Row(
    'PAMR, and the learned background', _learned(refine='pamr'), learned=True
  ),
  'pamr_learned_after': Row(
    'PAMR, and one learned afterwards', _learned(refine='pamr'), fitted=True
  ),
}


def _photos(path: pathlib.Path, count: int):
  """At most so many images, with several captions each."""
  found = benchmarks.open_captions(path, 'val')
  chosen = range(min(count, len(found)))
  return [found[i].image for i in chosen], [found.captions(i) for i in chosen]


def _square(image: np.ndarray, side: int) -> np.ndarray:
  return np.asarray(Image.fromarray(image).resize((side, side)))
