"""The notebooks run from top to bottom, in a shortened form.

What is shortened is their cell of parameters alone; all other cells run as they
are committed.
"""

import pathlib

import pytest
from PIL import Image

from groupvit_jax.convert import folder as model_folder

COLABS = pathlib.Path(__file__).parents[2] / 'colabs'
SHORT = (
  'demo,steps=4,batch=16,examples=96,size=16,patch=4,width=16,depths=1x0,'
  'tokens=4x0,groups=4x0,model.num_heads=2,text.width=16,text.depth=1,'
  'text.num_heads=2,text.context_length=16,joint.embed_dim=16,nouns=1,'
  'eval.examples=8,eval.batch_size=8,run.pictures=2,run.log_every=1,'
  'run.eval_every=2'
)


def test_notebooks_begin_alike_and_keep_small_outputs():
  nbformat = pytest.importorskip('nbformat')
  beginnings = set()
  for path in COLABS.glob('*.ipynb'):
    assert path.stat().st_size < 300_000, path
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == 'code']
    beginnings.add(code[0].source)
    drawn = [
      o for c in code for o in c.outputs if 'image/png' in o.get('data', {})
    ]
    assert drawn or path.stem == 'tpu_and_gpu', path
    assert sum(len(cell.outputs) > 0 for cell in code) > 2, path
  assert len(beginnings) == 1


@pytest.fixture(scope='module')
def run(tmp_path_factory, execute_notebook, tiny_run):
  """The executed notebook and its workdir."""
  folder = tmp_path_factory.mktemp('notebook')
  notebook = execute_notebook(
    COLABS / 'train_scenes.ipynb',
    f'CONFIG = "{tiny_run},data.cache={folder / "cache"}"',
    f'WORKDIR = {str(folder / "run")!r}',
    'NUM_IMAGES = 2',
  )
  return notebook, folder / 'run'


def test_it_trains_with_the_loop_of_the_command(run, cell_outputs):
  notebook, workdir = run
  printed, _ = cell_outputs(notebook, 'train')
  assert 'miou' in printed and '3 steps of 8 images' in printed
  assert (workdir / 'report' / 'index.html').exists()
  steps = sorted(p.stem for p in (workdir / 'snapshots').glob('*.npz'))
  assert [int(step) for step in steps] == [0, 2, 3]


@pytest.mark.parametrize('cell', ['curves', 'forming', 'fresh'])
def test_it_draws(run, cell_outputs, cell):
  assert cell_outputs(run[0], cell)[1] == 1


def test_it_segments_fresh_scenes_with_any_words(run, cell_outputs):
  printed, _ = cell_outputs(run[0], 'words')
  lines = printed.splitlines()
  assert len(lines) == 2
  for line in lines:
    named = line.split('->')[1].strip().split(', ')
    assert set(named) <= {
      'a kitten',
      'a toadstool',
      'a ship',
      'a beach',
      'a lawn',
      'a lake',
    }


def test_a_photo_is_segmented(
  tiny_inference, tmp_path, execute_notebook, cell_outputs
):
  model_folder.write(tmp_path / 'model', tiny_inference.source())
  photo = tmp_path / 'photo.png'
  Image.effect_noise((40, 30), 60).convert('RGB').save(photo)
  notebook = execute_notebook(
    COLABS / 'segment_photo.ipynb',
    f'MODEL, PHOTO = {str(tmp_path / "model")!r}, {str(photo)!r}',
    f'import os; os.environ["XDG_CACHE_HOME"] = {str(tmp_path)!r}',
    f'ROOT = pathlib.Path({str(tmp_path)!r}); (ROOT / "runs").mkdir()',
  )
  for cell in ('segment', 'again', 'threshold', 'groups'):
    assert cell_outputs(notebook, cell)[1] == 1, cell
  assert '% of the image' in cell_outputs(notebook, 'segment')[0]
  assert (tmp_path / 'runs' / 'mask.png').exists()


@pytest.mark.slow
def test_own_pairs_are_converted_trained_and_measured(
  tmp_path, execute_notebook, cell_outputs
):
  options = SHORT.replace('steps=4', 'steps=2').replace('examples=96,', '')
  notebook = execute_notebook(
    COLABS / 'your_data.ipynb',
    f'WORK, PAIRS, SIZE = pathlib.Path({str(tmp_path)!r}), 60, 16',
    f'OPTIONS = {options!r}',
  )
  assert 'looked at: 60' in cell_outputs(notebook, 'inspect')[0]
  assert '60 pairs in 1 shards' in cell_outputs(notebook, 'convert')[0]
  assert cell_outputs(notebook, 'use')[1] == 1
  assert 'miou' in cell_outputs(notebook, 'measure')[0].lower()


@pytest.mark.slow
def test_losses_are_equal_on_one_and_on_eight_devices(
  tmp_path, execute_notebook, cell_outputs
):
  notebook = execute_notebook(
    COLABS / 'tpu_and_gpu.ipynb',
    f'WORK = pathlib.Path({str(tmp_path)!r})',
    f'OPTIONS = {SHORT + ",eval.source="!r}',
  )
  printed, _ = cell_outputs(notebook, 'run')
  rows = [list(map(float, line.split())) for line in printed.splitlines()]
  assert len(rows) == 4
  assert all(abs(one - eight) < 1e-3 for one, eight in rows)
  assert cell_outputs(notebook, 'speed')[0].count('images/s') == 3
