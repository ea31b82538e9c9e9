"""Every kind of image becomes RGB pixels, or is refused in one sentence."""

import io
import pathlib
import struct
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


def test_path_bytes_pil_and_array_give_the_same_pixels(tmp_path, make):
  pixels = photo()
  data = make.encode(pixels, 'PNG')
  path = tmp_path / 'photo.png'
  path.write_bytes(data)
  for source in (path, str(path), data, Image.fromarray(pixels), pixels):
    np.testing.assert_array_equal(open_image(source), pixels)


@pytest.mark.parametrize('kind', images.FORMATS)
def test_every_format_is_one_image_to_training_and_inference(kind, make, train):
  data = make.encode(photo(16, 16), kind)
  opened = open_image(data)
  loss = abs(opened.astype(int) - photo(16, 16)).max()
  assert loss <= (60 if kind in ('JPEG', 'WEBP', 'GIF') else 0)
  listed = make.listed([{'image': data, 'caption': 'x'}])
  ((batch,), _, _) = train.take(1, listed, augment='none', batch_size=1)
  np.testing.assert_array_equal(batch['image'][0], opened)


def test_a_rotated_photo_is_turned_upright(make):
  image = Image.fromarray(photo())
  exif = image.getexif()
  exif[0x0112] = 6  # turn by 90 degrees clockwise to look at it
  data = make.encode(image, 'PNG', exif=exif)
  np.testing.assert_array_equal(open_image(data), np.rot90(photo(), -1))
  np.testing.assert_array_equal(open_image(data, upright=False), photo())


def test_transparency_becomes_white(make):
  alpha = np.full((24, 32, 1), 255, np.uint8)
  alpha[:, :16] = 0
  data = make.encode(np.concatenate([photo(), alpha], -1), 'PNG')
  opened = open_image(data)
  assert (opened[:, :16] == 255).all()
  np.testing.assert_array_equal(opened[:, 16:], photo()[:, 16:])


def test_a_palette_with_transparency(make):
  image = Image.new('P', (8, 8), 1)
  image.putpalette([0, 0, 0, 10, 200, 30])
  image.paste(0, (0, 0, 4, 8))
  opened = open_image(make.encode(image, 'PNG', transparency=0))
  assert opened[0, 0].tolist() == [255, 255, 255]
  assert opened[0, 7].tolist() == [10, 200, 30]


def test_sixteen_bits_keep_the_high_byte(make):
  values = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000) + 17
  for kind in ('PNG', 'TIFF'):
    opened = open_image(make.encode(values, kind))
    np.testing.assert_array_equal(opened[..., 1], values >> 8)


def test_integers_that_hold_bytes_are_not_made_black():
  values = np.arange(64, dtype=np.int32).reshape(8, 8) * 4
  opened = open_image(Image.fromarray(values))  # mode I
  np.testing.assert_array_equal(opened[..., 1], values)
  opened = open_image(Image.fromarray(values * 257))
  np.testing.assert_array_equal(opened[..., 1], values * 257 >> 8)


@pytest.mark.parametrize('most', [1, 255])
def test_floating_pixels_run_to_1_or_to_255(most, make):
  values = np.linspace(0, most, 64, dtype=np.float32).reshape(8, 8)
  opened = open_image(make.encode(values, 'TIFF'))
  np.testing.assert_array_equal(opened[..., 0], np.rint(values * 255 / most))


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    (np.full((8, 8), 300.5, np.float32), 'from 300.5 to 300.5, .* 0 to 1 or'),
    (np.full((8, 8), -1, np.float32), 'from -1 to -1'),
    (np.full((8, 8), np.nan, np.float32), 'from nan to nan'),
    (np.full((8, 8), 70_000, np.int32), 'from 70000 to 70000, .*to 65535'),
    (np.full((8, 8), 4095, np.uint16), 'no pixel above 4095 of 65535'),
    (np.full((8, 8), 1e-3, np.float32), 'no pixel above 0.001 of 1'),
  ],
)
def test_pixels_of_another_range_are_refused(values, message, make):
  data = make.encode(Image.fromarray(values), 'TIFF')
  with pytest.raises(ImageError, match=message):
    open_image(data)
  with pytest.raises(images.BadSampleError) as error:
    images.decode(data)
  assert error.value.reason == 'image_values'


@pytest.mark.parametrize('mode', ['L', '1', 'LA'])
def test_grey_becomes_rgb(mode, make):
  image = Image.fromarray(photo()).convert(mode)
  opened = open_image(make.encode(image, 'PNG'))
  want = image.convert('L').convert('RGB')
  np.testing.assert_array_equal(opened, want)


def test_cmyk_has_the_colours_that_a_viewer_shows(make):
  image = Image.new('CMYK', (16, 16), (0, 255, 255, 0))  # red
  opened = open_image(make.encode(image, 'JPEG', quality=95))
  assert (abs(opened.astype(int) - [255, 0, 0]) < 8).all()


def test_the_first_frame_of_an_animation_is_taken_and_said(make):
  frames = [Image.new('RGB', (8, 8), c) for c in ('red', 'lime', 'blue')]
  data = make.encode(
    frames[0], 'GIF', save_all=True, append_images=frames[1:], duration=50
  )
  with pytest.warns(UserWarning, match='the bytes has several frames; the fi'):
    opened = open_image(data)
  assert opened[0, 0].tolist() == [255, 0, 0]
  image = Image.open(io.BytesIO(data))
  image.seek(2)
  with pytest.warns(UserWarning, match='several frames; number 3 is taken'):
    opened = open_image(image)
  assert opened[0, 0].tolist() == [0, 0, 255]
  assert image.tell() == 2


def test_pixels_are_a_copy():
  pixels = photo()
  opened = open_image(pixels)
  pixels[:] = 0
  np.testing.assert_array_equal(opened, photo())


def cut(kind, end):
  def data(make):
    return make.encode(photo(200, 300), kind)[:end]

  return data


def scans(more, side=32):
  """A progressive JPEG whose last scan is there many times more."""

  def data(make):
    image = Image.new('L', (side, side))
    data = make.encode(image, 'JPEG', progressive=True)
    last = data.rindex(b'\xff\xda')
    return data[:-2] + more * data[last:-2] + data[-2:]

  return data


@pytest.mark.parametrize(
  ('data', 'message', 'reason'),
  [
    (lambda make: b'', r'is empty \(zero bytes\)', 'image_empty'),
    (lambda make: b'a text', 'is not an image that can be r', 'image_format'),
    (
      lambda make: b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n',
      'is not an image that can be read .JPEG, PNG, WEBP, GIF, BMP, TIFF.',
      'image_format',
    ),
    (lambda make: make.encode(photo(), 'PPM'), 'not an image', 'image_format'),
    (cut('JPEG', 3000), 'truncated', 'image_damaged'),
    (cut('JPEG', 10), 'is a broken image', 'image_damaged'),
    (cut('PNG', 200), 'broken or truncated', 'image_damaged'),
    (cut('WEBP', 200), 'is', 'image_damaged'),
    (
      lambda make: make.encode(photo(1, 1), 'PNG'),
      'is 1 x 1 pixels; an image needs sides of at',
      'image_size',
    ),
    (
      lambda make: bomb(20_000, 4_460),
      r'20,000 x 4,460 pixels, more than the 89,000,000',
      'image_size',
    ),
    (lambda make: bomb(40_000, 40_000), 'more than 89,000,000', 'image_size'),
    (lambda make: GIF_BOMB, 'unpacks to more than 89,000,000', 'image_size'),
    (scans(100), 'a progressive JPEG of more than 100 scans', 'image_scans'),
    (scans(40, 6000), 'JPEG of more than 27 scans', 'image_scans'),
  ],
)
def test_bad_files_are_refused_in_one_sentence(
  tmp_path, data, message, reason, make
):
  data = data(make)
  path = tmp_path / 'bad.jpg'
  path.write_bytes(data)
  with pytest.raises(ImageError, match=message) as e:
    open_image(path)
  assert str(e.value).startswith(str(path))
  assert '\n' not in str(e.value)
  assert isinstance(e.value, errors.UserError)
  assert isinstance(e.value, ValueError)
  with pytest.raises(images.BadSampleError) as bad:
    images.decode(data)
  assert bad.value.reason == reason


def test_files_are_read_up_to_a_limit(monkeypatch, tmp_path, make):
  monkeypatch.setattr(images, 'MAX_BYTES', 50)
  path = tmp_path / 'a.png'
  path.write_bytes(make.encode(photo(), 'PNG'))
  with pytest.raises(ImageError, match='has more than'):
    open_image(path)


def test_only_the_one_opener_opens_image_files():
  package = pathlib.Path(images.__file__).parents[1]
  opening = {
    path.relative_to(package).as_posix()
    for path in package.rglob('*.py')
    if 'Image.open(' in path.read_text()
  }
  assert opening == {'data/images.py'}


def test_what_is_not_there_or_no_image(tmp_path):
  with pytest.raises(ImageError, match='there is no such file'):
    open_image(tmp_path / 'none.jpg')
  with pytest.raises(ImageError, match='cannot be read: is a directory'):
    open_image(tmp_path)
  with pytest.raises(ImageError, match=r'float64 \[4, 4, 3\], and RGB pixels'):
    open_image(np.zeros((4, 4, 3)))


def test_names_of_images_in_messages():
  several = images.named([pathlib.Path('a.jpg'), b'..', photo()])
  assert [name for _, name in several] == [
    'a.jpg',
    'image 1 of the list',
    'image 2 of the list',
  ]
  assert len(images.named(np.zeros((5, 4, 4, 3), np.uint8))) == 5
  assert images.named(photo())[0][1] == 'the array'
  with pytest.raises(ImageError, match='list of images is empty'):
    images.named([])
