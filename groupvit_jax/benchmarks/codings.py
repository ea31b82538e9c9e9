"""Codings of label maps: the class that each stored value means.

Every benchmark has its own (0 ignored here, ids with gaps there); a `Coding` is
the table from stored values to positions in the list of class names.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int32

from groupvit_jax import IGNORE
from groupvit_jax.errors import ImageError

_INVALID = -1
_MOST_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Coding:
  """Classes of stored values.

  Fields:
    table: class of each stored value; -1 for values that must not occur. Values
      beyond it must not occur either.
    expected: the values that may occur, for messages.
  """

  table: Int32[np.ndarray, 'values']
  expected: str

  def decode(
    self, stored: Int32[np.ndarray, 'h w'], name: str
  ) -> Int32[np.ndarray, 'h w']:
    """Classes of stored values.

    Args:
      stored: a label map as its file has it.
      name: of the label map, for messages.

    Raises:
      ImageError: values that the coding does not have.
    """
    inside = (stored >= 0) & (stored < len(self.table))
    label = np.where(inside, self.table[np.where(inside, stored, 0)], _INVALID)
    wrong = label == _INVALID
    if wrong.any():
      raise ImageError(
        f'{name} has labels out of range: {_listed(stored[wrong])}, where '
        f'{self.expected} may occur; check that it is a label map of this '
        'benchmark, in this coding.'
      )
    return label.astype(np.int32)


def _listed(values: np.ndarray) -> str:
  found = np.unique(values)
  named = ', '.join(map(str, found[:_MOST_NAMED].tolist()))
  more = len(found) - _MOST_NAMED
  return f'{named} and {more} more' if more > 0 else named


def as_stored(classes: int) -> Coding:
  """The stored value is the class; 255 is ignored."""
  return mapped({i: i for i in range(classes)}, f'0 to {classes - 1} and 255')


def less_one(classes: int) -> Coding:
  """0 is ignored and 1 is the first class (mmseg's reduce_zero_label)."""
  return mapped(
    {0: IGNORE} | {i + 1: i for i in range(classes)}, f'0 to {classes} and 255'
  )


def mapped(classes: Mapping[int, int], expected: str) -> Coding:
  """Classes from a table.

  Args:
    classes: class by stored value. 255 is ignored unless it is a key.
    expected: see `Coding`.
  """
  known = {IGNORE: IGNORE} | dict(classes)
  table = np.full(max(known) + 1, _INVALID, np.int32)
  for value, label in known.items():
    table[value] = label
  return Coding(table, expected)


# Ids of the 19 classes of Cityscapes that are evaluated, in their order; the
# other ids up to 33 are ignored (mcordts/cityscapesScripts helpers/labels.py).
_CITYSCAPES = (
  7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33,
)  # fmt: skip


def cityscapes_ids() -> Coding:
  """Label ids of Cityscapes to its 19 classes."""
  classes = dict.fromkeys(range(34), IGNORE)
  classes |= {value: i for i, value in enumerate(_CITYSCAPES)}
  return mapped(classes, 'label ids 0 to 33')


# Of the ids 0 to 181 in the PNGs of COCO-Stuff (COCO's category ids less one,
# then stuff), these name no category (mmsegmentation
# tools/convert_datasets/coco_stuff164k.py, clsID_to_trID).
_COCO_ABSENT = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_COCO_LAST_THING, _COCO_LAST = 90, 181
_COCO_EXPECTED = f'0 to {_COCO_LAST} and 255, with gaps'
_COCO = {
  value: i
  for i, value in enumerate(
    v for v in range(_COCO_LAST + 1) if v not in _COCO_ABSENT
  )
}


def coco_stuff_ids() -> Coding:
  """Ids of COCO-Stuff's PNGs to 171 classes; unlabelled (255) is ignored."""
  return mapped(_COCO, _COCO_EXPECTED)


def coco_object_ids() -> Coding:
  """Ids of COCO-Stuff's PNGs to background and 80 objects.

  Stuff and unlabelled pixels become the background (NVlabs/GroupViT
  convert_dataset/convert_coco_object.py): nothing is ignored.
  """
  things = {v: i + 1 for v, i in _COCO.items() if v < _COCO_LAST_THING}
  stuff = dict.fromkeys(
    (*range(_COCO_LAST_THING + 1, _COCO_LAST + 1), IGNORE), 0
  )
  return mapped(things | stuff, _COCO_EXPECTED)


# Of PASCAL Context's 459 categories the 59 most frequent, whose ids are in the
# alphabetical order of their names, as are the classes (mmsegmentation
# tools/convert_datasets/pascal_context.py). All others are background.
_CONTEXT = (
  2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98,
  104, 105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259,
  260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
  415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip


def context_ids(background: bool) -> Coding:
  """Categories of PASCAL Context to its 59 classes.

  Args:
    background: whether all other categories are class 0, or are ignored.
  """
  first, other = (1, 0) if background else (0, IGNORE)
  # 255 is a category here, and no value is ignored by itself.
  classes = dict.fromkeys(range(460), other)
  classes |= {category: first + i for i, category in enumerate(_CONTEXT)}
  return mapped(classes, 'categories 0 to 459')


# Of ADE20K's 150 scene classes (1 is the first) the 100 of the instance
# challenge, in its order (facebookresearch/Mask2Former
# datasets/ade20k_instance_catid_mapping.txt).
ADE20K_THINGS = (
  8, 9, 11, 13, 15, 16, 19, 20, 21, 23, 24, 25, 28, 31, 32, 33, 34, 36, 37, 38,
  39, 40, 42, 43, 44, 45, 46, 48, 50, 51, 54, 56, 57, 58, 59, 63, 65, 66, 67,
  68, 70, 71, 72, 73, 74, 75, 76, 77, 79, 81, 82, 83, 84, 86, 87, 88, 89, 90,
  91, 93, 94, 96, 98, 99, 103, 104, 105, 108, 109, 111, 112, 113, 116, 117, 119,
  120, 121, 122, 124, 125, 126, 127, 128, 130, 131, 133, 134, 135, 136, 137,
  138, 139, 140, 143, 144, 145, 147, 148, 149, 150,
)  # fmt: skip
