"""`groupvit segment`: what it writes, and what it asks the model for."""

import dataclasses
import io
import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from groupvit_jax.benchmarks import label_sets
from groupvit_jax.cli import common, segment


def test_one_image(stub, capsys):
  assert stub.run('photo.jpg') == 0
  got = capsys.readouterr()
  assert got.out == 'out/photo_overlay.png\n'
  assert got.err == ''
  assert Image.open('out/photo_overlay.png').width >= 60
  assert stub.seen == [['photo.jpg']]
  assert stub.calls == [(('dog', 'grass|lawn', 'sky'), 'simple', 8)]


def test_every_kind(stub):
  assert stub.run('photo.jpg', '--show', ','.join(segment.KINDS)) == 0
  assert stub.written() == {
    *('photo_overlay.png', 'photo_mask.png', 'photo_pred.png'),
    *('photo_groups_1.png', 'photo_groups_2.png'),
    *('photo_scores.npz', 'photo.json'),
  }
  # Three stripes, the background being the first of four classes.
  labels = (np.arange(60) // 20)[None].repeat(40, 0)
  mask = Image.open('out/photo_mask.png')
  np.testing.assert_array_equal(np.asarray(mask), labels)
  assert mask.mode == 'P'
  with np.load('out/photo_scores.npz') as scores:
    assert scores['scores'].shape == (4, 40, 60)
    assert scores['scores'].dtype == np.float32
    assert list(scores['names']) == ['background', 'dog', 'grass', 'sky']


def test_without_labels_the_groups_are_shown(stub, capsys):
  assert stub.run('photo.jpg', labels=()) == 0
  assert stub.written() == {'photo_groups_1.png', 'photo_groups_2.png'}
  capsys.readouterr()
  assert stub.run('photo.jpg', '--show', 'mask', labels=(), out='new') == 1
  assert 'needs class names' in capsys.readouterr().err


def test_an_unsure_image_is_told(stub, capsys):
  labels = ('--labels', 'nothing,else')
  assert stub.run('photo.jpg', '--show', 'json', labels=labels) == 0
  assert 'photo.jpg: the model is unsure' in capsys.readouterr().err
  assert (
    json.loads(pathlib.Path('out/photo.json').read_text())['entropy'] == 0.5
  )


def test_json(stub):
  coco = pytest.importorskip('pycocotools.mask')
  assert stub.run('photo.jpg', '--show', 'json') == 0
  got = json.loads(pathlib.Path('out/photo.json').read_text())
  assert (got['image'], got['width'], got['height']) == ('photo.jpg', 60, 40)
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
    stub.save(name)
  pathlib.Path('a/notes.txt').write_text('no image')
  assert stub.run('a', 'a/x.jpg', 'a/b/*.J*', '--batch', 2, out='a/out') == 0
  assert stub.written('a/out') == {
    'x_overlay.png', 'x.png_overlay.png', 'b/x_overlay.png'
  }  # fmt: skip
  assert capsys.readouterr().out == '3 images: 3 segmented; see a/out\n'
  # What was written is not segmented in its turn, nor by another run.
  assert stub.run('a', out='a/out') == 0
  assert '3 skipped' in capsys.readouterr().out
  for again in ('a', 'a/**/*.*'):
    assert stub.run(again, '--overwrite', out='a/again') == 0
    assert '3 images: 3 segmented' in capsys.readouterr().out
  assert stub.run('a/out/x_overlay.png', out='a/named') == 0


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
  assert stub.run('photo.jpg', '--show', 'mask', labels=labels) == 0
  assert len(stub.calls[0][0]) == count
  assert stub.configs[0].background_threshold == threshold


def test_the_sets_of_the_help_exist():
  assert set(common.LABEL_SETS) < set(label_sets.LABEL_SETS)
  assert set(label_sets.BACKGROUND_THRESHOLDS) < set(common.LABEL_SETS)


def test_steps_are_fields_of_the_config(stub):
  steps = ('--slide', '--short-side', '336', '--top-k', '3', '--soft')
  assert (
    stub.run('photo.jpg', *steps, '--templates', 'full', '--batch', '3') == 0
  )
  (config,) = stub.configs
  assert (config.mode, config.short_side) == ('slide', 336)
  assert (config.top_k, config.one_hot) == (3, False)
  assert (config.window, config.stride) == (None, None)
  assert stub.calls[0][1:] == ('full', 3)
  steps = ('--window', '96', '--stride', '32', '--top-k', 'all')
  assert stub.run('photo.jpg', *steps, out='windows') == 0
  config = stub.configs[-1]
  assert (config.mode, config.window, config.stride) == ('slide', 96, 32)
  assert config.top_k is None


def test_what_is_not_asked_for_is_the_models_own(stub):
  stub.config = dataclasses.replace(stub.config, top_k=None)
  assert stub.run('photo.jpg') == 0
  assert stub.run('photo.jpg', '--top-k', 2, out='gate') == 0
  assert [config.top_k for config in stub.configs] == [None, 2]


def test_templates_of_ones_own(stub):
  own = ('--templates', 'a {}.', '--templates', 'the {}, drawn.')
  assert stub.run('photo.jpg', *own[:2]) == 0
  assert stub.run('photo.jpg', *own, out='two') == 0
  assert [call[1] for call in stub.calls] == [
    'a {}.', ['a {}.', 'the {}, drawn.']
  ]  # fmt: skip


def test_a_name_that_is_not_utf8(stub, capsys):
  name = os.fsdecode(b'caf\xe9.jpg')
  pathlib.Path('photo.jpg').rename(name)
  assert stub.run(name, '--show', 'mask,json') == 0
  path = pathlib.Path('out', os.fsdecode(b'caf\xe9.json'))
  assert json.loads(path.read_text('utf-8'))['image'] == name
  assert 'caf\\udce9_mask.png' in capsys.readouterr().out


def test_results_may_go_where_a_link_points(stub):
  pathlib.Path('disk').mkdir()
  pathlib.Path('out').symlink_to('disk/results')
  assert stub.run('photo.jpg') == 0
  assert stub.run('photo.jpg') == 0
  assert len(stub.seen) == 1
  assert pathlib.Path('disk/results/photo_overlay.png').exists()


def test_a_progress_bar_on_a_terminal(stub, monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setattr('sys.stderr', terminal)
  for i in range(3):
    stub.save(f'a/{i}.jpg')
  pathlib.Path('a/1.jpg').write_text('no image')
  assert stub.run('a') == 1
  assert '3/3' in terminal.getvalue()
  # The line about the bad image stands alone, not behind the bar.
  lines = terminal.getvalue().replace('\r', '\n').splitlines()
  assert 'groupvit: error: a/1.jpg is not an image.' in [
    line.strip() for line in lines
  ]


def test_a_kind_that_fails_stops_neither_the_others_nor_the_images(
  stub, monkeypatch, capsys
):
  monkeypatch.setattr(segment, '_MOST_SCORES', 1000)
  stub.save('other.jpg')
  assert stub.run('photo.jpg', 'other.jpg', '--show', 'mask,scores') == 1
  assert stub.written() == {'photo_mask.png', 'other_mask.png'}
  lines = capsys.readouterr().err.splitlines()
  assert ['more than 8 GB' in line for line in lines] == [True] * 2
