"""The notebook on CLIP runs from top to bottom, in a shortened form."""

import functools
import pathlib

import pytest

from groupvit_jax import scenes

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'colabs' / 'clip.ipynb'
SHORT = (
  'demo,steps=2,batch=8,examples=24,size=16,patch=8,width=16,model.depth=1,'
  'text.width=16,text.context_length=16,joint.embed_dim=8,eval.source=,'
  'matmul_operands=float32'
)


@pytest.fixture(scope='module')
def outputs(tmp_path_factory, execute_notebook, cell_outputs):
  """Function of a cell's id: its text, and the number of its figures."""
  folder = tmp_path_factory.mktemp('notebook')
  notebook = execute_notebook(
    NOTEBOOK,
    f'CONFIG = "{SHORT},data.cache={folder / "cache"}"',
    f'MODEL = pathlib.Path({str(folder / "run")!r})',
    'IMAGES, SIDE, SHOTS = 20, 32, ()',
  )
  return functools.partial(cell_outputs, notebook)


def test_it_names_a_photo_compares_prompts_and_probes(outputs):
  assert 'clip_vit' in outputs('train')[0]
  word, figures = outputs('words')
  assert word.split()[0] in scenes.THINGS
  assert figures == 1
  rows = outputs('templates')[0].splitlines()
  assert [row.split()[0] for row in rows] == ['simple', 'subset', 'full']
  assert outputs('probe')[1] == 1 and 'probe' in outputs('probe')[0]
