"""The groups of a finished run while they formed, as one PNG.

  python benchmarks/forming.py runs/demo --out docs/images/forming.png

Every validation picture has two lines: its final groups and the classes they
were given, at the steps of the run's snapshots; then the truth.
"""

import argparse
import functools
import json
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from groupvit_jax.data import sources
from groupvit_jax.viz import overlay
from groupvit_jax.viz.colours import palette

SIDE, GAP, HEAD = 112, 6, 22  # pixels


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('workdir', type=pathlib.Path, help='of a run on scenes')
  parser.add_argument('--out', type=pathlib.Path, required=True, help='a PNG')
  parser.add_argument('--pictures', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--columns', type=int, default=6, help='steps shown')
  args = parser.parse_args()
  steps = snapshots(args.workdir, args.columns)
  rows = [
    row for i in args.pictures for row in picture_rows(args.workdir, i, steps)
  ]
  heads = ['picture', *(f'step {step:,}' for step in steps), 'truth']
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_bytes(overlay.png_bytes(sheet(heads, rows)))


def snapshots(workdir: pathlib.Path, count: int) -> list[int]:
  """Steps of the run, evenly chosen, the first and the last among them."""
  steps = sorted(int(p.stem) for p in (workdir / 'snapshots').glob('*.npz'))
  chosen = np.linspace(0, len(steps) - 1, min(count, len(steps)))
  return [steps[round(i)] for i in chosen]


def picture_rows(workdir: pathlib.Path, index: int, steps: list[int]):
  """Two rows of pictures: groups, and the names they were given."""
  example = validation(workdir)[index]
  image, truth = (np.asarray(example[key]) for key in ('image', 'mask'))
  colours = palette(256)

  def over(labels):
    return overlay.overlay(image, labels, colours, min_side=SIDE)

  shown = [np.load(workdir / 'snapshots' / f'{s:08d}.npz') for s in steps]
  blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
  return (
    [
      overlay.enlarge(image, SIDE),
      *(over(arrays['final_groups'][index]) for arrays in shown),
      blank,
    ],
    [blank, *(over(a['prediction'][index]) for a in shown), over(truth)],
  )


@functools.cache
def validation(workdir: pathlib.Path):
  """The validation pictures as the run read them: from disk, by TFDS."""
  config = json.loads((workdir / 'config.json').read_text())
  data = config['data']
  size = config['image_size']
  on_disk = sources.scenes_tfds(
    'validation',
    config['eval']['examples'],
    size,
    data['seed'],
    data_dir=pathlib.Path(data['cache']).expanduser(),
  )
  return sources.InMemory(on_disk, size, progress=False)


def sheet(heads: list[str], rows: list[list[np.ndarray]]) -> np.ndarray:
  """Lays pictures of one size out under their heads."""
  side = rows[0][0].shape[0]
  width = len(heads) * (side + GAP) + GAP
  canvas = Image.new('RGB', (width, HEAD + len(rows) * (side + GAP)), 'white')
  draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
  for x, head in enumerate(heads):
    draw.text((GAP + x * (side + GAP), 3), head, fill='black', font=font)
    for y, row in enumerate(rows):
      at = GAP + x * (side + GAP), HEAD + y * (side + GAP)
      canvas.paste(Image.fromarray(row[x]), at)
  return np.asarray(canvas)


if __name__ == '__main__':
  main()
