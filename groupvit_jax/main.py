"""Trains a model: python -m groupvit_jax.main --config=F --workdir=W.

Flags and error messages only; the work is in `train.train_and_evaluate`, which
a notebook or a test calls as well.
"""

import logging as python_logging
import os
import pathlib
import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from groupvit_jax import errors

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'What to train: configs/gvit_s.py, with a variant and options after a colon '
  '(configs/gvit_s.py:demo,steps=200). Single fields: --config.batch_size=64.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder for checkpoints, logs and the report; a run found there is resumed. '
  'Default: runs/ and the name of the config.',
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'One process of several: find the others through the cluster environment '
  '(TPU pod, Slurm, Open MPI) or JAX_COORDINATOR_ADDRESS.',
)


def main(unused_argv) -> int:
  # JAX reads its environment when imported: after the flags.
  from groupvit_jax import results, sharding, train

  try:
    if _DISTRIBUTED.value:
      sharding.initialize_distributed()
    workdir = _WORKDIR.value or _default_workdir()
    summary = train.train_and_evaluate(_CONFIG.value, workdir)
  except errors.Interrupted as stop:
    logging.warning('%s', stop)
    return 130
  except errors.UserError as error:
    logging.error('%s', error)
    return 1
  except KeyboardInterrupt:
    logging.warning('stopped; what was saved before is kept')
    return 130
  print(results.as_text(summary, workdir))
  return 0


def _default_workdir() -> str:
  """Returns runs/NAME, where NAME tells the config file and its argument."""
  value = flags.FLAGS['config'].config_filename
  path, _, arg = value.partition(':')
  name = '-'.join(filter(None, [pathlib.Path(path).stem, arg]))
  return f'runs/{re.sub(r"[^A-Za-z0-9_.=-]+", "-", name)}'


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; a mistake in them is one line and exit code 2."""
  try:
    args = flags.FLAGS(argv)
    if flags.FLAGS.help:
      return args
    if _CONFIG.value is None:
      raise flags.Error(
        'say what to train, such as --config=configs/gvit_s.py:demo'
      )
    if args[1:]:
      raise flags.Error(f'unexpected argument: {args[1]}')
  except (flags.Error, ValueError, AttributeError, KeyError, TypeError) as e:
    # config_flags reports an unknown field as AttributeError or KeyError.
    print(f'error: {_first_line(e)}\n--help shows the flags', file=sys.stderr)
    sys.exit(2)
  except (OSError, ImportError) as e:
    print(f'error: cannot load the config: {e}', file=sys.stderr)
    sys.exit(2)
  return args


def _first_line(error: Exception) -> str:
  text = str(error.args[0] if error.args else error)
  return text.strip().splitlines()[0] if text.strip() else repr(error)


def _set_up_logging() -> None:
  # TensorFlow's C++ logs; before anything imports it, here or in a worker.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  handler.setFormatter(
    python_logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S')
  )
  # Orbax and TFDS tell their inner lives at INFO; a user wants the run's.
  handler.addFilter(
    lambda record: (
      record.levelno >= python_logging.WARNING
      or 'groupvit_jax' in record.pathname
    )
  )


def run() -> None:
  """Entry point of `python -m groupvit_jax.main`."""
  _set_up_logging()
  app.run(main, flags_parser=_parse_flags)


if __name__ == '__main__':
  run()
