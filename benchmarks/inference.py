"""Segmentation from file to labels, beside transformers' GroupViT in PyTorch.

  python benchmarks/inference.py
  python benchmarks/inference.py --cold

Both sides load the same folder (a full-size GroupViT-S with random weights) and
take turns on the same pictures; text embeddings are at hand on both. The peer
is in `inference_peer.py`. `--cold` instead times `groupvit segment` on one
photo in processes of their own, with an empty and with a full compilation
cache. The printed tables are those of RESULTS.md.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata

import demo
import inference_peer
import jax
import jax.numpy as jnp
import numpy as np
import torch
from PIL import Image, ImageDraw

import groupvit_jax
from groupvit_jax import convert
from groupvit_jax import files as files_lib
from groupvit_jax.data import images, on_device
from groupvit_jax.evaluation import sizes
from groupvit_jax.text import make_tokenizer, prompts

NAMES = (
  *('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat'),
  *('chair', 'cow', 'table', 'dog', 'horse', 'motorbike', 'person', 'plant'),
  *('sheep', 'sofa', 'train', 'monitor'),
)
SIDE = 640  # of the pictures, in pixels
THRESHOLD = 0.95
TURN = 1.0  # seconds, but one call at least
PAUSE = 0.2  # seconds in which the other side's threads fall asleep
PRODUCTS = ((2048, 2048, 2048), (848, 384, 1536))


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--sizes', type=int, nargs='+', default=[224, 448])
  parser.add_argument('--batches', type=int, nargs='+', default=[1, 8, 32])
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--threads', type=int, help='default: all cores')
  parser.add_argument('--cold', action='store_true')
  parser.add_argument('--workdir', type=pathlib.Path, default='runs/inference')
  args = parser.parse_args()
  if args.threads:
    # XLA takes as many threads as there are cores to run on; torch is told.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    torch.set_num_threads(args.threads)
  folder, paths = prepare(args.workdir.resolve(), max(args.batches))
  if os.getloadavg()[0] > 0.5:
    log(['others are computing here: with more than one thread torch then'])
    log(['waits many times as long for its own, and ratios mean nothing'])
  print(environment(), '\n', sep='')
  if args.cold:
    cold(folder, args.rounds)
    return
  cache = args.workdir.resolve() / 'compiled'
  timings, splits, agreements = [], [], []
  for dtype in dtypes():
    model = load(folder, dtype, cache)
    for size in args.sizes:
      pair = Pair(model, folder, size, dtype)
      agreements.append((dtype, size, *pair.agreement(paths)))
      for batch in args.batches:
        seconds, equal = pair.measure(paths[:batch], args.rounds)
        timings.append((dtype, size, batch, *speeds(seconds, batch), equal))
        splits += split(seconds, dtype, size, batch, pair.flops)
        log(timings[-1])
  print_tables(timings, splits, agreements, products(args.rounds))


class Pair:
  """Both sides for one size of input.

  Attributes:
    flops: floating-point operations of the network for one picture.
  """

  def __init__(self, model, folder, size: int, dtype: str):
    self._model = model
    self._config = groupvit_jax.SegmentConfig(
      background_threshold=THRESHOLD, short_side=size
    )
    self._plan = sizes.plan(
      self._config, size, model.architecture['image']['patch_size']
    )
    device = 'cpu' if jax.default_backend() == 'cpu' else 'cuda'
    self._peer = inference_peer.Peer(folder, size, dtype, device, THRESHOLD)
    self._text = self._peer.encode_text(tokens())

    def network(variables, images):
      images = on_device.normalize(images)
      return model.module.apply(variables, images, method='encode_regions')

    self._network = jax.jit(network)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    compiled = self._network.lower(model.variables, image).compile()
    self.flops = compiled.cost_analysis()['flops']

  def agreement(self, paths) -> tuple:
    """How far both differ when they see the same scaled pixels."""
    paths = paths[:8]
    scaled = self._files(paths)
    ours = jax.device_get(self._network(self._model.variables, scaled))
    theirs = self._peer.network(_channels_first(scaled))
    results = self._segment(paths)
    labels = self._peer.decide(theirs, self._text, [(SIDE, SIDE)] * len(paths))
    # Class 0 of a table is the background, which theirs has not.
    # Padding of the classes is left out as well.
    tables = np.stack(
      [r.region_scores.classes[0, 0, :, 1 : len(r.names)] for r in results]
    )
    scores = self._peer.scores(theirs, self._text).cpu().numpy()
    first = theirs['stages'][0].float().cpu().numpy().argmax(1)
    assigned = ours['stages'][0].argmax(-1).reshape(first.shape)
    found = [len(r.areas()) for r in results]
    texts = [prompts.fill('a photo of a {}.', name) for name in NAMES]
    return (
      _difference(self._model.encode_text(texts), self._text),
      _difference(ours['image'], theirs['image']),
      _difference(ours['embeddings'], theirs['embeddings']),
      _difference(tables, scores),
      f'{int((assigned != first).sum())} of {first.size:,}',
      _equal([r.labels for r in results], labels),
      f'{min(found)} to {max(found)}',
    )

  def measure(self, paths, rounds: int) -> tuple[dict, str]:
    """Seconds by (side, part) of each round, and the share of equal labels."""
    scaled = self._files(paths)
    pixels = _channels_first(scaled)
    calls = {
      ('ours', 'all'): lambda: [r.labels for r in self._segment(paths)],
      ('theirs', 'all'): lambda: self._peer.segment(paths, self._text),
      ('ours', 'files'): lambda: self._files(paths),
      ('theirs', 'files'): lambda: self._peer.files(paths),
      ('ours', 'network'): lambda: self._network(self._model.variables, scaled),
      ('theirs', 'network'): lambda: self._peer.network(pixels),
    }
    # The first calls compile, and are not timed.
    results = {key: wait(call()) for key, call in calls.items()}
    equal = _equal(results['ours', 'all'], results['theirs', 'all'])
    del results
    seconds = {key: [] for key in calls}
    for i in range(rounds):
      for key in list(calls) if i % 2 == 0 else reversed(calls):
        seconds[key].append(turn(calls[key]))
    return seconds, equal

  def _segment(self, paths):
    return self._model.segment(
      paths, NAMES, self._config, batch_size=len(paths)
    )

  def _files(self, paths):
    chunks = files_lib.ahead(
      lambda path: sizes.prepare(images.open_image(path), self._plan).scaled,
      paths,
      len(paths),
    )
    return np.stack(next(chunks))


def turn(call) -> float:
  """Seconds of a call: the median over a turn."""
  time.sleep(PAUSE)
  seconds, end = [], time.perf_counter() + TURN
  while not seconds or time.perf_counter() < end:
    begin = time.perf_counter()
    wait(call())
    seconds.append(time.perf_counter() - begin)
  return statistics.median(seconds)


def wait(result):
  """Returns the result once it has been computed."""
  if torch.cuda.is_available():
    torch.cuda.synchronize()
  return jax.block_until_ready(result)


def speeds(seconds: dict, batch: int) -> list[str]:
  """Cells of a case: times and throughputs of both, and their ratio."""
  ours, theirs = seconds['ours', 'all'], seconds['theirs', 'all']
  ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
  medians = [statistics.median(x) for x in (ours, theirs)]
  return [
    *(f'{1e3 * x:.0f}' for x in medians),
    *(f'{batch / x:.2f}' for x in medians),
    f'**{statistics.median(ratios):.2f}**',
    f'{min(ratios):.2f} to {max(ratios):.2f}',
  ]


def split(seconds: dict, dtype, size, batch, flops) -> list[tuple]:
  """Rows of a case: where each side's milliseconds for a picture go."""
  rows = []
  for side, name in (('ours', 'groupvit_jax'), ('theirs', 'transformers')):
    total, files, network = (
      statistics.median(seconds[side, part]) / batch
      for part in ('all', 'files', 'network')
    )
    parts = total, files, network, total - files - network
    cells = [f'{1e3 * x:.1f}' for x in parts]
    rate = f'{flops / network / 1e9:.0f}'
    rows.append((dtype, size, batch, name, *cells, rate))
  return rows


def products(rounds: int) -> list[tuple]:
  """Rates of float32 matrix products, in turns."""
  rows = []
  rng = np.random.default_rng(0)
  product = jax.jit(jnp.matmul)
  device = 'cpu' if jax.default_backend() == 'cpu' else 'cuda'
  for m, k, n in PRODUCTS:
    a, b = (rng.random(s, np.float32) for s in ((m, k), (k, n)))
    ours = [jnp.asarray(x) for x in (a, b)]
    theirs = [torch.from_numpy(x).to(device) for x in (a, b)]
    calls = (
      lambda ours=ours: product(*ours),
      lambda theirs=theirs: torch.matmul(*theirs),
    )
    rates = [[], []]
    for _ in range(rounds):
      for call, found in zip(calls, rates, strict=True):
        wait(call())
        found.append(2 * m * k * n / turn(call) / 1e9)
    jax_rate, torch_rate = map(statistics.median, rates)
    rows.append(
      (
        f'{m} x {k} x {n}',
        f'{jax_rate:.0f}',
        f'{torch_rate:.0f}',
        f'{jax_rate / torch_rate:.2f}',
      )
    )
  return rows


def cold(folder: pathlib.Path, rounds: int) -> None:
  """Prints seconds of `groupvit segment` on one photo, new processes each."""
  first, second = [], []
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    model, photo = scratch / 'model', scratch / 'photo.jpg'
    convert.convert(folder, model)
    draw(0, (480, 640)).save(photo, quality=90)
    for i in range(rounds):
      environ = dict(os.environ, XDG_CACHE_HOME=str(scratch / f'cache{i}'))
      environ.pop('JAX_COMPILATION_CACHE_DIR', None)
      for seconds in (first, second):
        out = scratch / 'out'
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, '-m', 'groupvit_jax', 'segment', photo]
        command += ['--model', model, '--labels', ','.join(NAMES)]
        begin = time.perf_counter()
        subprocess.run(
          [*command, '--out', out],
          check=True,
          env=environ,
          stdout=subprocess.DEVNULL,
        )
        seconds.append(time.perf_counter() - begin)
      log((i, first[-1], second[-1]))
  print_table(
    ('`groupvit segment`, one photo of 640 x 480', 'median s', 'range'),
    [
      (name, f'{statistics.median(x):.2f}', f'{min(x):.2f} to {max(x):.2f}')
      for name, x in (
        ('first run (nothing compiled)', first),
        ('second run', second),
      )
    ],
  )


def prepare(workdir: pathlib.Path, count: int):
  """The model's folder and `count` pictures, written if they are not there."""
  paths = []
  (workdir / 'pictures').mkdir(parents=True, exist_ok=True)
  for i in range(max(count, 8)):
    paths.append(str(workdir / 'pictures' / f'{i}.jpg'))
    if not os.path.exists(paths[-1]):
      draw(i, (SIDE, SIDE)).save(paths[-1], quality=90)
  folder = workdir / 'groupvit'
  if not (folder / 'model.safetensors').exists():
    pictures = [Image.open(path).resize((224, 224)) for path in paths[:8]]
    inference_peer.write_random(folder, np.stack(pictures), tokens())
  return folder, paths[:count]


def draw(seed: int, size: tuple[int, int]) -> Image.Image:
  """A picture [h, w] of a few coloured, grainy shapes before a gradient."""
  rng = np.random.default_rng(seed)
  height, width = size
  corners = rng.integers(0, 256, (2, 2, 3), np.uint8)
  image = Image.fromarray(corners).resize((width, height), Image.BICUBIC)
  pen = ImageDraw.Draw(image)
  for _ in range(12):
    x, y = rng.integers(0, width), rng.integers(0, height)
    w, h = rng.integers(height // 16, height // 2, 2)
    shape = pen.ellipse if rng.random() < 0.5 else pen.rectangle
    shape(
      (x - w // 2, y - h // 2, x + w // 2, y + h // 2),
      tuple(rng.integers(0, 256, 3).tolist()),
    )
  grain = rng.normal(0, 12, (height, width, 1))
  pixels = np.clip(np.asarray(image) + grain, 0, 255)
  return Image.fromarray(pixels.astype(np.uint8))


def tokens() -> np.ndarray:
  """Token rows of the prompts."""
  texts = [prompts.fill('a photo of a {}.', name) for name in NAMES]
  return np.asarray(make_tokenizer('clip', 77)(texts))


def load(folder: pathlib.Path, dtype: str, cache: pathlib.Path):
  """Our side. On a CPU bfloat16 is that of operands, summed in float32."""
  if jax.default_backend() != 'cpu':
    return groupvit_jax.load(folder, dtype=dtype, compilation_cache=cache)
  return groupvit_jax.load(
    folder, matmul_operands=dtype, compilation_cache=cache
  )


def dtypes() -> list[str]:
  """What is measured here.

  Full float32 on both sides: by default JAX shortens products on a GPU. In
  bfloat16 the peer computes everything so.
  """
  on_gpu = jax.default_backend() != 'cpu'
  if on_gpu != torch.cuda.is_available():
    sys.exit(
      'only one of jax and torch sees a GPU; install both for it, or set '
      'JAX_PLATFORMS=cpu and CUDA_VISIBLE_DEVICES= to measure the CPU'
    )
  if on_gpu:
    jax.config.update('jax_default_matmul_precision', 'highest')
    torch.backends.cudnn.allow_tf32 = False
  return ['float32', 'bfloat16']


def environment() -> str:
  """What the figures are measured on."""
  versions = ', '.join(
    f'{name} {metadata.version(name)}' for name in ('torch', 'transformers')
  )
  device = jax.devices()[0].device_kind
  return (
    f'{demo.environment()}, {versions} ({torch.get_num_threads()} threads, '
    f'{torch.backends.cpu.get_cpu_capability()}); device {device}; pictures of '
    f'{SIDE} x {SIDE}, {len(NAMES)} names, threshold {THRESHOLD}; the peer '
    f'resizes by {inference_peer.RESIZER}; load {os.getloadavg()[0]:.1f}'
  )


def print_tables(timings, splits, agreements, rates) -> None:
  case = 'dtype', 'px', 'batch'
  print_table(
    (
      *case,
      'groupvit_jax ms',
      'transformers ms',
      'images/s',
      'theirs',
      'ratio',
      'in rounds',
      'equal pixels',
    ),
    timings,
  )
  print('Where the milliseconds of a picture go:\n')
  print_table(
    (*case, 'side', 'all', 'files', 'network', 'the rest', 'GFLOP/s'), splits
  )
  print('Largest differences, from the same scaled pixels:\n')
  print_table(
    (
      'dtype',
      'px',
      'texts',
      'pictures',
      'groups',
      'scores',
      'tokens in another group',
      'equal pixels',
      'classes found',
    ),
    agreements,
  )
  print('float32 products:\n')
  print_table(('shape', 'jax GFLOP/s', 'torch GFLOP/s', 'ratio'), rates)


def print_table(heads, rows) -> None:
  print('| ' + ' | '.join(heads) + ' |')
  print('|---' * len(heads) + '|')
  for row in rows:
    print('| ' + ' | '.join(map(str, row)) + ' |')
  print(flush=True)


def log(row) -> None:
  print(*row, file=sys.stderr, flush=True)


def _channels_first(images: np.ndarray) -> torch.Tensor:
  return torch.from_numpy(images).permute(0, 3, 1, 2)


def _difference(ours, theirs) -> str:
  if isinstance(theirs, torch.Tensor):
    theirs = theirs.cpu().numpy()
  return f'{np.abs(np.asarray(ours) - theirs).max():.1e}'


def _equal(ours, theirs) -> str:
  """Share of equal labels, in percent."""
  return f'{100 * np.mean(np.stack(ours) == theirs):.4f} %'


if __name__ == '__main__':
  main()
