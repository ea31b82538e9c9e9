"""Executes notebooks and keeps their outputs, pictures with few colours.

  python colabs/execute.py colabs/clip.ipynb

Minutes each. The tests run them in a short form and keep nothing.
"""

import argparse
import base64
import io
import os
import pathlib
import re

import nbclient
import nbformat
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
COLOURS = 96  # of a picture
# TensorFlow tells of oneDNN on stderr, which a notebook would keep.
QUIET = {'TF_CPP_MIN_LOG_LEVEL': '2', 'TF_ENABLE_ONEDNN_OPTS': '0'}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('notebook', type=pathlib.Path, nargs='+')
  for path in parser.parse_args().notebook:
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
      notebook, timeout=None, resources={'metadata': {'path': str(ROOT)}}
    )
    client.execute(env=os.environ | {'PYTHONPATH': str(ROOT)} | QUIET)
    for cell in notebook.cells:
      cell.metadata.pop('execution', None)
      if cell.cell_type == 'code':
        cell.outputs = merged(cell.outputs)
    notebook.metadata.get('language_info', {}).pop('version', None)
    nbformat.write(notebook, path)
    print(f'{path}: {path.stat().st_size / 1e3:.0f} kB')


def merged(outputs: list) -> list:
  """Outputs without this machine's folders; a stream is one output."""
  kept = []
  for output in outputs:
    if 'image/png' in output.get('data', {}):
      output.data = {'image/png': smaller(output.data['image/png'])}
    stream = output.output_type == 'stream' and output.name
    if stream and kept and kept[-1].get('name') == stream:
      kept[-1].text += output.text
    else:
      kept.append(output)
  for output in kept:
    if output.output_type == 'stream':
      text = re.sub(f'{ROOT}/?', '', output.text)
      # What a progress bar has overwritten is gone, as on a screen.
      output.text = re.sub(r'[^\n]*\r(?!\n)', '', text)
  return kept


def smaller(content: str) -> str:
  """A PNG in base64, with a palette."""
  picture = Image.open(io.BytesIO(base64.b64decode(content))).convert('RGB')
  file = io.BytesIO()
  picture.quantize(COLOURS).save(file, 'PNG', optimize=True)
  return base64.b64encode(file.getvalue()).decode()


if __name__ == '__main__':
  main()
