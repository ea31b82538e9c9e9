"""Files on which the project once fell short, one of each kind.

Each kind has an input made here; where `../shared/cases` lies beside the
project, its file is read as well.
"""

import io
import json
import pathlib
import shutil
import tarfile
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from groupvit_jax.benchmarks import own
from groupvit_jax.cli import resume
from groupvit_jax.convert import pickled, torch_files
from groupvit_jax.data import captions, images, tar
from groupvit_jax.errors import ModelError, SourceError

ROOT = pathlib.Path(__file__).parents[2]
CASES = ROOT.parent / 'shared' / 'cases'


def image_file(form: str = 'JPEG') -> bytes:
  """An image file."""
  buffer = io.BytesIO()
  Image.new('RGB', (32, 24), (9, 90, 200)).save(buffer, form)
  return buffer.getvalue()


def shard(path: pathlib.Path, **members: bytes) -> None:
  """A tar; a keyword `a_jpg` is the member a.jpg."""
  with tarfile.open(path, 'w') as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name.replace('_', '.'))
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))


def caption_shard(caption: bytes, end: str = 'txt'):
  return lambda path: shard(path, a_jpg=image_file(), **{f'a_{end}': caption})


def with_negative_size(path: pathlib.Path) -> None:
  shard(path, a_jpg=image_file(), a_txt=b'a dog')
  data = bytearray(path.read_bytes())
  at = data.index(b'a.txt')
  data[at + 124 : at + 136] = (2**96 - 4096).to_bytes(12, 'big')
  data[at + 148 : at + 156] = b' ' * 8
  data[at + 148 : at + 156] = b'%06o\0 ' % sum(data[at : at + 512])
  path.write_bytes(data)


def with_empty_pax_record(path: pathlib.Path) -> None:
  with tarfile.open(path, 'w', format=tarfile.PAX_FORMAT) as archive:
    info = tarfile.TarInfo('a.jpg')
    info.pax_headers, info.size = {'comment': 'some'}, 5
    archive.addfile(info, io.BytesIO(b'abcde'))
  data = path.read_bytes()
  path.write_bytes(data.replace(b'16 comment=some\n', b'00 comment=some\n'))


def as_postscript(path: pathlib.Path) -> None:
  shard(path, a_jpg=image_file('EPS'), a_txt=b'a dog')


def with_dots(path: pathlib.Path) -> None:
  shard(path, a_input_jpg=image_file(), a_input_txt=b'a dog')


def stride_of_0(path: pathlib.Path, pickles) -> None:
  tensor = pickles.View(np.ones(1, np.float32), shape=(10**9,), strides=(0,))
  pickles.save({'a': tensor}, path)


def shared_lists(path: pathlib.Path, pickles) -> None:
  start, storages = pickles.pickled({'model': {'a': np.ones(1, np.float32)}})
  lists = b'](K\1eq\0'
  for i in range(19):
    lists = b'](' + lists + b'h%c' % i * 8 + b'eq%c' % (i + 1)
  body = start[:-2] + b'X\6\0\0\0config' + lists + b'u.'
  members = {'data.pkl': body, 'data/0': storages[0].tobytes()}
  pickles.write_members(path, members)


def masks_of_255(path: pathlib.Path) -> None:
  masks_of_0_and_255(path, 255)


def masks_of_0_and_255(path: pathlib.Path, low: int = 0) -> None:
  for name in ('images', 'masks'):
    (path / name).mkdir(parents=True)
  (path / 'images' / 'p.jpg').write_bytes(image_file())
  mask = np.full((24, 32), low, np.uint8)
  mask[5:] = 255
  Image.fromarray(mask).save(path / 'masks' / 'p.png')
  (path / 'classes.txt').write_text('background\ndog\n')


def nested_journal(path: pathlib.Path) -> None:
  path.write_text('{}\n' + '[' * 10**5 + '\n')


def journal_that_points_outside(path: pathlib.Path) -> None:
  line = {'bytes': 1, 'modified': 2, 'stem': '../../outside', 'files': {}}
  lines = [{'labels': ['dog']}, {'image': 'PICTURE', **line}]
  path.write_text(''.join(f'{json.dumps(x)}\n' for x in lines))


def is_refused_shard(path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match=path.name):
    tar.TarSource(str(path))


def is_refused_for_its_dots(path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match='first dot'):
    tar.TarSource(str(path))


def has_bad_samples(reason: str) -> Callable[[pathlib.Path], None]:
  def check(path: pathlib.Path) -> None:
    source = tar.TarSource(str(path))
    for i in range(len(source)):
      with pytest.raises(images.BadSampleError) as error:
        sample = source[i]
        captions.clean_captions(sample['caption'])
        images.decode(sample['image'])
      assert error.value.reason == reason

  return check


def is_decoded(path: pathlib.Path) -> None:
  source = tar.TarSource(str(path))
  (caption,) = captions.clean_captions(source[0]['caption'])
  assert caption.isascii() and caption.isprintable() and 'a dog' in caption


def is_refused_weights(path: pathlib.Path) -> None:
  with pytest.raises(ModelError, match='damaged'):
    torch_files.read_state_dict(path)


def is_refused_set(path: pathlib.Path) -> None:
  with pytest.raises(SourceError, match='255'):
    own.open_folder('folder', path, None)


def writes_inside(path: pathlib.Path) -> None:
  photo = path.parent / 'photo.jpg'
  photo.write_bytes(image_file())
  state = photo.stat()
  text = path.read_text().replace('PICTURE', str(photo))
  lines = [json.loads(line) for line in text.splitlines()]
  for line in lines[1:]:
    line['image'] = line.pop('picture', line.get('image'))
    line |= {'bytes': state.st_size, 'modified': state.st_mtime_ns}
  out = path.parent / 'out'
  out.mkdir()
  text = '\n'.join(map(json.dumps, lines))
  (out / resume.NAME).write_text(text + '\n')
  results = resume.ResultsFolder(out, lines[0])
  file = resume.ImageFile(photo, pathlib.PurePath('photo.jpg'))
  assert results.stem(file) == 'photo'


def has_no_items(path: pathlib.Path) -> None:
  assert resume.ItemLog(path, resume.Done).items == []


BOM, INVISIBLE = '\ufeff'.encode(), '\u200b\u2060\ufeff'.encode()

# What it is called, how it is made, and what is right.
KINDS = {
  'negative_size_loop.tar': (with_negative_size, is_refused_shard),
  'pax_zero_length.tar': (with_empty_pax_record, is_refused_shard),
  'json_deep.tar': (
    caption_shard(b'[' * 10**5 + b']' * 10**5, 'json'),
    has_bad_samples('record'),
  ),
  'eps_sample.tar': (as_postscript, has_bad_samples('image_format')),
  'nul_caption.tar': (caption_shard(b'\0\0'), has_bad_samples('caption')),
  'bom_caption.tar': (caption_shard(BOM + b'a dog'), is_decoded),
  'invisible.tar': (caption_shard(INVISIBLE), has_bad_samples('caption')),
  'utf16_caption.tar': (caption_shard('a dog'.encode('utf-16')), is_decoded),
  'dotted_names.tar': (with_dots, is_refused_for_its_dots),
  'stride0.pth': (stride_of_0, is_refused_weights),
  'laughs.pth': (shared_lists, is_refused_weights),
  'mask_0_255': (masks_of_0_and_255, is_refused_set),
  'mask_255': (masks_of_255, is_refused_set),
  'journal_deep.jsonl': (nested_journal, has_no_items),
  'journal_outside.jsonl': (journal_that_points_outside, writes_inside),
}


@pytest.mark.parametrize('name', KINDS)
def test_an_input_of_our_own(name, pickles, tmp_path):
  make, check = KINDS[name]
  # The two kinds of weights are written as torch would.
  make(tmp_path / name, *((pickles,) if name.endswith('.pth') else ()))
  check(tmp_path / name)


def test_a_pickle_of_millions_of_instructions(pickles, tmp_path, monkeypatch):
  monkeypatch.setattr(pickled, '_MOST', 1000)
  pickles.write_members(
    tmp_path / 'a.pth', {'data.pkl': b'\x80\2' + b'(' * 2000}
  )
  with pytest.raises(ModelError, match='longer than any of weights'):
    torch_files.read_state_dict(tmp_path / 'a.pth')


needs_cases = pytest.mark.skipif(
  not CASES.is_dir(), reason='there is no ../shared/cases'
)


@needs_cases
@pytest.mark.parametrize('name', KINDS)
def test_the_input_that_was_found(name, tmp_path):
  if not (CASES / name).exists():
    pytest.skip('made here only')
  copy = shutil.copytree if (CASES / name).is_dir() else shutil.copy
  copy(CASES / name, tmp_path / name)
  KINDS[name][1](tmp_path / name)


@needs_cases
def test_no_case_is_left_out():
  there = {path.name for path in CASES.iterdir()} - {'README.md'}
  assert there <= KINDS.keys()
