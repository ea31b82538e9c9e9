"""How close a training step comes to the machine's own matrix products.

  export GLIBC_TUNABLES=$(python -c \\
    'from groupvit_jax import main; print(main.MALLOC)')
  python benchmarks/step.py --config=demo

Training itself sets that variable.

Times the jit-compiled step of a configuration on one batch of scenes that is
at hand, and float32 products of 2,048 x 2,048 in the same process, in turns.
Floating-point operations of the step are those that XLA counts in the compiled
program.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import demo
import jax
import jax.numpy as jnp

from groupvit_jax import sharding
from groupvit_jax.training import inputs, loop
from groupvit_jax.training import state as state_lib
from groupvit_jax.training import task as task_lib

SIZE = 2048


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--config', default='demo', help='as after the colon')
  parser.add_argument(
    '--whole-texts',
    action='store_true',
    help='every text of the batch in full, and all rows of the vocabulary',
  )
  parser.add_argument('--turns', type=int, default=5)
  parser.add_argument('--steps', type=int, default=30, help='in each turn')
  args = parser.parse_args()
  config = demo.read_config(args.config)
  step = make_step(config, args.whole_texts)
  flops = step.compiled.cost_analysis()['flops']
  a = jnp.ones((SIZE, SIZE))
  product = jax.jit(jnp.matmul)
  seconds, rates = [], []
  for _ in range(args.turns):
    seconds.append(timed(step.run, args.steps))
    rates.append(2 * SIZE**3 / timed(lambda: product(a, a), 20))
  step_seconds, rate = statistics.median(seconds), statistics.median(rates)
  print(demo.environment())
  print(
    f'{args.config}: {1e3 * step_seconds:.0f} ms a step, '
    f'{config.batch_size / step_seconds:.0f} images/s, '
    f'{flops / 1e9:.1f} GFLOP a step, '
    f'{flops / step_seconds / 1e9:.0f} GFLOP/s; products of {SIZE}: '
    f'{rate / 1e9:.0f} GFLOP/s; ratio {flops / step_seconds / rate:.2f}'
  )


class Step(NamedTuple):
  """A compiled step.

  Attributes:
    run: takes one more step; returns its metrics, not waited for.
    batch: that it takes, over and over.
    compiled: the program.
    seconds: that tracing and compiling it took.
  """

  run: Callable[[], Any]
  batch: dict[str, jax.Array]
  compiled: Any
  seconds: float


def make_step(config, whole_texts: bool = False) -> Step:
  """The training step of a configuration, on scenes."""
  config.data.train_examples = 4 * config.batch_size
  config.matmul_operands = loop.choose_operands(config, None).matmul_operands
  mesh = sharding.make_mesh()
  data = inputs.Inputs(config, mesh)
  task = task_lib.make(config, data.tokenizer.vocab_size, mesh)
  tx, _ = state_lib.make_optimizer(config)
  state = state_lib.create_state(task, tx, config, mesh)
  metrics_class = state_lib.make_train_metrics(task, state, config)
  with data:
    used = None if whole_texts else state_lib.used_rows(state, config)
    batch = next(data.train_batches(0, used))
  if whole_texts:
    batch = {name: batch[name] for name in ('image', 'tokens')}
  step = state_lib.make_train_step(
    *(task, tx, metrics_class, mesh), accumulated=config.get('accumulate', 1)
  )
  metrics = jax.device_put(metrics_class.empty(), sharding.replicated(mesh))
  begin = time.perf_counter()
  compiled = step.lower(state, metrics, batch).compile()
  seconds = time.perf_counter() - begin
  held = [state, metrics]

  def run():
    held[:] = compiled(*held, batch)
    return held[1]

  return Step(run, batch, compiled, seconds)


def timed(function, times: int) -> float:
  """Seconds of one call, over several in a row after one to warm up."""
  jax.block_until_ready(function())
  begin = time.perf_counter()
  for _ in range(times):
    result = function()
  jax.block_until_ready(result)
  return (time.perf_counter() - begin) / times


if __name__ == '__main__':
  main()
