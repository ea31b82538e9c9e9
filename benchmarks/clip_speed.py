"""CLIP's encoders beside open_clip's in PyTorch, with the same weights.

  python benchmarks/clip_speed.py

Needs torch and open_clip beside jax. The weights go through an archive such as
OpenAI's: TorchScript, matrices in half precision. A case is one batch that is
in memory, already normalised or tokenised, to unit vectors; both sides take
turns in one process. Texts are 77 ids, as open_clip takes them, and once cut
behind the longest, as this library passes them on. bfloat16 is, here, matrix
products with rounded operands (`matmul_operands`), the kernels kept rounded;
there, autocast. Where others compute on the machine, take `--threads 1`:
torch's threads wait for each other without sleeping. CPU time hardly depends
on them.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata

import demo
import jax
import jax.numpy as jnp
import numpy as np
import open_clip
import torch

from groupvit_jax import convert
from groupvit_jax.evaluation import zero_shot
from groupvit_jax.models import build, ops

MODELS = {'B/32': 'ViT-B-32-quickgelu', 'RN50': 'RN50-quickgelu'}
TURN = 1.0  # seconds, but two calls at least
PAUSE = 0.2  # seconds in which the other side's threads fall asleep
TEXTS = ('a photo of a dog.', 'a blurry photo of the red hot air balloon.')


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--batches', type=int, nargs='+', default=[1, 32])
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--threads', type=int, help='default: all cores')
  parser.add_argument('--models', nargs='+', choices=MODELS, default=[*MODELS])
  args = parser.parse_args()
  if args.threads:
    # XLA takes as many threads as there are cores to run on; torch is told.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.threads :])
    torch.set_num_threads(args.threads)
  print(environment(), '\n')
  heads = ('encoder', 'batch', 'side', 'ms', 'CPU ms', 'examples/s')
  heads += ('ratio', 'in rounds', 'of CPU time', 'difference')
  print('| ' + ' | '.join(heads) + ' |')
  print('|---' * len(heads) + '|')
  for shown in args.models:
    pair = Pair(MODELS[shown])
    for tower, batch_of in pair.inputs().items():
      for batch in args.batches:
        for row in compare(pair, tower, batch_of(batch), args.rounds):
          print(f'| {shown} {tower} | {batch} | ' + ' | '.join(row) + ' |')


class Pair:
  """One model on both sides."""

  def __init__(self, name: str):
    torch.manual_seed(0)
    self.theirs = open_clip.create_model(name).eval()
    self._tokenizer = open_clip.get_tokenizer(name)
    with torch.no_grad():
      for key, x in self.theirs.state_dict().items():
        if key.endswith(('running_mean', 'running_var')):
          x.copy_(x + 0.3 * torch.rand_like(x))
        if x.ndim > 1:
          x.copy_(x.half())
    with tempfile.TemporaryDirectory() as scratch:
      path = os.path.join(scratch, 'model.pt')
      write_archive(self.theirs, self._tokenizer(TEXTS), path)
      loaded = convert.load_source(path)
    variables = jax.tree.map(jnp.asarray, loaded.variables)
    kept = {'float32': variables, 'bfloat16': ops.store_rounded(variables)}
    self._sides = {
      operands: (
        build.build(loaded.architecture, matmul_operands=operands),
        kept[operands],
      )
      for operands in ops.OPERANDS
    }
    self._with_text = name.startswith('ViT')  # RN50's is of the same kind

  def inputs(self) -> dict[str, Callable[[int], np.ndarray]]:
    """From a batch size to an input of open_clip's, by encoder."""

    def images(batch):
      rng = np.random.default_rng(0)
      return rng.normal(size=(batch, 3, 224, 224)).astype(np.float32)

    def texts(batch):
      return self._tokenizer([TEXTS[i % 2] for i in range(batch)]).numpy()

    towers = {'image': images}
    if self._with_text:
      towers |= {'text': texts, 'text, cut': texts}
    return towers

  def calls(self, tower: str, batch: np.ndarray) -> dict[str, Callable]:
    """Timed functions by side; each returns unit vectors."""
    tensor = torch.from_numpy(batch)
    text = tower != 'image'
    encode = self.theirs.encode_text if text else self.theirs.encode_image

    @torch.inference_mode()
    def theirs(operands):
      on = operands == 'bfloat16'
      with torch.autocast('cpu', torch.bfloat16, enabled=on):
        return encode(tensor, normalize=True).float()

    ours = batch.astype(np.int32) if text else batch.transpose(0, 2, 3, 1)
    if tower.endswith('cut'):
      ours = zero_shot.tokenize_texts(lambda _: ours, ['']).squeeze(1)
    ours = jax.device_put(np.ascontiguousarray(ours))
    method = 'encode_text' if text else 'encode_image'
    found = {}
    for operands, (module, variables) in self._sides.items():
      found[f'open_clip {operands}'] = lambda o=operands: theirs(o)
      encoder = jax.jit(lambda v, x, m=module: m.apply(v, x, method=method))
      found[f'groupvit_jax {operands}'] = lambda e=encoder, v=variables: (
        jax.block_until_ready(e(v, ours))
      )
    return found


def write_archive(model, tokens: torch.Tensor, path: str) -> None:
  """Writes a model as OpenAI published theirs."""
  images = torch.zeros(len(tokens), 3, 224, 224)
  # Unchecked: a second trace takes torch's other path through attention.
  traced = torch.jit.trace(
    copy.deepcopy(model), (images, tokens), check_trace=False
  )
  for x in [*traced.parameters(), *traced.buffers()]:
    if x.ndim > 1 and x.dtype.is_floating_point:
      x.data = x.data.half()
  torch.jit.save(traced, path)


def compare(
  pair: Pair, tower: str, batch: np.ndarray, rounds: int
) -> list[list[str]]:
  """A table row for each side; ratios are to open_clip in float32."""
  calls = pair.calls(tower, batch)
  # The first calls compile, and are not timed.
  results = {side: np.asarray(call()) for side, call in calls.items()}
  seconds = {side: [] for side in calls}
  for i in range(rounds):
    for side in list(calls) if i % 2 == 0 else reversed(calls):
      seconds[side].append(turn(calls[side]))
  base = 'open_clip float32'
  rows = []
  for side, pairs in seconds.items():
    wall, cpu = (statistics.median(x) for x in zip(*pairs, strict=True))
    ratios, cpu_ratios = (
      [b[k] / a[k] for a, b in zip(pairs, seconds[base], strict=True)]
      for k in (0, 1)
    )
    rows.append(
      [
        side,
        f'{1e3 * wall:.1f}',
        f'{1e3 * cpu:.1f}',
        f'{len(batch) / wall:.1f}',
        f'**{statistics.median(ratios):.2f}**',
        f'{min(ratios):.2f} to {max(ratios):.2f}',
        f'{statistics.median(cpu_ratios):.2f}',
        f'{np.abs(results[side] - results[base]).max():.0e}',
      ]
    )
  return rows


def turn(call: Callable[[], object]) -> tuple[float, float]:
  """Wall and CPU seconds of a call: the least of a turn."""
  time.sleep(PAUSE)
  walls, cpus, end = [], [], time.perf_counter() + TURN
  while len(walls) < 2 or time.perf_counter() < end:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    walls.append(time.perf_counter() - wall)
    cpus.append(time.process_time() - cpu)
  return min(walls), min(cpus)


def environment() -> str:
  """Versions and device of the measurement."""
  versions = ', '.join(
    f'{name} {metadata.version(name)}' for name in ('torch', 'open_clip_torch')
  )
  return (
    f'{demo.environment()}, {versions} ({torch.get_num_threads()} threads, '
    f'{torch.backends.cpu.get_cpu_capability()}); load {os.getloadavg()[0]:.1f}'
  )


if __name__ == '__main__':
  main()
