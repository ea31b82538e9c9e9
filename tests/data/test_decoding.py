"""Every kind of picture becomes RGB pixels, or is refused in one sentence."""

import io
import pathlib
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from groupvit_jax import errors
from groupvit_jax.data import images
from groupvit_jax.data.images import open_image
from groupvit_jax.errors import ImageError


def photo(height=24, width=32) -> np.ndarray:
  y, x = np.mgrid[:height, :width]
  return np.stack([8 * y, 6 * x, 200 - 3 * x], -1).astype(np.uint8)


def encoded(image, form='PNG', **options) -> bytes:
  buffer = io.BytesIO()
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(buffer, format=form, **options)
  return buffer.getvalue()


def bomb(width, height) -> bytes:
  """A PNG whose header promises more pixels than it holds."""

  def chunk(kind, data):
    body = kind + data
    return (
      struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))
    )

  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + chunk(b'IDAT', zlib.compress(bytes(100)))
    + chunk(b'IEND', b'')
  )


GIF_BOMB = (
  b'GIF89a'
  + struct.pack('<HHBBB', 60_000, 60_000, 0, 0, 0)
  + b','
  + struct.pack('<HHHHB', 0, 0, 60_000, 60_000, 0)
  + b'\x02\x00;'
)


def test_path_bytes_pil_and_array_give_the_same_pixels(tmp_path):
  pixels = photo()
  data = encoded(pixels)
  path = tmp_path / 'photo.png'
  path.write_bytes(data)
  for source in (path, str(path), data, Image.fromarray(pixels), pixels):
    np.testing.assert_array_equal(open_image(source), pixels)


def test_a_rotated_photo_is_turned_upright():
  image = Image.fromarray(photo())
  exif = image.getexif()
  exif[0x0112] = 6  # turn by 90 degrees clockwise to look at it
  opened = open_image(encoded(image, exif=exif))
  np.testing.assert_array_equal(opened, np.rot90(photo(), -1))


def test_transparency_becomes_white():
  alpha = np.full((24, 32, 1), 255, np.uint8)
  alpha[:, :16] = 0
  opened = open_image(encoded(np.concatenate([photo(), alpha], -1)))
  assert (opened[:, :16] == 255).all()
  np.testing.assert_array_equal(opened[:, 16:], photo()[:, 16:])


def test_a_palette_with_transparency():
  image = Image.new('P', (8, 8), 1)
  image.putpalette([0, 0, 0, 10, 200, 30])
  image.paste(0, (0, 0, 4, 8))
  opened = open_image(encoded(image, transparency=0))
  assert opened[0, 0].tolist() == [255, 255, 255]
  assert opened[0, 7].tolist() == [10, 200, 30]


def test_sixteen_bits_keep_the_high_byte():
  values = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000) + 17
  opened = open_image(encoded(values))
  np.testing.assert_array_equal(opened[..., 1], values >> 8)


def test_integers_that_hold_bytes_are_not_made_black():
  values = np.arange(64, dtype=np.int32).reshape(8, 8) * 4
  opened = open_image(Image.fromarray(values))  # mode I
  np.testing.assert_array_equal(opened[..., 1], values)
  opened = open_image(Image.fromarray(values * 257))
  np.testing.assert_array_equal(opened[..., 1], values * 257 >> 8)


def test_floating_pixels_and_grey_and_bilevel():
  values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
  opened = open_image(encoded(values, 'TIFF'))
  np.testing.assert_array_equal(opened[..., 0], np.rint(values * 255))
  for mode in ('L', '1', 'LA'):
    image = Image.fromarray(photo()).convert(mode)
    assert open_image(encoded(image)).shape == (24, 32, 3)


def test_cmyk_has_the_colours_that_a_viewer_shows():
  image = Image.new('CMYK', (16, 16), (0, 255, 255, 0))  # red
  opened = open_image(encoded(image, 'JPEG', quality=95))
  assert (abs(opened.astype(int) - [255, 0, 0]) < 8).all()


def test_the_first_frame_of_an_animation_is_taken_and_said():
  frames = [Image.new('RGB', (8, 8), c) for c in ('red', 'lime', 'blue')]
  data = encoded(
    frames[0], 'GIF', save_all=True, append_images=frames[1:], duration=50
  )
  with pytest.warns(UserWarning, match='the bytes has 3 frames; the first'):
    opened = open_image(data)
  assert opened[0, 0].tolist() == [255, 0, 0]
  image = Image.open(io.BytesIO(data))
  image.seek(2)
  with pytest.warns(UserWarning, match='3 frames; number 3 is taken'):
    opened = open_image(image)
  assert opened[0, 0].tolist() == [0, 0, 255]
  assert image.tell() == 2


def test_pixels_are_a_copy():
  pixels = photo()
  opened = open_image(pixels)
  pixels[:] = 0
  np.testing.assert_array_equal(opened, photo())


@pytest.mark.parametrize(
  ('data', 'reason'),
  [
    (b'', r'is empty \(zero bytes\)'),
    (b'hello, I am a text', 'is not an image that can be read'),
    (encoded(photo(200, 300), 'JPEG')[:3000], 'truncated'),
    (encoded(photo(200, 300), 'JPEG')[:10], 'without a frame header'),
    (encoded(photo(200, 300))[:200], 'broken or truncated'),
    (encoded(photo(1, 1)), 'is 1 x 1 pixels; a picture needs sides of at'),
    (bomb(30_000, 4_000), r'30,000 x 4,000 pixels, more than the 89,000,000'),
    (bomb(40_000, 40_000), r'40,000 x 40,000 pixels, more than the'),
    (GIF_BOMB, 'unpacks to more than 89,000,000 pixels'),
  ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path, data, reason):
  path = tmp_path / 'bad.jpg'
  path.write_bytes(data)
  with warnings.catch_warnings(), pytest.raises(ImageError, match=reason) as e:
    warnings.simplefilter('error')
    open_image(path)
  assert str(e.value).startswith(str(path))
  assert '\n' not in str(e.value)
  assert isinstance(e.value, errors.UserError)
  assert isinstance(e.value, ValueError)


def test_a_jpeg_of_too_many_pixels_is_found_in_its_header():
  data = bytearray(encoded(photo(), 'JPEG'))
  frame = data.index(b'\xff\xc0')
  data[frame + 5 : frame + 9] = struct.pack('>HH', 20_000, 30_000)
  with pytest.raises(ImageError, match='30,000 x 20,000 pixels'):
    open_image(bytes(data))


def test_what_is_not_there_or_no_picture(tmp_path):
  with pytest.raises(ImageError, match='there is no such file'):
    open_image(tmp_path / 'none.jpg')
  with pytest.raises(ImageError, match='cannot be read: is a directory'):
    open_image(tmp_path)
  with pytest.raises(ImageError, match=r'float64 \[4, 4, 3\], and RGB pixels'):
    open_image(np.zeros((4, 4, 3)))


def test_names_of_pictures_in_messages():
  several = images.named([pathlib.Path('a.jpg'), b'..', photo()])
  assert [name for _, name in several] == [
    'a.jpg',
    'picture 1 of the list',
    'picture 2 of the list',
  ]
  assert len(images.named(np.zeros((5, 4, 4, 3), np.uint8))) == 5
  assert images.named(photo())[0][1] == 'the array'
  with pytest.raises(ImageError, match='list of pictures is empty'):
    images.named([])
