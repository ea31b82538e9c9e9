"""Groups of a finished run while they formed, and their classes, as one PNG.

  python benchmarks/forming.py runs/demo --out docs/images/forming.png

A row for each validation scene: the scene, its groups before and after
training, its classes at some of the steps that the run kept, and the ground
truth.
"""

import argparse
import json
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from groupvit_jax import scenes
from groupvit_jax.viz import colours, names, overlay

SIDE, GAP, HEAD, FONT = 144, 6, 24, 14  # pixels


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('workdir', type=pathlib.Path, help='of a run on scenes')
  parser.add_argument('--out', type=pathlib.Path, required=True, help='a PNG')
  parser.add_argument('--scenes', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--columns', type=int, default=3, help='steps shown')
  args = parser.parse_args()
  steps = sorted(
    int(path.stem) for path in (args.workdir / 'snapshots').glob('*.npz')
  )
  # Early steps change most.
  chosen = np.geomspace(1, len(steps), args.columns).round().astype(int) - 1
  steps = [steps[i] for i in sorted(set(chosen))]
  shown = [
    dict(np.load(args.workdir / 'snapshots' / f'{step:08d}.npz'))
    for step in steps
  ]
  heads = ['scene', 'groups, step 0', f'groups, step {steps[-1]:,}']
  heads += [f'classes, step {step:,}' for step in steps]
  rows, seen = [], set()
  for index in args.scenes:
    row, classes = scene_row(args.workdir, index, shown)
    rows.append(row)
    seen |= classes
  args.out.parent.mkdir(parents=True, exist_ok=True)
  picture = sheet([*heads, 'ground truth'], rows)
  table = colours.class_colours(scenes.CLASS_NAMES)
  items = [(scenes.CLASS_NAMES[i], '', table[i]) for i in sorted(seen)]
  legend = names.legend_strip(items, picture.shape[1], FONT)
  picture = Image.fromarray(np.concatenate([picture, legend]))
  picture.quantize(256).save(args.out, optimize=True)  # a third of the bytes


def scene_row(
  workdir: pathlib.Path, index: int, shown: list[dict[str, np.ndarray]]
) -> tuple[list[np.ndarray], set[int]]:
  """Pictures of a validation scene, and the classes in them."""
  scene = scene_of(workdir, index)
  table = colours.class_colours(scenes.CLASS_NAMES)
  classes = [arrays['prediction'][index] for arrays in shown] + [scene.mask]
  over = [
    overlay.groups_overlay(scene.image, arrays['final_groups'][index])
    for arrays in (shown[0], shown[-1])
  ] + [overlay.overlay(scene.image, labels, table) for labels in classes]
  over = [np.asarray(Image.fromarray(x).resize((SIDE, SIDE))) for x in over]
  return [scene.image, *over], {
    *np.unique([overlay.fit(x, scene.mask.shape) for x in classes]).tolist()
  }


def scene_of(workdir: pathlib.Path, index: int) -> scenes.Scene:
  """A validation scene of the run, at the size of the picture."""
  config = json.loads((workdir / 'config.json').read_text())
  seed = scenes.split_seed('validation', config['data']['seed'])
  # The same scene at any size.
  return scenes.generate(seed, index, SIDE)


def sheet(heads: list[str], rows: list[list[np.ndarray]]) -> np.ndarray:
  """Lays pictures of one size out under their heads."""
  size = (len(heads) * (SIDE + GAP) + GAP, HEAD + len(rows) * (SIDE + GAP))
  canvas = Image.new('RGB', size, 'white')
  draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=FONT)
  for x, head in enumerate(heads):
    left = GAP + x * (SIDE + GAP)
    draw.text((left, 3), head, fill='black', font=font)
    for y, row in enumerate(rows):
      canvas.paste(Image.fromarray(row[x]), (left, HEAD + y * (SIDE + GAP)))
  return np.asarray(canvas)


if __name__ == '__main__':
  main()
