"""The notebook on CLIP runs from top to bottom, in a shortened form."""

import os
import pathlib

import pytest

nbclient = pytest.importorskip('nbclient')
nbformat = pytest.importorskip('nbformat')
for needed in ('ipykernel', 'matplotlib'):
  pytest.importorskip(needed)

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOK = ROOT / 'colabs' / 'clip.ipynb'
SHORT = (
  'demo,steps=2,batch=8,examples=24,size=16,patch=8,width=16,model.depth=1,'
  'text.width=16,text.context_length=16,joint.embed_dim=8,eval.source=,'
  'matmul_operands=float32'
)


@pytest.fixture(scope='module')
def printed(tmp_path_factory):
  """What each cell printed, and how many figures it drew, by its id."""
  folder = tmp_path_factory.mktemp('notebook')
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert not any(cell.outputs or cell.execution_count for cell in code)
  nbformat.validate(notebook)
  (cell,) = [c for c in code if 'parameters' in c.metadata.get('tags', ())]
  cell.source += (
    f'\nCONFIG = "{SHORT},data.cache={folder / "cache"}"'
    f'\nMODEL = pathlib.Path({str(folder / "run")!r})'
    '\nIMAGES, SHOTS = 40, ()'
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
  return {
    cell.id: (
      ''.join(o.text for o in cell.outputs if o.get('name') == 'stdout'),
      sum('image/png' in o.get('data', {}) for o in cell.outputs),
    )
    for cell in code
  }


def test_it_names_a_photo_compares_prompts_and_probes(printed):
  assert 'clip_vit' in printed['train'][0]
  word, figures = printed['words']
  assert word.strip() in ('apple', 'ball', 'boat', 'cat', 'fish', 'flower')
  assert figures == 1
  rows = printed['templates'][0].splitlines()
  assert [row.split()[0] for row in rows] == ['simple', 'subset', 'full']
  assert printed['probe'][1] == 1 and 'probe' in printed['probe'][0]
