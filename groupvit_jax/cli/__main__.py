"""`python -m groupvit_jax.cli`: the `groupvit` command."""

import sys

from groupvit_jax import cli

if __name__ == '__main__':
  sys.exit(cli.main())
