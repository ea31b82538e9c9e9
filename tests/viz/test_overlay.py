"""Images for people: colours, overlays, sizes, PNG."""

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from groupvit_jax.benchmarks import label_sets
from groupvit_jax.viz import colours as colours_lib
from groupvit_jax.viz import overlay

LABELS = np.array([[0, 0, 1], [0, 2, 255]])


def decode(png):
  return np.asarray(Image.open(io.BytesIO(png)).convert('RGB'))


def saved(image):
  """A PIL image as it comes back from a PNG file."""
  buffer = io.BytesIO()
  image.save(buffer, 'PNG')
  return Image.open(buffer)


def test_a_colour_does_not_depend_on_how_many_are_asked_for():
  np.testing.assert_array_equal(
    colours_lib.palette(5), colours_lib.palette(64)[:5]
  )
  assert colours_lib.palette(0).shape == (0, 3)


def test_the_first_64_colours_are_far_apart():
  colours = colours_lib.palette(64).astype(int)
  distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
  distance[np.diag_indices(64)] = np.inf
  assert distance[:18, :18].min() > 40
  assert distance.min() > 30
  # And from the grey of unknown pixels.
  assert np.linalg.norm(colours - np.array(overlay.GREY), axis=-1).min() > 30


def test_images_need_no_matplotlib():
  # In a process of its own: other tests of this one may have imported it.
  code = (
    'import sys; from groupvit_jax.viz import colours, overlay; '
    'colours.palette(9); '
    "sys.exit('matplotlib' in sys.modules)"
  )
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_colourise_paints_indices_and_greys_the_unknown():
  colours = colours_lib.palette(3)
  got = overlay.colourise(LABELS, colours)
  np.testing.assert_array_equal(got[0, 2], colours[1])
  np.testing.assert_array_equal(got[1, 1], colours[2])
  np.testing.assert_array_equal(got[1, 2], overlay.GREY)
  beyond = overlay.colourise(np.array([[7, -1]]), colours)
  np.testing.assert_array_equal(beyond, [[overlay.GREY] * 2])
  # 255 is unknown even where there are more colours than that.
  many = overlay.colourise(LABELS, colours_lib.palette(300))
  np.testing.assert_array_equal(many[1, 2], overlay.GREY)


def test_enlarge_repeats_whole_pixels_and_leaves_large_ones():
  got = overlay.enlarge(LABELS, 5)
  assert got.shape == (6, 9)
  np.testing.assert_array_equal(got[::3, ::3], LABELS)
  large = np.zeros((200, 300, 3), np.uint8)
  assert overlay.enlarge(large, 160).shape == large.shape


def test_fit_takes_the_nearest_index():
  np.testing.assert_array_equal(
    overlay.fit(np.array([[1, 2]]), (2, 4)), [[1, 1, 2, 2]] * 2
  )


def test_borders_lie_between_labels():
  got = overlay.borders(np.array([[1, 1, 2], [1, 1, 2]]))
  np.testing.assert_array_equal(got, [[False, True, False]] * 2)


def test_overlay_blends_and_outlines():
  image = np.full((2, 2, 3), 100, np.uint8)
  labels = np.array([[0, 1], [0, 1]])
  colours = np.array([[200, 0, 0], [0, 0, 200]], np.uint8)
  got = overlay.overlay(image, labels, colours, min_side=4)
  assert got.shape == (4, 4, 3)
  np.testing.assert_array_equal(got[0], [
    [160, 40, 40], [255, 255, 255], [40, 40, 160], [40, 40, 160]
  ])  # fmt: skip


def test_overlays_keep_the_colour_of_the_photo():
  """One class over a red and a blue half: still redder and bluer."""
  photo = np.zeros((40, 40, 3), np.uint8)
  photo[:, :20, 0] = photo[:, 20:, 2] = 200
  labels = np.zeros((40, 40), int)
  got = overlay.class_map(labels, [''], photo).astype(int)
  left, right = got[100, 20], got[100, -20]
  np.testing.assert_array_equal(left - right, [100, 0, -100])


def test_overlay_fits_maps_of_another_size():
  image = np.zeros((8, 8, 3), np.uint8)
  got = overlay.overlay(
    image, np.array([[0, 1]]), colours_lib.palette(2), min_side=8
  )
  assert got.shape == (8, 8, 3)
  assert (got[:, 3] == 255).all()


def test_groups_have_colours_of_their_own():
  colours = colours_lib.group_palette(64)
  off = colours[:32, None].astype(int) - colours_lib.palette(32)
  assert np.linalg.norm(off, axis=-1).min() > 15
  apart = np.linalg.norm(colours[:8, None].astype(int) - colours[:8], axis=-1)
  assert apart[~np.eye(8, dtype=bool)].min() > 40


@pytest.mark.parametrize('few', [True, False])
def test_png_keeps_every_pixel(few):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (40, 30, 3)).astype(np.uint8)
  if few:
    image = colours_lib.palette(200)[rng.integers(0, 200, (40, 30))]
  np.testing.assert_array_equal(decode(overlay.png_bytes(image)), image)
  uri = overlay.data_uri(image)
  head, data = uri.split(',')
  assert head == 'data:image/png;base64'
  np.testing.assert_array_equal(decode(base64.b64decode(data)), image)


def test_a_narrow_image_is_not_enlarged_beyond_reason():
  assert overlay.enlarge(np.zeros((2, 3000), int), 320).shape == (2, 3000)
  assert overlay.enlarge(np.zeros((1, 1), int), 320).shape == (320, 320)


def test_shrink_averages_down_to_the_longest_side():
  image = np.full((30, 60, 3), 70, np.uint8)
  assert overlay.shrink(image, None) is image
  assert overlay.shrink(image, 60) is image
  small = overlay.shrink(image, 20)
  assert small.shape == (10, 20, 3)
  assert (small == 70).all()


@pytest.mark.parametrize('count', [4, 30])
def test_background_is_black_and_shifts_no_colour(count):
  names = ('grass', *(f'c{i}' for i in range(count)))
  plain = colours_lib.class_colours(names)
  with_background = colours_lib.class_colours(
    ('background', *names), background=True
  )
  np.testing.assert_array_equal(with_background[1:], plain)
  np.testing.assert_array_equal(with_background[0], [0, 0, 0])


def test_stuff_has_natural_colours():
  names = ('cat', 'Grass|lawn', 'water', 'snow', 'lake', 'river')
  cat, grass, water, snow, lake, river = colours_lib.class_colours(
    names
  ).astype(int)
  assert grass.argmax() == 1 and water.argmax() == 2 and snow.min() > 225
  assert lake.argmax() == 2  # the colour of rivers, which two cannot have
  assert (river != lake).any()
  assert np.linalg.norm(cat - water) > 60  # of which the palette's first is


@pytest.mark.parametrize('label_set', ['scenes', 'voc', 'context', 'coco'])
def test_classes_of_a_benchmark_stay_apart(label_set):
  colours = colours_lib.class_colours(label_sets.LABEL_SETS[label_set]).astype(
    int
  )
  distance = np.linalg.norm(colours[:, None] - colours, axis=-1)
  assert distance[~np.eye(len(colours), dtype=bool)].min() > 20


def test_groups_overlay_has_the_size_of_the_photo():
  photo = np.full((200, 300, 3), 128, np.uint8)
  groups = np.arange(3).repeat(100)[None].repeat(200, 0)
  got = overlay.groups_overlay(photo, groups)
  assert got.shape == photo.shape
  want = overlay.overlay(photo, groups, colours_lib.group_palette(3))
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('background', [False, True])
def test_a_mask_holds_the_classes(background):
  labels = np.arange(256, dtype=np.int32).reshape(16, 16)
  names = [f'c{i}' for i in range(256)]
  image = saved(overlay.palette_image(labels, names, background=background))
  assert image.mode == 'P'
  np.testing.assert_array_equal(np.asarray(image), labels)
  np.testing.assert_array_equal(
    np.asarray(image.convert('RGB')).reshape(-1, 3),
    colours_lib.class_colours(names, background),
  )


def test_a_mask_of_many_classes_has_16_bits():
  labels = np.array([[0, 255], [256, 1000]], np.int32)
  names = [f'c{i}' for i in range(1001)]
  image = saved(overlay.palette_image(labels, names))
  np.testing.assert_array_equal(np.asarray(image), labels)
  # So has one that only could need them: all masks of a run are of one kind.
  few = overlay.palette_image(labels[:1] * 0, names)
  assert few.mode == 'I;16'


def test_hex_colour():
  assert colours_lib.hex_colour(np.array([0, 15, 255], np.uint8)) == '#000fff'
