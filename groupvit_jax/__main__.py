"""`python -m groupvit_jax`: the `groupvit` command."""

import sys

from groupvit_jax.cli import main

if __name__ == '__main__':
  sys.exit(main())
