"""The first notebook runs from top to bottom, in a shortened form.

What is shortened is its cell of parameters alone; all other cells run as they
are committed.
"""

import os
import pathlib

import pytest

nbclient = pytest.importorskip('nbclient')
nbformat = pytest.importorskip('nbformat')
for needed in ('ipykernel', 'matplotlib'):
  pytest.importorskip(needed)

ROOT = pathlib.Path(__file__).parents[1].parent
NOTEBOOK = ROOT / 'colabs' / 'train_scenes.ipynb'

SHORT = (
  'demo,steps=4,batch=16,examples=96,size=16,patch=4,width=16,depths=1x0,'
  'tokens=4x0,groups=4x0,model.num_heads=2,text.width=16,text.depth=1,'
  'text.num_heads=2,text.context_length=16,joint.embed_dim=16,nouns=1,'
  'eval.examples=8,eval.batch_size=8,run.pictures=2,run.log_every=1,'
  'run.eval_every=2'
)


@pytest.fixture(scope='module')
def committed():
  return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The executed notebook and its workdir."""
  folder = tmp_path_factory.mktemp('notebook')
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  (cell,) = tagged(notebook, 'parameters')
  cell.source = '\n'.join(
    [
      cell.source,
      f'CONFIG = "{SHORT},data.cache={folder / "cache"}"',
      f'WORKDIR = {str(folder / "run")!r}',
      'NUM_PICTURES = 2',
    ]
  )
  environment = os.environ | {
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
    # One device, compiled quickly: what takes the time here is compiling.
    'XLA_FLAGS': '--xla_backend_optimization_level=0 '
    '--xla_llvm_disable_expensive_passes=true',
  }
  client = nbclient.NotebookClient(
    notebook,
    timeout=300,
    kernel_name='python3',
    resources={'metadata': {'path': str(NOTEBOOK.parent)}},
  )
  client.execute(env=environment)
  return notebook, folder / 'run'


def tagged(notebook, tag: str) -> list:
  return [c for c in notebook.cells if tag in c.metadata.get('tags', ())]


def outputs(notebook, cell_id: str) -> tuple[str, int]:
  """What a cell printed, and how many figures it drew."""
  (cell,) = [c for c in notebook.cells if c.id == cell_id]
  printed = ''.join(o.text for o in cell.outputs if o.get('name') == 'stdout')
  drawn = sum('image/png' in o.get('data', {}) for o in cell.outputs)
  return printed, drawn


def test_it_is_committed_without_outputs(committed):
  code = [cell for cell in committed.cells if cell.cell_type == 'code']
  assert not any(cell.outputs or cell.execution_count for cell in code)
  nbformat.validate(committed)


def test_it_trains_with_the_loop_of_the_command(run):
  notebook, workdir = run
  printed, _ = outputs(notebook, 'train')
  assert 'miou' in printed and '4 steps of 16 images' in printed
  assert (workdir / 'report' / 'index.html').exists()
  steps = sorted(p.stem for p in (workdir / 'snapshots').glob('*.npz'))
  assert [int(step) for step in steps] == [0, 2, 4]


@pytest.mark.parametrize('cell', ['curves', 'forming', 'fresh'])
def test_it_draws(run, cell):
  assert outputs(run[0], cell)[1] == 1


def test_it_segments_fresh_scenes_with_any_words(run):
  printed, _ = outputs(run[0], 'words')
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
