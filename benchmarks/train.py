"""The full-size training step, beside transformers' GroupViT in PyTorch.

  export GLIBC_TUNABLES=$(python -c \\
    'from groupvit_jax import main; print(main.MALLOC)')
  python benchmarks/train.py --steps 3 --batch 8
  python benchmarks/train.py --batch 64 --compile-only --options accumulate=8

Training itself sets that variable. Both sides take the same images and texts (a
caption and three nouns each; the peer's are cut behind the longest), the
released losses and AdamW, and turns. The peer, in `train_peer.py`, runs under
autocast to bfloat16, eager and by torch.compile.
MFU: floating-point operations of the encoders and projectors, forward and three
times that with the backward pass, over the rate of large bfloat16 products on
the same device. Prints the table of RESULTS.md. `--compile-only` prints the
memory of our step alone.
"""

import argparse
import statistics
import sys
import time

import demo
import jax
import jax.numpy as jnp
import numpy as np
import step as step_lib

from groupvit_jax.data import on_device


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--batch', type=int, default=256)
  parser.add_argument('--steps', type=int, default=20, help='in each turn')
  parser.add_argument('--turns', type=int, default=3)
  parser.add_argument('--options', default='', help='of our configuration')
  parser.add_argument('--no-compile', action='store_true', help='of torch')
  parser.add_argument('--no-peer', action='store_true')
  parser.add_argument('--compile-only', action='store_true')
  args = parser.parse_args()
  on_cpu = jax.default_backend() == 'cpu'
  # Each device's fastest form in about bfloat16.
  kind = 'dtype=float32,matmul_operands=bfloat16' if on_cpu else ''
  words = [f'batch={args.batch}', 'eval.source=', kind, args.options]
  config = demo.read_config(','.join(filter(None, words)))
  ours = step_lib.make_step(config)
  memory = ours.compiled.memory_analysis()
  kept = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  if args.compile_only:
    print(
      f'{args.options or "as it is"}: {kept / 1e9:.2f} GB, of which '
      f'{memory.temp_size_in_bytes / 1e9:.2f} temporary; compiled in '
      f'{ours.seconds:.0f} s'
    )
    return
  sides = {'groupvit_jax': (ours.run, ours.seconds, kept)}
  if not args.no_peer:
    sides |= peers(ours.batch, '' if args.no_compile else 'compiled')
  rate = products(2048 if on_cpu else 8192)
  seconds = {name: [] for name in sides}
  for _ in range(args.turns):
    for name, (run, *_) in sides.items():
      seconds[name].append(timed(run, args.steps))
  work = flops(config, longest(ours.batch))
  print(demo.environment())
  print(
    f'{jax.devices()[0].device_kind}; bfloat16 products {rate / 1e9:.0f} '
    f'GFLOP/s; {work / 1e9:.0f} GFLOP a step\n'
  )
  print('| side | ms a step | images/s | MFU | ratio | memory GB | start s |')
  print('|---|---|---|---|---|---|---|')
  first = statistics.median(seconds['groupvit_jax'])
  for name, (_, start, size) in sides.items():
    found = statistics.median(seconds[name])
    shown = '-' if size is None else f'{size / 1e9:.2f}'
    print(
      f'| {name} | {1e3 * found:.0f} | {args.batch / found:.1f} | '
      f'{100 * work / found / rate:.0f} % | {found / first:.2f} | {shown} | '
      f'{start:.0f} |'
    )


def peers(batch, compiled: str) -> dict:
  """Their steps on the same batch, by name; the first one is in `start`."""
  import train_peer

  print(train_peer.VERSIONS)
  tokens = np.asarray(batch['tokens'])[..., : longest(batch)]
  pixels = np.asarray(on_device.normalize(batch['image'])).transpose(0, 3, 1, 2)
  device = 'cpu' if jax.default_backend() == 'cpu' else 'cuda'
  found = {}
  for kind in filter(None, ('eager', compiled)):
    begin = time.perf_counter()
    try:
      peer = train_peer.Peer(pixels, tokens, device, kind == 'compiled')
      wait(peer.run())
    except RuntimeError as error:  # out of memory, or no compiler for it
      print(f'transformers, {kind}: {error}', file=sys.stderr)
      continue
    start = time.perf_counter() - begin
    found[f'transformers, {kind}'] = (peer.run, start, peer.memory())
  return found


def longest(batch) -> int:
  """Tokens of the longest text."""
  return int(np.asarray(batch['tokens']).argmax(-1).max()) + 1


def products(size: int) -> float:
  """Operations a second of bfloat16 products summed in float32."""
  a = jnp.ones((size, size), jnp.bfloat16)
  product = jax.jit(
    lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32)
  )
  return 2 * size**3 / min(timed(lambda: product(a, a), 20) for _ in range(3))


def timed(run, times: int) -> float:
  """Seconds of one call, over several in a row after one to warm up."""
  wait(run())
  begin = time.perf_counter()
  for _ in range(times):
    result = run()
  wait(result)
  return (time.perf_counter() - begin) / times


def wait(result) -> None:
  """Until a step of ours, or of the peer, has ended."""
  if hasattr(result, 'detach'):  # a loss of torch
    result.item()
  else:
    jax.block_until_ready(result)


def flops(config, length: int) -> float:
  """Operations of a step on texts of `length` tokens, each encoded by itself.

  Products of the encoders and projectors: two for each multiplication and
  addition, three times the forward pass.
  """
  model, text, joint = config.model, config.text, config.joint
  d, n = model.width, (config.image_size // model.patch_size) ** 2
  image = n * d * 3 * model.patch_size**2
  stages = zip(
    model.depths,
    model.num_group_tokens,
    model.num_output_groups,
    strict=True,
  )
  for depth, tokens, groups in stages:
    image += depth * _block(n + tokens, d)
    if tokens:
      attention = 2 * groups * d * d + 2 * n * d * d + 2 * groups * n * d
      image += 2 * attention + 2 * 8 * groups * d * d
      n = groups
  texts = 1 + config.loss.num_nouns
  hidden, e = joint.projector_width, joint.embed_dim
  projected = (d + texts * text.width + (1 + texts) * e) * hidden
  words = texts * text.depth * _block(length, text.width)
  return 3 * 2 * config.batch_size * (image + words + projected)


def _block(tokens: int, width: int) -> int:
  """Multiplications of a transformer block."""
  return 12 * tokens * width**2 + 2 * tokens**2 * width


if __name__ == '__main__':
  main()
