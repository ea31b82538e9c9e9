"""The `groupvit` command with a real, tiny model."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from groupvit_jax import cli
from groupvit_jax.convert import folder as model_folder

LABELS = ['--labels', 'a red thing|a rose,grass,the sky']


@pytest.fixture(scope='module')
def model(tiny_inference, tmp_path_factory):
  """A model folder."""
  folder = tmp_path_factory.mktemp('models') / 'tiny'
  return model_folder.write(folder, tiny_inference.source())


def noise(size=(60, 40)) -> Image.Image:
  large = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
  return Image.fromarray(large).resize(size, Image.Resampling.BICUBIC)


def segment(model, *args) -> int:
  argv = ['segment', *map(str, args), '--model', str(model)]
  return cli.main([*argv, '--out', 'out', *LABELS])


def test_images_that_are_turned_or_move(model, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  turned = noise()
  turned.getexif()[0x0112] = 6
  turned.save('turned.jpg', exif=turned.getexif())
  frames = [noise(), noise().rotate(180)]
  frames[0].save('moving.gif', save_all=True, append_images=frames[1:])
  assert segment(model, 'turned.jpg', 'moving.gif', '--show', 'mask') == 0
  lines = capsys.readouterr().err.splitlines()
  assert all(line.startswith('groupvit: warning: ') for line in lines)
  (warned,) = (line for line in lines if 'is unsure' not in line)
  assert 'moving.gif' in warned and 'frame' in warned
  assert Image.open('out/moving_mask.png').size == (60, 40)
  assert Image.open('out/turned_mask.png').size == (40, 60)


def test_what_is_written_belongs_together(model, tmp_path, monkeypatch):
  coco = pytest.importorskip('pycocotools.mask', reason='decodes the masks')
  monkeypatch.chdir(tmp_path)
  noise((90, 50)).save('photo.png')
  kinds = 'overlay,mask,pred,groups,scores,json'
  assert segment(model, 'photo.png', '--show', kinds, '--background', '.4') == 0
  labels = np.asarray(Image.open('out/photo_mask.png'))
  with np.load('out/photo_scores.npz') as file:
    scores, names = file['scores'], list(file['names'])
  assert names == ['background', 'a red thing', 'grass', 'the sky']
  np.testing.assert_array_equal(scores.argmax(0), labels)
  got = json.loads(pathlib.Path('out/photo.json').read_text())
  assert [c['id'] for c in got['classes']] == np.unique(labels).tolist()
  for found in got['classes']:
    mask = labels == found['id']
    np.testing.assert_array_equal(coco.decode(found['rle']), mask)
    assert found['area'] == mask.sum()
    assert found['box'] == coco.toBbox(found['rle']).tolist()
    if found['id']:
      mean = scores[found['id']][mask].mean()
      assert found['score'] == pytest.approx(mean, abs=1e-5)
  for name in ('overlay', 'pred', 'groups_1', 'groups_2'):
    assert Image.open(f'out/photo_{name}.png').mode == 'RGB'


def test_very_wide_images(model, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  Image.new('L', (6000, 200), 90).save('wide.jpg')
  assert segment(model, 'wide.jpg', '--show', 'mask,overlay') == 0
  assert Image.open('out/wide_mask.png').size == (6000, 200)
  assert Image.open('out/wide_overlay.png').width <= 4096
  # Too low for a single token once its length is scaled down.
  Image.new('L', (30_000, 40), 90).save('line.png')
  capsys.readouterr()
  assert segment(model, 'line.png') == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('groupvit: error: line.png is 30,000 x 40 pixels')


def test_classify_and_info(model, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  noise().save('photo.png')
  argv = ['classify', 'photo.png', '--model', str(model), '--json', *LABELS]
  assert cli.main(argv) == 0
  shares = json.loads(capsys.readouterr().out)['classes']
  assert set(shares) == {'a red thing', 'grass', 'the sky'}
  assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
  assert cli.main(['info', str(model)]) == 0
  assert '49408' in capsys.readouterr().out.replace(',', '')


@pytest.mark.parametrize('broken', ['missing', 'half', 'empty'])
def test_models_that_cannot_be_read(
  model, tmp_path, monkeypatch, capsys, broken
):
  monkeypatch.chdir(tmp_path)
  noise().save('photo.png')
  folder = tmp_path / 'model'
  if broken != 'missing':
    folder.mkdir()
  if broken == 'half':
    (folder / 'config.json').write_bytes((model / 'config.json').read_bytes())
    weights = (model / 'model.safetensors').read_bytes()
    (folder / 'model.safetensors').write_bytes(weights[: len(weights) // 2])
  for argv in (
    ['segment', 'photo.png', '--out', 'out', '--model', str(folder), *LABELS],
    ['info', str(folder)],
    ['convert', str(folder), 'converted'],
  ):
    assert cli.main(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('groupvit: error: ')
    assert 'model' in line
  assert not pathlib.Path('out').exists()
  assert not pathlib.Path('converted').exists()
