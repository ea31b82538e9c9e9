"""Notebooks, executed as a user runs them."""

import pytest


@pytest.fixture(scope='session')
def execute_notebook(base_environment):
  """Function of a notebook's file and lines behind its cell of parameters.

  It returns the notebook executed; all other cells run as they are committed.
  No stored output may be an error.
  """
  nbclient = pytest.importorskip('nbclient')
  nbformat = pytest.importorskip('nbformat')
  for needed in ('ipykernel', 'matplotlib'):
    pytest.importorskip(needed)

  def execute(path, *lines):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    stored = [output for cell in code for output in cell.outputs]
    assert all(output.output_type != 'error' for output in stored)
    nbformat.validate(notebook)
    (cell,) = [c for c in code if 'parameters' in c.metadata.get('tags', ())]
    cell.source = '\n'.join([cell.source, *lines])
    client = nbclient.NotebookClient(
      notebook,
      timeout=300,
      kernel_name='python3',
      resources={'metadata': {'path': str(path.parent)}},
    )
    client.execute(env=base_environment)
    return notebook

  return execute


@pytest.fixture(scope='session')
def cell_outputs():
  """Function of a notebook and a cell's id: its text, and number of figures."""

  def outputs(notebook, cell_id):
    (cell,) = [c for c in notebook.cells if c.id == cell_id]
    printed = ''.join(o.text for o in cell.outputs if o.get('name') == 'stdout')
    drawn = sum('image/png' in o.get('data', {}) for o in cell.outputs)
    return printed, drawn

  return outputs
