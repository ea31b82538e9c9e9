"""A training step on TPU slices, as the TPU compiler sees it; without a TPU.

  pip install -e '.[tpu-compile]'
  python benchmarks/tpu_compile.py --configs gcc_yfcc gcc_yfcc,tied \\
    --slices v5e:2x4 --batches 4096 --texts 512x16 64x48

libtpu compiles for chips that are described only (compile-only topologies).
The compiler estimates the cycles of every operation; their sum is the time of
a step without waiting for other chips. Bytes of collectives are those of their
results (of a reduce-scatter, of its operand), and their time is that over the
links of a chip, in part hidden behind computation. Of a kernel of ours the
compiler estimates nothing: its cycles are the instructions that it schedules
for one image or group of texts, times the number of these on a chip. They are
read from the schedule of the kernel compiled alone, in a process of its own,
since the schedule of a step takes longer to write than to make. The table is an
estimate: nothing ran.
"""

import argparse
import collections
import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
# Compile-only programs cannot be stored.
os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)

import demo
import jax
import jax.extend
import jax.numpy as jnp
from jax.experimental import topologies

from groupvit_jax import sharding
from groupvit_jax.models import fused_attention
from groupvit_jax.training import state as state_lib
from groupvit_jax.training import task as task_lib
from groupvit_jax.training import texts

VOCABULARY = 49408  # of CLIP's tokenizer
PAIRS = 30 * 26_000_000  # of the recipe


@dataclasses.dataclass(frozen=True)
class Chip:
  """What cloud.google.com/tpu/docs says of one chip.

  Attributes:
    clock: cycles/s; the FLOP/s over what its matrix units do in a cycle.
    flops: bfloat16 FLOP/s.
    memory: bytes of HBM; of v5e, what its compiler leaves to a program.
    links: bytes/s over all links to other chips.
  """

  clock: float
  flops: float
  memory: float
  links: float


CHIPS = {
  'v4': Chip(1.05e9, 275e12, 32 * 2**30, 300e9),
  'v5e': Chip(1.5e9, 197e12, 15.75 * 2**30, 200e9),
  'v5p': Chip(1.75e9, 459e12, 95 * 2**30, 600e9),
  'v6e': Chip(1.75e9, 918e12, 32 * 2**30, 448e9),
}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--configs', nargs='+', default=['gcc_yfcc'])
  parser.add_argument('--slices', nargs='+', default=['v5e:2x4'])
  parser.add_argument('--batches', nargs='+', type=int, default=[4096])
  parser.add_argument(
    '--texts',
    nargs='+',
    default=[],
    metavar='NUMBERxTOKENS',
    help='distinct texts of a chip x their tokens: the short, then the long '
    'ones; by default all are encoded in full',
  )
  parser.add_argument('--text', help='file that receives the last program')
  parser.add_argument('--json', help='file that receives a line for each row')
  parser.add_argument('--schedule', nargs=5, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.schedule:
    name, kernel, *sizes = args.schedule
    compile_kernel(name, kernel, *map(int, sizes))
    return
  groups = [tuple(map(int, group.split('x'))) for group in args.texts]
  if len(groups) > len(texts.GROUPS):
    parser.error(f'--texts: at most {len(texts.GROUPS)}')
  print(demo.environment())
  print('| ' + ' | '.join(Row.__annotations__) + ' |', flush=True)
  print('|---' * len(Row.__annotations__) + '|', flush=True)
  for arg in args.configs:
    for name in args.slices:
      for batch in args.batches:
        config = demo.read_config(f'{arg},batch_size={batch}')
        compiled, seconds = compile_step(config, mesh_of(name), groups)
        text = compiled.as_text()
        if args.text:
          with open(args.text, 'w') as file:
            file.write(text)
        row = describe(config, name, groups, compiled, seconds)
        row = dataclasses.replace(row, config=arg)
        print('| ' + ' | '.join(row.cells()) + ' |', flush=True)
        for line in collective_lines(text):
          print('  ', line, flush=True)
        if args.json:
          with open(args.json, 'a') as file:
            print(json.dumps(dataclasses.asdict(row)), file=file)


def mesh_of(name: str, chips: int | None = None) -> jax.sharding.Mesh:
  """The mesh of a slice's chips, such as 'v5e:2x4', or of the first of them."""
  options = {'chip_config_name': 'megacore'} if name.startswith('v4:') else {}
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name=name, **options
  )
  return sharding.make_mesh(topology.devices[:chips])


def compile_step(config, mesh, groups=()):
  """The compiled step of a config, and the seconds that compiling took.

  `groups`: (texts of a chip, tokens), short and long ones.
  """
  task, tx, state, metrics_class = abstract_run(config, mesh)
  metrics = jax.eval_shape(metrics_class.empty)
  batch = abstract_batch(config, config.batch_size, groups, mesh.size)
  step = state_lib.make_train_step(
    *(task, tx, metrics_class, mesh), accumulated=config.accumulate
  )
  place = functools.partial(placed, sharding.replicated(mesh))
  arguments = place(state), place(metrics)
  lowered = step.lower(*arguments, placed(sharding.batch_sharding(mesh), batch))
  start = time.perf_counter()
  return lowered.compile(), time.perf_counter() - start


def abstract_batch(config, images: int, groups=(), chips: int = 1):
  """Shapes of a batch and, with groups, of what `texts.Texts` adds to it."""
  batch = state_lib.abstract_batch(config, images)
  shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
  for name, (count, length) in zip(texts.GROUPS, groups, strict=False):
    batch[name] = shape((chips * count, length))
    batch['which'] = shape(batch['tokens'].shape[:2])
  return batch


def abstract_run(config, mesh):
  """Task, optimizer, shapes of the state and metrics of a config."""
  task = task_lib.make(config, VOCABULARY, mesh)
  tx, _ = state_lib.make_optimizer(config)
  here = sharding.make_mesh(jax.devices()[:1])
  state = jax.eval_shape(lambda: state_lib.create_state(task, tx, config, here))
  metrics_class = state_lib.make_train_metrics(task, state, config)
  return task, tx, state, metrics_class


def placed(where, tree):
  def place(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

  return jax.tree.map(place, tree)


def forward_flops(config, images: int = 1, groups=()) -> int:
  """FLOPs of products of a forward pass, without the losses.

  Args:
    config: of the run.
    images: of one chip.
    groups: see `compile_step`; without them every text in full.
  """
  parts = task_lib.make(config, VOCABULARY).parts
  state = abstract_run(config, None)[2]
  one = abstract_batch(config, 1)
  features, _ = jax.eval_shape(parts.images, state.variables, one, state.rng)
  own, everyones = (
    jax.eval_shape(texts.encoded, batch)
    for batch in (one, abstract_batch(config, images, groups))
  )
  words = jax.eval_shape(parts.texts, state.variables, own)

  def count(function, *arguments) -> int:
    jaxpr = jax.make_jaxpr(function)(state.variables, *arguments)
    return product_flops(jaxpr.jaxpr)

  by_image = count(parts.images, one, state.rng) + count(
    parts.head, features, words, one
  )
  return images * by_image + count(parts.texts, everyones)


def product_flops(jaxpr) -> int:
  """FLOPs, two for each multiplication, of a jaxpr's products."""
  total = 0
  for equation in jaxpr.eqns:
    times = equation.params.get('length', 1)  # of a scan
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      total += times * product_flops(inner)
    shape = equation.outvars[0].aval.shape if equation.outvars else ()
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      x = equation.invars[0].aval.shape
      total += 2 * math.prod(shape) * math.prod(x[i] for i in contracted)
    elif equation.primitive.name == 'conv_general_dilated':
      kernel = equation.invars[1].aval.shape
      features = equation.params['dimension_numbers'].rhs_spec[0]
      inputs = math.prod(kernel) // kernel[features]
      total += 2 * math.prod(shape) * inputs
  return total


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of the table; times in seconds, memory in bytes, FLOPs a chip."""

  config: str
  slice: str
  batch: int
  compile_s: float
  hbm: float
  hbm_share: float
  collectives: int
  collective_bytes: int
  collective_s: float
  step_s: float
  flops: int
  mfu: float
  images_per_second_and_chip: float
  days: float
  chip_hours: float

  def cells(self) -> list[str]:
    return [
      self.config,
      self.slice,
      f'{self.batch:,}',
      f'{self.compile_s:.0f}',
      f'{self.hbm / 2**30:.1f} GiB',
      f'{self.hbm_share:.0%}',
      f'{self.collectives}',
      f'{self.collective_bytes / 1e6:.0f} MB',
      f'{1e3 * self.collective_s:.1f} ms',
      f'{1e3 * self.step_s:.0f} ms',
      f'{self.flops / 1e12:.2f} T',
      f'{self.mfu:.1%}',
      f'{self.images_per_second_and_chip:.0f}',
      f'{self.days:.1f}',
      f'{self.chip_hours:.0f}',
    ]


def describe(config, name, groups, compiled, seconds) -> Row:
  text = compiled.as_text()
  chip = CHIPS[name.split(':')[0]]
  chips = math.prod(map(int, name.split(':')[1].split('x')))
  memory = compiled.memory_analysis()
  used = memory.peak_memory_in_bytes
  found = list(collectives(text))
  moved = sum(size * times for _, size, times in found)
  cycles = estimated_cycles(text) + kernel_cycles(text, name, config)
  step = cycles / chip.clock
  flops = 3 * forward_flops(config, config.batch_size // chips, groups)
  rate = config.batch_size / step
  return Row(
    config='',
    slice=name,
    batch=config.batch_size,
    compile_s=seconds,
    hbm=used,
    hbm_share=used / chip.memory,
    collectives=sum(times for *_, times in found),
    collective_bytes=moved,
    collective_s=moved / chip.links,
    step_s=step,
    flops=flops,
    mfu=flops / step / chip.flops,
    images_per_second_and_chip=rate / chips,
    days=PAIRS / rate / 86400,
    chip_hours=PAIRS / rate / 3600 * chips,
  )


# Reading a compiled program.

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_OPERATION = re.compile(r'^ +(?:ROOT )?%?[\w.\-]+ = (.*?) ([\w\-]+)\(')
_ARRAY = re.compile(r'\b(pred|[a-z]+\d+)\w*\[([\d,]*)\]')
_CALLED = re.compile(
  r'(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)'
)
_COLLECTIVE = re.compile(
  r'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute'
)


@functools.lru_cache(maxsize=1)
def computations(text: str) -> dict[str, list[str]]:
  """Lines of every computation by its name; the first one is 'ENTRY'."""
  found: dict[str, list[str]] = {}
  lines: list[str] = []
  for line in text.splitlines():
    if match := _COMPUTATION.match(line):
      lines = found['ENTRY' if match[1] else match[2]] = []
    elif line.startswith(' '):
      lines.append(line)
  return found


def executed(text: str, name='ENTRY', times=1) -> Iterator[tuple[str, int]]:
  """Operations that a step runs, and how many times; loops by their count."""
  found = computations(text)
  for line in found[name]:
    yield line, times
    if ' while(' in line:
      # A scan counts up to the one constant of its condition.
      condition = re.search(r'condition=%?([\w.\-]+)', line)[1]
      counts = re.findall(r'constant\((\d+)\)', '\n'.join(found[condition]))
      repeated = times * max(map(int, counts))
    elif ' call(' in line or ' conditional(' in line:
      repeated = times
    else:
      continue
    for called in _CALLED.findall(line):
      yield from executed(text, called, repeated)


def estimated_cycles(text: str) -> int:
  """Of all operations but kernels."""
  return sum(
    times * int(match[1])
    for line, times in executed(text)
    if (match := re.search(r'"estimated_cycles":"(\d+)"', line))
  )


def kernel_cycles(text: str, name: str, config) -> int:
  """Instructions of the kernels for a chip of a slice."""
  cycles = 0
  for line, times in executed(text):
    if 'custom_call_target="tpu_custom_call"' in line:
      pattern = r'(causal_)?attention_(?:for|back)ward_kernel'
      kernel = re.search(pattern, line)
      # The first operand of this type holds queries, keys and values.
      shape = re.search(r'constraints=.*?bf16\[(\d+),(\d+),(\d+)\]', line)
      programs, tokens, width = map(int, shape.groups())
      encoder = config.text if kernel[1] else config.model
      sizes = tokens, width, encoder.num_heads
      cycles += times * programs * scheduled(name, kernel[0], *sizes)
  return cycles


@functools.cache
def scheduled(name: str, kernel: str, *sizes: int) -> int:
  """Instructions of a kernel for one image, or for texts side by side."""
  with tempfile.TemporaryDirectory() as folder:
    # The compiler reads this when it is loaded.
    options = (
      f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true '
      '--xla_jf_dump_llo_pass_label_regex=.*final.bundles.*'
    )
    arguments = name, kernel, *map(str, sizes)
    subprocess.run(
      [sys.executable, __file__, '--schedule', *arguments],
      env={**os.environ, 'LIBTPU_INIT_ARGS': options},
      check=True,
      stdout=subprocess.DEVNULL,
    )
    files = pathlib.Path(folder).glob(f'*{kernel}*schedule-analysis*')
    newest = max(files, key=lambda file: file.name)  # a time comes first
    return int(re.search(r'bundles: +(\d+)', newest.read_text())[1])


def compile_kernel(
  name: str, kernel: str, tokens: int, width: int, num_heads: int
) -> None:
  """Compiles one kernel of `fused_attention` for a chip of a slice."""

  def attend(qkv):
    bias, causal = jnp.zeros(qkv.shape[-1]), kernel.startswith('causal')
    return fused_attention.attend(qkv, bias, num_heads, causal)

  def backward(qkv, slope):
    return jax.vjp(attend, qkv)[1](slope)

  chip = sharding.replicated(mesh_of(name, 1))

  def array(width):
    shape = 17, tokens, width  # a prime: `attend` puts no texts side by side
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=chip)

  if 'back' in kernel:
    jax.jit(backward).lower(array(width), array(width // 3)).compile()
  else:
    jax.jit(attend).lower(array(width)).compile()


def collectives(text: str) -> Iterator[tuple[str, int, int]]:
  """Kind, bytes and times of every collective.

  One that runs beside several fusions is written in each of them, but starts in
  one only.
  """
  found = computations(text)
  for line, times in executed(text):
    lines = [line]
    for called in _CALLED.findall(line):
      if ' fusion(' in line or 'async-start(' in line:
        inner = found[called]
        starts = any('"AsyncCollectiveStart"' in each for each in inner)
        parts = '"async_collective_fusion_config"'
        lines += [each for each in inner if starts or parts not in each]
    for each in lines:
      match = _OPERATION.match(each)
      kind = match and _COLLECTIVE.match(match[2])
      if not kind or match[2].endswith('-done'):
        continue
      sizes = [array_bytes(*array) for array in _ARRAY.findall(match[1])]
      size = max(sizes) if match[2].endswith('-start') else sum(sizes)
      if kind[0] == 'reduce-scatter':
        groups = re.search(r'replica_groups=\[\d+,(\d+)\]', each)
        members = re.search(r'replica_groups=\{\{([\d,]*)\}', each)
        number = int(groups[1]) if groups else members[1].count(',') + 1
        size *= number
      yield kind[0], size, times


def array_bytes(dtype: str, shape: str) -> int:
  bits = 8 if dtype == 'pred' else int(re.sub(r'\D', '', dtype))
  return math.prod(map(int, filter(None, shape.split(',')))) * bits // 8


def collective_lines(text: str) -> list[str]:
  """A line for each kind and size, the largest first."""
  counts: collections.Counter = collections.Counter()
  for kind, size, times in collectives(text):
    counts[kind, size] += times
  rows = sorted(counts.items(), key=lambda row: -row[0][1] * row[1])
  return [
    f'{kind} {size / 1e6:.2f} MB x {times}' for (kind, size), times in rows
  ]


if __name__ == '__main__':
  main()
