"""The first notebook runs from top to bottom, in a shortened form.

What is shortened is its cell of parameters alone; all other cells run as they
are committed.
"""

import pathlib

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'colabs' / 'train_scenes.ipynb'
SHORT = (
  'demo,steps=4,batch=16,examples=96,size=16,patch=4,width=16,depths=1x0,'
  'tokens=4x0,groups=4x0,model.num_heads=2,text.width=16,text.depth=1,'
  'text.num_heads=2,text.context_length=16,joint.embed_dim=16,nouns=1,'
  'eval.examples=8,eval.batch_size=8,run.pictures=2,run.log_every=1,'
  'run.eval_every=2'
)


@pytest.fixture(scope='module')
def run(tmp_path_factory, execute_notebook):
  """The executed notebook and its workdir."""
  folder = tmp_path_factory.mktemp('notebook')
  notebook = execute_notebook(
    NOTEBOOK,
    f'CONFIG = "{SHORT},data.cache={folder / "cache"}"',
    f'WORKDIR = {str(folder / "run")!r}',
    'NUM_PICTURES = 2',
  )
  return notebook, folder / 'run'


def test_it_trains_with_the_loop_of_the_command(run, cell_outputs):
  notebook, workdir = run
  printed, _ = cell_outputs(notebook, 'train')
  assert 'miou' in printed and '4 steps of 16 images' in printed
  assert (workdir / 'report' / 'index.html').exists()
  steps = sorted(p.stem for p in (workdir / 'snapshots').glob('*.npz'))
  assert [int(step) for step in steps] == [0, 2, 4]


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
