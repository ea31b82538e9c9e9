"""Names: of benchmarks and protocols, and of the classes of each label set.

Class names stand in the order of their mask values: evaluation turns them into
prompts, readers label pixels by position.
"""

import pathlib

from groupvit_jax.evaluation import config
from groupvit_jax.scenes.layout import CLASS_NAMES, GROUNDS, THINGS

SEGMENTATION = (
  *('voc21', 'voc20', 'context60', 'context59', 'coco_object', 'coco_stuff'),
  *('ade20k', 'cityscapes', 'pet', 'scenes', 'scenes_things', 'folder'),
)
CAPTIONS = 'captions'
# Crops of single things of scenes, and scenes with their captions.
SCENE_CROPS, SCENE_CAPTIONS = 'scene_crops', 'scene_captions'
# Without a folder.
SYNTHETIC = ('scenes', 'scenes_things', SCENE_CROPS, SCENE_CAPTIONS)
# Retrieval by Karpathy's splits, with CLIP's prompt.
KARPATHY = ('flickr30k', 'coco_captions')
RETRIEVAL = (CAPTIONS, *KARPATHY, SCENE_CAPTIONS)
# The sets of CLIP's paper and the metric of each (arXiv 2103.00020, table 9;
# figure 13 for ImageNet's variants); `clip_sets` reads them.
IMAGENET_SHIFTS = (
  *('imagenet_v2', 'imagenet_r', 'imagenet_a', 'imagenet_sketch', 'objectnet'),
)
CLIP_METRICS = {
  **dict.fromkeys(
    (
      *('birdsnap', 'cifar10', 'cifar100', 'clevr_counts', 'country211', 'dtd'),
      *('eurosat', 'fer2013', 'food101', 'gtsrb', 'kitti', 'mnist', 'pcam'),
      *('resisc45', 'sst2', 'stanford_cars', 'stl10', 'sun397', 'ucf101'),
    ),
    'accuracy',
  ),
  **dict.fromkeys(
    ('caltech101', 'fgvc_aircraft', 'flowers102', 'oxford_pets'),
    'mean_per_class',
  ),
  'hateful_memes': 'roc_auc',
  'kinetics700': 'mean_top1_top5',
  'voc2007': 'map_11_point',
  **dict.fromkeys(IMAGENET_SHIFTS, 'accuracy'),
}
CLASSIFICATION = ('imagenet', 'classes', SCENE_CROPS, *CLIP_METRICS)
IMAGE_LEVEL = (*CLASSIFICATION, *RETRIEVAL)
BENCHMARK_NAMES = (*SEGMENTATION, *IMAGE_LEVEL)

PROTOCOLS = tuple(config.PROTOCOLS)

MODEL = 'model'  # the model's own groups
REGIONS = (MODEL, 'kmeans', 'pixels', 'mean_shift', 'spectral')
WITH_NUM_GROUPS = ('kmeans', 'spectral')  # of REGIONS
NUM_GROUPS = 8


def _split(text: str) -> tuple[str, ...]:
  return tuple(' '.join(name.split()) for name in text.split(','))


# Names are those of mmsegmentation, but for what the released GroupViT renames
# (NVlabs/GroupViT segmentation/datasets): diningtable, pottedplant, tvmonitor.
_VOC = _split("""
  aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog,
  horse, motorbike, person, plant, sheep, sofa, train, monitor
""")

# Renamed here: aeroplane, pottedplant, tvmonitor.
_CONTEXT = _split("""
  airplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle,
  building, bus, cabinet, car, cat, ceiling, chair, cloth, computer, cow, cup,
  curtain, dog, door, fence, floor, flower, food, grass, ground, horse,
  keyboard, light, motorbike, mountain, mouse, person, plate, platform, plant,
  road, rock, sheep, shelves, sidewalk, sign, sky, snow, sofa, table, track,
  train, tree, truck, monitor, wall, water, window, wood
""")

_COCO = _split("""
  person, bicycle, car, motorcycle, airplane, bus, train, truck, boat,
  traffic light, fire hydrant, stop sign, parking meter, bench, bird, cat, dog,
  horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
  handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite,
  baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
  wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
  broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant,
  bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone,
  microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
  teddy bear, hair drier, toothbrush
""")

_ADE20K = _split("""
  wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass,
  cabinet, sidewalk, person, earth, door, table, mountain, plant, curtain,
  chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
  armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
  base, box, column, signboard, chest of drawers, counter, sand, sink,
  skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case,
  pool table, pillow, screen door, stairway, river, bridge, bookcase, blind,
  coffee table, toilet, flower, book, hill, bench, countertop, stove, palm,
  kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus,
  towel, light, truck, tower, chandelier, awning, streetlight, booth,
  television receiver, airplane, dirt track, apparel, pole, land, bannister,
  escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain,
  conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel,
  basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank,
  trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen,
  blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan,
  pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass,
  clock, flag
""")

_CITYSCAPES = _split("""
  road, sidewalk, building, wall, fence, pole, traffic light, traffic sign,
  vegetation, terrain, sky, person, rider, car, truck, bus, train, motorcycle,
  bicycle
""")

# The 91 stuff classes, which follow the 80 objects (mmsegmentation
# mmseg/datasets/coco_stuff.py; the order of cocostuff/labels.md).
_STUFF = _split("""
  banner, blanket, branch, bridge, building-other, bush, cabinet, cage,
  cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds,
  counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble,
  floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other,
  fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves,
  light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper,
  pavement, pillow, plant-other, plastic, platform, playingfield, railing,
  railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other,
  skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
  tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete,
  wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other,
  waterdrops, window-blind, window-other, wood
""")


def _in_words(name: str) -> str:
  """A name of COCO-Stuff as one would say it: wall-brick is a brick wall."""
  kind, _, detail = name.partition('-')
  if detail in ('', 'other', 'stuff'):
    return kind
  return 'window blind' if detail == 'blind' else f'{detail} {kind}'


# Without the background: it has no prompt. voc20 and context59 are the
# benchmarks that leave it out of their labels as well.
LABEL_SETS: dict[str, tuple[str, ...]] = {
  'scenes': CLASS_NAMES,
  'scenes_things': THINGS,
  'scenes_grounds': GROUNDS,
  'voc': _VOC,
  'voc20': _VOC,
  'context': _CONTEXT,
  'context59': _CONTEXT,
  'coco': _COCO,
  'coco_stuff': (*_COCO, *map(_in_words, _STUFF)),
  'ade20k': _ADE20K,
  'cityscapes': _CITYSCAPES,
  'pet': ('cat', 'dog'),
}

# Sets whose mask value 0 is the background, the first name then being 1; in all
# others the first name is 0. The thresholds are the released ones.
BACKGROUND_THRESHOLDS = {
  'voc': config.RELEASED_THRESHOLDS['voc21'],
  'context': config.RELEASED_THRESHOLDS['context60'],
  'coco': config.RELEASED_THRESHOLDS['coco_object'],
}

# Benchmarks by the name of their label set, and whether their labels have a
# background (class 0).
BENCHMARK_SETS = {
  'voc21': ('voc', True),
  'voc20': ('voc20', False),
  'context60': ('context', True),
  'context59': ('context59', False),
  'coco_object': ('coco', True),
  'coco_stuff': ('coco_stuff', False),
  'ade20k': ('ade20k', False),
  'cityscapes': ('cityscapes', False),
  'pet': ('pet', True),
  'scenes': ('scenes', False),
  'scenes_things': ('scenes_things', True),
}

# What kakaobrain/tcl prompts instead: the names of mmsegmentation 0.27 as they
# are (its segmentation/datasets and segmentation/evaluation/builder.py), which
# the released GroupViT renames.
_UNIFIED = {
  'voc': {
    'table': 'diningtable',
    'plant': 'pottedplant',
    'monitor': 'tvmonitor',
  },
  'context': {
    'airplane': 'aeroplane',
    'plant': 'pottedplant',
    'monitor': 'tvmonitor',
  },
}
_UNIFIED |= {'voc20': _UNIFIED['voc'], 'context59': _UNIFIED['context']}


def class_names(benchmark: str, protocol: str = 'groupvit') -> tuple[str, ...]:
  """The classes of a benchmark as a protocol calls them.

  Args:
    benchmark: a key of `BENCHMARK_SETS`.
    protocol: 'groupvit' (with what the released code renames; for sets that it
      does not have, the usual names in words) or 'tcl' (mmsegmentation's names
      letter by letter).

  Returns:
    The names in label order, 'background' first where the labels have one.
  """
  label_set, background = BENCHMARK_SETS[benchmark]
  names = LABEL_SETS[label_set]
  if protocol == 'tcl':
    renamed = _UNIFIED.get(label_set, {})
    names = tuple(renamed.get(name, name) for name in names)
    if label_set == 'coco_stuff':
      names = (*_COCO, *_STUFF)
  return ('background', *names) if background else names


def read_names(path: pathlib.Path, *, by_line: bool = False) -> tuple[str, ...]:
  """Class names of a text file.

  Args:
    path: UTF-8, one name per line; a line may give synonyms, as in
      "person|man|woman". Empty lines and lines that begin with # do not count.
    by_line: the number of a line means something, so that there can be none
      that does not count, but for empty ones at the end.

  Returns:
    The names in their order.

  Raises:
    OSError: it cannot be read.
    ValueError: it is not text, has no name, or, by line, a line without one.
  """
  try:
    text = path.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path} is not UTF-8 text: give a file with one class name per line'
    ) from error
  lines = [' '.join(line.split()) for line in text.rstrip().splitlines()]
  names = tuple(line for line in lines if line and not line.startswith('#'))
  if not names:
    raise ValueError(f'{path} names no class: write one name per line')
  if by_line and len(names) < len(lines):
    number = next(i for i, line in enumerate(lines, 1) if line not in names)
    raise ValueError(
      f'{path}, line {number}, is empty or a comment, and a mask value counts '
      'every line; take it out, or name its class there'
    )
  return names
