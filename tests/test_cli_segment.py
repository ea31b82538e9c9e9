"""`groupvit segment`: what it writes, what it skips, and how it fails."""

import io
import json
import os
import pathlib

import numpy as np
import pytest
import stub_inference
from PIL import Image

from groupvit_jax import cli
from groupvit_jax.commands import journal, segment

LABELS = ('--labels', 'dog,grass|lawn,sky')


@pytest.fixture
def stub(monkeypatch, tmp_path):
  """A stand-in model, in a folder with a picture."""
  stub = stub_inference.Stub()
  stub_inference.install(monkeypatch, 'inference', load=stub.load)
  monkeypatch.chdir(tmp_path)
  pathlib.Path('model').mkdir()
  save('photo.jpg')
  return stub


def save(path, size=(60, 40)):
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.effect_noise(size, 60).convert('RGB').save(path)


def run(*args, labels=LABELS, out='out'):
  args = map(str, args)
  return cli.main(['segment', *args, '--model', 'model', '--out', out, *labels])


def errors(capsys) -> list[str]:
  lines = capsys.readouterr().err.splitlines()
  assert all(line.startswith('groupvit: error: ') for line in lines)
  return [line.removeprefix('groupvit: error: ') for line in lines]


def written(folder='out'):
  paths = pathlib.Path(folder).rglob('*')
  names = {str(p.relative_to(folder)) for p in paths if p.is_file()}
  return names - {journal.NAME}


def test_one_picture(stub, capsys):
  assert run('photo.jpg') == 0
  got = capsys.readouterr()
  assert got.out == 'out/photo_overlay.png\n'
  assert got.err == ''
  assert Image.open('out/photo_overlay.png').width >= 60
  assert stub.seen == [['photo.jpg']]
  assert stub.calls == [(('dog', 'grass|lawn', 'sky'), 'simple', 8)]


def test_every_kind(stub):
  assert run('photo.jpg', '--show', ','.join(segment.KINDS)) == 0
  kinds = [kind for kind in segment.KINDS if kind not in ('all_groups',)]
  assert written() == {
    *(f'photo_{k}.png' for k in kinds if k not in ('scores', 'json')),
    *('photo_groups_1.png', 'photo_groups_2.png'),
    *('photo_scores.npz', 'photo.json'),
  }
  # Three stripes, the background being the first of four classes.
  labels = (np.arange(60) // 20)[None].repeat(40, 0)
  mask = Image.open('out/photo_mask.png')
  np.testing.assert_array_equal(np.asarray(mask), labels)
  assert mask.mode == 'P'
  groups = [
    pathlib.Path(f'out/photo_{name}.png').read_bytes()
    for name in ('first_group', 'groups_1', 'final_group', 'groups_2')
  ]
  assert groups[0] == groups[1] != groups[2] == groups[3]
  with np.load('out/photo_scores.npz') as scores:
    assert scores['scores'].shape == (4, 40, 60)
    assert scores['scores'].dtype == np.float32
    assert list(scores['names']) == ['background', 'dog', 'grass', 'sky']


def test_json(stub):
  coco = pytest.importorskip('pycocotools.mask')
  assert run('photo.jpg', '--show', 'json') == 0
  got = json.loads(pathlib.Path('out/photo.json').read_text())
  assert (got['picture'], got['width'], got['height']) == ('photo.jpg', 60, 40)
  assert got['names'] == ['background', 'dog', 'grass', 'sky']
  background, dog, grass = got['classes']
  assert (background['id'], background['name']) == (0, 'background')
  assert 'score' not in background
  assert (dog['id'], grass['name']) == (1, 'grass')
  assert dog['area'] == 800
  assert dog['share'] == pytest.approx(1 / 3, abs=1e-6)
  assert dog['box'] == [20, 0, 20, 40]
  assert dog['score'] == 0.75
  mask = coco.decode(dog['rle'])
  np.testing.assert_array_equal(mask[0], np.arange(60) // 20 == 1)
  assert coco.toBbox(dog['rle']).tolist() == dog['box']


def test_folders_and_patterns(stub, capsys):
  for name in ('a/x.jpg', 'a/x.png', 'a/b/x.JPG', 'a/.hidden.jpg'):
    save(name)
  pathlib.Path('a/notes.txt').write_text('no picture')
  assert run('a', 'a/x.jpg', 'a/b/*.J*', '--batch', 2, out='a/out') == 0
  assert written('a/out') == {
    'x_overlay.png', 'x.png_overlay.png', 'b/x_overlay.png'
  }  # fmt: skip
  assert capsys.readouterr().out == '3 pictures: 3 segmented; see a/out\n'
  # What was written is not segmented in its turn.
  assert run('a', out='a/out') == 0
  assert '3 skipped' in capsys.readouterr().out


def test_a_run_is_resumed(stub, capsys):
  for name in ('a/x.jpg', 'a/y.jpg'):
    save(name)
  assert run('a') == 0
  assert run('a') == 0
  assert len(stub.loaded) == 1  # nothing to do: no model
  out = capsys.readouterr().out.splitlines()
  assert out[-1] == (
    '2 pictures: 0 segmented, 2 skipped as done before; see out'
  )
  save('a/z.jpg')
  assert run('a') == 0
  assert stub.seen[1:] == [['a/z.jpg']]
  # Another kind is added to what is there.
  before = pathlib.Path('out/x_overlay.png').stat().st_mtime_ns
  assert run('a', '--show', 'overlay,mask') == 0
  assert stub.seen[2:] == [['a/x.jpg', 'a/y.jpg', 'a/z.jpg']]
  assert pathlib.Path('out/x_overlay.png').stat().st_mtime_ns == before
  # What was removed, and what has changed, is made again.
  pathlib.Path('out/x_mask.png').unlink()
  save('a/y.jpg', (80, 40))
  assert run('a', '--show', 'mask') == 0
  assert stub.seen[3:] == [['a/x.jpg', 'a/y.jpg']]
  assert Image.open('out/y_mask.png').size == (80, 40)


def test_a_half_written_journal_is_read(stub):
  save('x.jpg')
  assert run('photo.jpg', 'x.jpg') == 0
  path = pathlib.Path('out', journal.NAME)
  path.write_text(path.read_text()[:-20])
  assert run('photo.jpg', 'x.jpg') == 0
  assert stub.seen[1:] == [['x.jpg']]
  assert len(path.read_text().splitlines()) == 3


def test_results_of_other_settings_are_not_mixed(stub, capsys):
  assert run('photo.jpg') == 0
  assert run('photo.jpg', labels=('--labels', 'cat')) == 1
  (line,) = errors(capsys)
  assert 'made with another labels: choose another --out' in line
  assert run('photo.jpg', '--soft') == 1
  assert 'another steps' in errors(capsys)[0]
  pathlib.Path('model/model.safetensors').write_bytes(b'new')
  assert run('photo.jpg') == 1
  assert 'another model' in errors(capsys)[0]
  assert run('photo.jpg', '--overwrite') == 0
  assert len(stub.loaded) == 2


def test_pictures_of_the_same_name_have_a_result_each(stub):
  for name in ('a/x.jpg', 'b/x.jpg', 'c/x.jpg'):
    save(name)
  assert run('a/x.jpg') == 0
  assert run('b/x.jpg', 'c/x.jpg') == 0
  assert written() == {
    'x_overlay.png', 'x.jpg_overlay.png', 'x.jpg-2_overlay.png'
  }  # fmt: skip
  assert [path for call in stub.seen for path in call] == [
    'a/x.jpg', 'b/x.jpg', 'c/x.jpg'
  ]  # fmt: skip


def test_a_bad_picture_does_not_stop_the_others(stub, capsys):
  for i in range(7):
    save(f'a/{i}.jpg')
  for name in ('a/3.jpg', 'a/5.jpg'):
    pathlib.Path(name).write_text('no picture')
  assert run('a', '--batch', 1) == 1
  got = capsys.readouterr()
  assert got.err.splitlines() == [
    'groupvit: error: a/3.jpg is not an image.',
    'groupvit: error: a/5.jpg is not an image.',
  ]
  assert '5 segmented, 2 failed' in got.out
  assert len(written()) == 5
  save('a/3.jpg')
  assert run('a') == 1
  assert '1 segmented, 5 skipped as done before, 1 failed' in (
    capsys.readouterr().out
  )


def test_one_bad_picture(stub, capsys):
  pathlib.Path('photo.jpg').write_text('no picture')
  assert run('photo.jpg') == 1
  assert errors(capsys) == ['photo.jpg is not an image.']
  assert not written()
  save('photo.jpg')
  assert run('photo.jpg', labels=('--labels', 'cat')) == 0


def test_what_is_not_about_a_picture_is_told_once(stub, capsys):
  def fail(path):
    raise ValueError('this model cannot segment')

  stub.fail = fail
  for i in range(9):
    save(f'a/{i}.jpg')
  assert run('a') == 1
  lines = errors(capsys)
  assert set(lines) == {'this model cannot segment'}
  assert len(lines) == 2  # a picture's, then the run's
  stub.fail, stub.no_groups = (lambda path: None), True
  assert run('photo.jpg', '--show', 'final_group') == 1
  assert 'there are no groups' in errors(capsys)[0]


def test_an_interrupted_run_goes_on(stub, capsys):
  for i in range(3):
    save(f'a/{i}.jpg')

  def interrupt(path):
    if path == 'a/2.jpg':
      raise KeyboardInterrupt

  stub.fail = interrupt
  assert run('a', '--batch', 1, '--show', 'mask') == 130
  # Four batches are asked for at a time, and none is done.
  (line,) = errors(capsys)
  assert line.startswith('interrupted; the same command goes on')
  stub.fail = lambda path: None
  assert run('a', '--batch', 1, '--show', 'mask') == 0
  assert written() == {'0_mask.png', '1_mask.png', '2_mask.png'}


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (['nothing.jpg'], 'nothing.jpg: there is no such file or folder'),
    (['*.webp'], '*.webp holds no pictures: looked for .jpg'),
    (['model'], 'model holds no pictures'),
    (['.', '--out', '.'], 'choose another --out'),
    (['photo.jpg', '--out', 'photo.jpg/x'], 'photo.jpg'),
    (['photo.jpg', '--model', 'no'], 'no: there is no model'),
  ],
)
def test_bad_paths(stub, capsys, args, words):
  argv = ['segment', '--model', 'model', '--out', 'out', *LABELS, *args]
  assert cli.main(argv) == 1
  (line,) = errors(capsys)
  assert words in line
  assert not pathlib.Path('out').exists()


@pytest.mark.parametrize(
  ('labels', 'words'),
  [
    ('', '--labels names no class'),
    (' , ', '--labels names no class'),
    ('dog,,sky', "empty name: after 'dog'"),
    (',sky', 'empty name: at the beginning'),
    ('dog|,sky', "a part of 'dog|' is empty"),
    ('dog, Dog', "--labels has 'dog' twice"),
    ('dog|puppy,puppy', "has 'puppy' twice"),
  ],
)
def test_bad_labels(stub, capsys, labels, words):
  assert run('photo.jpg', labels=('--labels', labels)) == 1
  (line,) = errors(capsys)
  assert words in line
  assert not stub.loaded


def test_a_label_of_a_thousand_words(stub, capsys):
  long = ' '.join(['word'] * 1000)
  assert run('photo.jpg', labels=('--labels', long)) == 0
  got = capsys.readouterr()
  (line,) = got.err.splitlines()
  assert line.startswith('groupvit: warning: word word')
  # An error that quotes one stays a line that can be read.
  assert run('photo.jpg', labels=('--labels', f'{long},{long}')) == 1
  assert len(errors(capsys)[0]) < 200


@pytest.mark.parametrize(
  ('labels', 'count', 'threshold'),
  [
    (('--labels', 'a,b'), 2, 0.95),
    (('--labels-from', 'voc'), 20, 0.95),
    (('--labels-from', 'voc20'), 20, None),
    (('--labels-from', 'context'), 59, 0.35),
    (('--labels-from', 'ade20k'), 150, None),
    (('--labels-from', 'names.txt'), 3, 0.95),
    (('--labels-from', 'context', '--background', 'none'), 59, None),
    (('--labels-from', 'ade20k', '--background', '.5'), 150, 0.5),
  ],
)
def test_label_sets_bring_their_background(stub, labels, count, threshold):
  pathlib.Path('names.txt').write_text('cat\n# no\ndog|puppy\n\nsky\n')
  assert run('photo.jpg', '--show', 'mask', labels=labels) == 0
  assert len(stub.calls[0][0]) == count
  assert stub.configs[0].background_threshold == threshold


def test_an_unknown_label_set(stub, capsys):
  assert run('photo.jpg', labels=('--labels-from', 'vok')) == 1
  (line,) = errors(capsys)
  assert 'vok is no label set and no file: choose one of voc,' in line


def test_steps_are_fields_of_the_config(stub):
  steps = ('--slide', '--short-side', '336', '--top-k', '3', '--soft')
  assert run('photo.jpg', *steps, '--templates', 'full', '--batch', '3') == 0
  (config,) = stub.configs
  assert (config.mode, config.short_side) == ('slide', 336)
  assert (config.top_k, config.one_hot) == (3, False)
  assert stub.calls[0][1:] == ('full', 3)


@pytest.mark.parametrize(
  'extra',
  [
    ['--show', 'overlays'],
    ['--show', ''],
    ['--background', '2'],
    ['--background', 'nan'],
    ['--batch', '0'],
    ['--templates', 'mine'],
    ['--labels-from', 'voc'],
  ],
)
def test_wrong_options(stub, capsys, extra):
  with pytest.raises(SystemExit) as exit_info:
    run('photo.jpg', *extra)
  assert exit_info.value.code == 2
  assert not stub.loaded


def test_a_progress_bar_on_a_terminal(stub, monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setattr('sys.stderr', terminal)
  for i in range(3):
    save(f'a/{i}.jpg')
  pathlib.Path('a/1.jpg').write_text('no picture')
  assert run('a') == 1
  assert '3/3' in terminal.getvalue()
  # The line about the bad picture stands alone, not behind the bar.
  lines = terminal.getvalue().replace('\r', '\n').splitlines()
  assert 'groupvit: error: a/1.jpg is not an image.' in [
    line.strip() for line in lines
  ]


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_cannot_be_written(stub, capsys):
  pathlib.Path('out').mkdir(mode=0o500)
  assert run('photo.jpg') == 1
  assert 'Permission denied' in errors(capsys)[0]
