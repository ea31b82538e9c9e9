"""Names on images: where they stand, what they show, what the legend says."""

import numpy as np
import pytest

from groupvit_jax.viz import colours as colours_lib
from groupvit_jax.viz import names, overlay

PHOTO = np.random.default_rng(0).integers(0, 256, (360, 480, 3), np.uint8)
NAMES = ('sky', 'grass', 'dog')


def halves(height=360, width=480):
  """Sky above grass, and a dog across the border."""
  labels = np.zeros((height, width), np.int32)
  labels[height // 2 :] = 1
  labels[height // 3 : -height // 6, width // 3 : -width // 3] = 2
  return labels


def label_at(labels, point):
  y, x = (int(p * side) for p, side in zip(point, labels.shape, strict=True))
  return labels[y, x]


@pytest.mark.parametrize('size', [(90, 120), (2400, 1600)])
def test_a_name_stands_inside_its_region(size):
  labels = halves(*size)
  got = names.regions(labels)
  assert sorted(region.label for region in got) == [0, 1, 2]
  assert [r.share for r in got] == sorted((r.share for r in got), reverse=True)
  for region in got:
    assert label_at(labels, region.points[0]) == region.label


def test_a_ring_is_named_on_the_ring_and_specks_are_not():
  y, x = np.mgrid[-100:100, -100:100]
  radius = np.hypot(y, x)
  labels = ((radius > 60) & (radius < 90)).astype(int)
  labels[0, 0] = 2
  got = names.regions(labels)
  assert {region.label for region in got} == {0, 1}
  ring = next(region for region in got if region.label == 1)
  assert label_at(labels, ring.points[0]) == 1


def test_two_large_regions_of_a_class_have_a_name_each():
  labels = np.zeros((90, 120), int)
  labels[20:70, 10:50] = labels[20:70, 60:110] = 1
  labels[5:8, 5:8] = 1
  got = [region.label for region in names.regions(labels)]
  assert got == [0, 1, 1]


def has_colour(image, colour) -> np.ndarray:
  return (image == np.asarray(colour)).all(-1)


def test_overlay_shows_the_photo_every_name_and_a_legend():
  labels = halves()
  got = overlay.class_map(labels, NAMES, PHOTO)
  assert got.shape[1] == 480
  assert got.shape[0] > 360
  photo, legend = got[:360], got[360:]
  for label, colour in enumerate(colours_lib.class_colours(NAMES)):
    chip = has_colour(photo, colour)
    assert chip[labels == label].sum() > 200
    assert has_colour(legend, colour).sum() > 50
  assert has_colour(legend, (255, 255, 255)).mean() > 0.5


def test_the_background_is_the_darkened_photo_without_a_name():
  labels = halves()
  labels[labels == 1] = 0
  got = overlay.class_map(
    labels, ('background', 'cat', 'dog'), PHOTO, background=True
  )
  away = labels == 0
  away[100:330, 120:360] = False  # the dog with its border and name
  off = np.abs(got[:360][away] - 0.45 * PHOTO[away])
  assert off.max() < 1.5
  assert has_colour(got[:360], colours_lib.palette(2)[1]).sum() > 200
  # The legend has what the image has: no cat.
  legend = got[360:]
  assert has_colour(legend, (0, 0, 0)).sum() > 50
  assert not has_colour(legend, colours_lib.palette(1)[0]).any()


def test_the_legend_tells_area_from_score(monkeypatch):
  items, strip = [], names.legend_strip
  monkeypatch.setattr(
    names,
    'legend_strip',
    lambda given, *a: items.extend(given) or strip(given, *a),
  )
  labels = halves()
  labels[0, 0] = 3
  scores = {'sky': 0.128, 'grass': 1.0}
  overlay.class_map(labels, (*NAMES, 'cat'), scores=scores)
  assert [item[:2] for item in items] == [
    ('sky', '44 % of area, score .13'),
    ('grass', '39 % of area, score 1.00'),
    ('dog', '17 % of area'),
    ('cat', '<1 % of area'),
  ]


def test_synonyms_show_the_first():
  synonyms = overlay.class_map(halves(), ('sky', ' grass |lawn', 'dog|puppy'))
  plain = overlay.class_map(halves(), NAMES)
  np.testing.assert_array_equal(synonyms, plain)
  other = overlay.class_map(halves(), ('sky', 'lawn', 'dog'))
  assert other.shape != plain.shape or (other != plain).any()


def test_the_class_map_is_pure_colour():
  labels = halves()
  got = overlay.class_map(labels, NAMES)[:360]
  colours = colours_lib.class_colours(NAMES)
  assert (got == colours[labels]).all(-1).mean() > 0.9


@pytest.mark.parametrize(
  'shape', [(1, 1), (2, 3), (1, 3000), (900, 3), (2500, 1700)]
)
def test_images_of_any_size(shape):
  photo = np.full((*shape, 3), 90, np.uint8)
  labels = (np.arange(photo[..., 0].size) % 3).reshape(shape)
  got = overlay.class_map(labels, NAMES, photo, max_side=2048)
  assert got.dtype == np.uint8
  assert max(got.shape[:2]) <= 4096 + 400
  small = shape[0] * shape[1] < 10
  assert not small or got.shape[1] >= 320


@pytest.mark.parametrize(
  'name', ['word ' * 1000, 'x' * 5000, '猫', 'Žirafa', '']
)
def test_names_of_any_kind(name):
  photo = np.full((40, 60, 3), 90, np.uint8)
  labels = np.zeros((40, 60), int)
  got = overlay.class_map(labels, [name], photo)
  assert got.shape[1] == overlay.enlarge(photo, 320).shape[1]


def test_names_do_not_lie_on_each_other():
  # Many strips, each lower than a chip: only some names have room.
  labels = np.arange(60).repeat(6)[:, None].repeat(100, 1)
  image = np.zeros((*labels.shape, 3), np.uint8)
  colours = colours_lib.palette(60)
  got = names.draw_names(image, labels, ['name'] * 60, colours)
  shown = [i for i in range(60) if has_colour(got, colours[i]).any()]
  assert 10 < len(shown) < 60
  for i in shown:  # a whole chip each
    rows, columns = np.nonzero(has_colour(got, colours[i]))
    assert np.ptp(rows) > 15
    assert np.ptp(columns) > 30


def test_black_or_white_letters():
  contrasting = colours_lib.contrasting
  assert contrasting(np.array([255, 240, 80], np.uint8)) == (17, 17, 17)
  assert contrasting(np.array([90, 20, 120], np.uint8)) == (255, 255, 255)
