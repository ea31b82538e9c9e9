"""Trains in several workdirs: python train.py FILE:ARGUMENT WORKDIR..."""

import runpy
import sys

from groupvit_jax.training import loop


def main(config: str, *workdirs: str) -> None:
  path, _, argument = config.partition(':')
  make = runpy.run_path(path)['get_config']
  for workdir in workdirs:
    loop.train_and_evaluate(make(argument), workdir)


if __name__ == '__main__':
  main(*sys.argv[1:])
