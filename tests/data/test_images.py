"""Encoded images: their headers, their limits, and how they break."""

import io

import numpy as np
import pytest
from PIL import Image
from sample_data import encode, picture

from groupvit_jax.data import images


@pytest.mark.parametrize(
  ('kind', 'mode'),
  [
    ('JPEG', 'RGB'),
    ('JPEG', 'L'),
    ('JPEG', 'CMYK'),
    ('PNG', 'RGBA'),
    ('PNG', 'P'),
    ('PNG', 'I;16'),
    ('PNG', '1'),
    ('WEBP', 'RGBA'),
    ('GIF', 'P'),
  ],
)
def test_every_kind_of_image_decodes(kind, mode):
  if mode == 'I;16':
    wide = np.tile(np.linspace(0, 65535, 13).astype(np.uint16), (7, 1))
    image = Image.fromarray(wide)
  else:
    image = Image.fromarray(picture(200, (13, 7)))
    image = image.quantize(4) if mode == 'P' else image.convert(mode)
  out = io.BytesIO()
  image.save(out, kind)
  data = out.getvalue()
  assert images.encoded_size(data) == (7, 13)
  decoded = np.asarray(images.decode_pil(data))
  assert decoded.shape == (7, 13, 3) and decoded.dtype == np.uint8
  if mode == 'I;16':
    np.testing.assert_array_equal(decoded[0, [0, 6, 12], 0], [0, 127, 255])
  elif mode != '1':
    assert abs(decoded.astype(int) - 200).max() <= 3


def test_jpeg_header_equals_pillow():
  for progressive in (False, True):
    out = io.BytesIO()
    Image.fromarray(picture(3, (300, 17))).save(
      out, 'JPEG', progressive=progressive, comment=b'c' * 3000
    )
    assert images.encoded_size(out.getvalue()) == (17, 300)


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'', 'zero bytes'),
    (b'<html>not found</html>', 'not a readable image'),
    (encode(picture(1))[:30], 'without a frame header'),
    (encode(picture(1), 'PNG')[:12], 'not a readable image'),
    (b'\xff\xd8\xff' + b'\xff' * 40, 'without a frame header'),
  ],
)
def test_broken_headers(data, message):
  with pytest.raises(images.BadSampleError, match=message):
    images.encoded_size(data)


def test_sizes_are_limited():
  with pytest.raises(images.BadSampleError, match='more than 100'):
    images.check_size((11, 10), 100)
  with pytest.raises(images.BadSampleError, match='0 x 4 pixels'):
    images.check_size((4, 0))


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_truncated_images_do_not_decode(kind):
  rng = np.random.default_rng(0)
  data = encode(rng.integers(0, 256, (64, 64, 3), np.uint8), kind)
  with pytest.raises(images.BadSampleError, match='does not decode'):
    images.decode_pil(data[: len(data) // 2])
  if kind == 'JPEG':
    assert images.looks_cut(data[: len(data) // 2])
    assert not images.looks_cut(data)
