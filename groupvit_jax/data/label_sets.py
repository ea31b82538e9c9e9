"""Class names by label set, in the order of their mask values.

Evaluation turns these names into prompts; readers label pixels by position.
"""

import pathlib

from groupvit_jax.data.scenes.names import CLASS_NAMES, GROUNDS, THINGS


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

# Without the background: it has no prompt. voc20 and context59 are the
# benchmarks that leave it out of the truth as well.
LABEL_SETS: dict[str, tuple[str, ...]] = {
  'scenes': CLASS_NAMES,
  'scenes_things': THINGS,
  'scenes_grounds': GROUNDS,
  'voc': _VOC,
  'voc20': _VOC,
  'context': _CONTEXT,
  'context59': _CONTEXT,
  'coco': _COCO,
  'ade20k': _ADE20K,
  'cityscapes': _CITYSCAPES,
}

# Sets whose mask value 0 is the background, the first name then being 1; in all
# others the first name is 0. The thresholds are the released ones.
BACKGROUND_THRESHOLDS = {'voc': 0.95, 'context': 0.35, 'coco': 0.95}


def read_names(path: pathlib.Path) -> tuple[str, ...]:
  """Class names of a text file.

  Args:
    path: UTF-8, one name per line; a line may give synonyms, as in
      "person|man|woman". Empty lines and lines that begin with # do not count.

  Returns:
    The names in their order.

  Raises:
    OSError: it cannot be read.
    ValueError: it is not text, or has no name.
  """
  try:
    text = path.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path} is not UTF-8 text: give a file with one class name per line'
    ) from error
  lines = (' '.join(line.split()) for line in text.splitlines())
  names = tuple(line for line in lines if line and not line.startswith('#'))
  if not names:
    raise ValueError(f'{path} names no class: write one name per line')
  return names
