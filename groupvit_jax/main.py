"""Trains a model: groupvit train --config=F --workdir=W.

`python -m groupvit_jax.main` is the same.

Flags and error messages only; the work is in `loop.train_and_evaluate`, which
a notebook or a test calls as well.
"""

import logging as python_logging
import os
import pathlib
import re
import runpy
import sys
import threading
import traceback
from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from groupvit_jax import errors
from groupvit_jax.training import config as config_lib

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
  'One process of several: find the others through the cluster (TPU pod, '
  'Slurm, Kubernetes, Open MPI), or through JAX_COORDINATOR_ADDRESS, '
  'JAX_NUM_PROCESSES and JAX_PROCESS_ID.',
)

_PROFILE = flags.DEFINE_bool(
  'profile',
  False,
  'Write a trace of five steps, after ten to warm up, into WORKDIR/profile: '
  'for https://ui.perfetto.dev and XProf.',
)

# How config_flags begins a message that goes on with a stack trace.
_TRACE_FOLLOWS = 'Error whilst parsing config file'
_PATIENCE = 20.0  # seconds that threads have where a run ends early
_PACKAGE = pathlib.Path(__file__).parent


def main(unused_argv: list[str]) -> int:
  """Trains; returns the exit code."""
  try:
    # JAX reads its environment when imported: after the flags.
    from groupvit_jax import files, peers, programs, sharding
    from groupvit_jax.training import loop, results

    config, workdir = _CONFIG.value, _WORKDIR.value or _default_workdir()
    programs.keep_compiled(files.cache('compiled'), min_seconds=1.0)
    if _DISTRIBUTED.value:
      sharding.initialize_distributed()
    with peers.watched():
      initial = None
      if config.get('init_from'):
        from groupvit_jax import convert

        initial = convert.load_source(config.init_from)
      summary = loop.train_and_evaluate(
        config, workdir, _base(), initial, profile=_PROFILE.value
      )
  except errors.Interrupted as stop:
    logging.warning('%s', stop)
    _end_within(_PATIENCE, 130)
    return 130
  except errors.UserError as error:
    print(f'error: {error}', file=sys.stderr, flush=True)
    code = 3 if isinstance(error, errors.StorageError) else 1
    _end_within(_PATIENCE, code)
    return code
  except BaseException:
    _end_within(_PATIENCE, 1)
    raise
  print(results.as_text(summary, workdir))
  return 0


def _end_within(seconds: float, code: int) -> None:
  """Ends the process in that time, though threads of libraries still wait.

  They may wait for a disk or another process that does not answer, and would
  hold the accelerator.
  """
  ending = threading.Timer(seconds, os._exit, [code])
  ending.daemon = True
  ending.start()


def _config_flag() -> Any:
  return flags.FLAGS['config']


def _default_workdir() -> str:
  """Returns runs/NAME, where NAME tells the config file and its argument."""
  path, _, arg = _config_flag().config_filename.partition(':')
  name = '-'.join(filter(None, [pathlib.Path(path).stem, arg]))
  return f'runs/{re.sub(r"[^A-Za-z0-9_.=-]+", "-", name)}'


def _base() -> ml_collections.ConfigDict | None:
  """The config file without an argument; None where it needs one."""
  path, _, _ = _config_flag().config_filename.partition(':')
  try:
    return runpy.run_path(path)['get_config']()
  except Exception:  # a config file is a program: any may come
    return None


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; a mistake in them is one line and exit code 2."""
  if {'--help', '-help', '-h'} & set(argv):
    print(_help())
    sys.exit(0)
  try:
    args = flags.FLAGS(argv)
    if _CONFIG.value is None:
      raise flags.Error(
        'say what to train, such as --config=configs/gvit_s.py:demo; --help '
        'shows the flags'
      )
    if args[1:]:
      raise flags.Error(f"unexpected argument '{args[1]}'; flags begin with --")
    _CONFIG.value.keys()  # only here config_flags tells of a missing file
    _check_tuples()
  except Exception as error:  # a config file is a program: any may come
    message = ' '.join(_explain(error, argv).split())
    print(f'error: {message}', file=sys.stderr)
    sys.exit(2)
  return args


def _help(path: str = 'configs/gvit_s.py') -> str:
  """The flags, and the variants and options of the configs, where they are."""
  parts = [__doc__.partition('\n\n')[0], flags.FLAGS.main_module_help()]
  if os.path.isfile(path):
    config = runpy.run_path(path)
    names = [f'  {a:<9} {field}' for a, field in config['ALIASES'].items()]
    parts += [f'{path}: {config["__doc__"]}']
    parts += ['\n'.join(['Short names of fields:', *names])]
    parts += [f'{path} has all fields, each with a comment.']
  return '\n\n'.join(part.strip() for part in parts)


def _check_tuples() -> None:
  """Refuses --config.model.depths=abc, which config_flags takes."""
  for path, value in _config_flag().override_values.items():
    if isinstance(value, tuple):
      default: Any = flags.FLAGS[f'config.{path}'].default
      config_lib.check_tuple(path, value, default)


def _explain(error: Exception, argv: list[str]) -> str:
  """Message for the user about an error that reading the flags raised.

  config_flags wraps what a config file raises, with its stack trace as the
  message, and names an unknown field without saying that it is one.
  """
  chain: list[BaseException] = [error]
  while following := chain[-1].__cause__ or chain[-1].__context__:
    chain.append(following)
  root = chain[-1]
  ours = [e for e in chain if isinstance(e, errors.UserError)]
  if ours:
    return str(ours[-1])
  if isinstance(error, flags.Error) and _TRACE_FOLLOWS not in str(error):
    return str(error)
  words = '\n'.join(argv)
  (value, *_) = re.findall(r'^--?config[=\n](.*)', words, re.MULTILINE)
  path, _, arg = value.partition(':')
  if not os.path.isfile(path):
    return f'there is no config file {os.path.abspath(path)}'
  frames = traceback.extract_tb(root.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == path]
  if isinstance(error, AttributeError | KeyError) and not lines:
    config = runpy.run_path(path)['get_config'](*filter(None, [arg]))
    for field in re.findall(r'^--?(?:no)?config\.([^=\n]+)', words, re.M):
      if unknown := config_lib.unknown_field(config, field):
        return unknown
  where = f', line {lines[-1]}' if lines else ''
  return f'cannot load {path}{where}: {type(root).__name__}: {root}'


def _set_up_logging() -> None:
  # TensorFlow's C++ logs; before anything imports it, here or in a worker.
  # It tells of oneDNN whatever the level, and its input work needs none.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  handler.setFormatter(
    python_logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S')
  )
  handler.addFilter(_is_for_the_user)


def _is_for_the_user(record: python_logging.LogRecord) -> bool:
  """Whether to show a message: all of ours, and others' warnings.

  Orbax and TFDS tell their inner lives at INFO; TFDS also warns of what we do
  on purpose (configurations of our own, no OpenCV).
  """
  if pathlib.Path(record.pathname).is_relative_to(_PACKAGE):
    return True
  in_orbax = f'{os.sep}orbax{os.sep}' in record.pathname
  if record.exc_info and (in_orbax or record.name == 'asyncio'):
    return False  # a save that failed: it is raised as well, and explained
  if f'{os.sep}tensorflow_datasets{os.sep}' in record.pathname:
    return record.levelno >= python_logging.ERROR
  return record.levelno >= python_logging.WARNING


def _print_unraisable(unraisable: Any) -> None:
  """Prints an exception of a callback, unless an error explains it.

  TensorStore has one for each array that was being written as a save failed.
  """
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)


def run() -> None:
  """Entry point of `python -m groupvit_jax.main`."""
  _set_up_logging()
  sys.unraisablehook = _print_unraisable
  try:
    app.run(main, flags_parser=_parse_flags)
  except KeyboardInterrupt as stop:  # where the training loop does not listen
    # Closes a progress bar that waits in a generator, before the line.
    traceback.clear_frames(stop.__traceback__)
    logging.warning('stopped; what was saved before is kept')
    sys.exit(130)


# GLIBC_TUNABLES: pages of 2 MB, and freed memory stays in one heap. With a heap
# for each thread, the default, large arrays are mapped anew.
MALLOC = (
  'glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:'
  f'glibc.malloc.mmap_threshold={2**34}:glibc.malloc.trim_threshold={2**35}'
)


def _keep_memory() -> None:
  """Restarts this process so that it keeps memory, unless the user has chosen.

  A training step on a CPU asks for its temporary memory anew (`:demo`: 190 MB).
  Mapping that in pages of 4 kB costs a third of the speed, in pages of 2 MB a
  fifth; kept, nothing (benchmarks/RESULTS.md). glibc reads the setting when a
  process starts.
  """
  given = os.environ.get('GLIBC_TUNABLES', '')
  ours = 'groupvit_jax.main' in sys.orig_argv and not sys.gettrace()
  if ours and sys.platform == 'linux' and 'malloc.hugetlb' not in given:
    os.environ['GLIBC_TUNABLES'] = ':'.join(filter(None, [given, MALLOC]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == '__main__':
  _keep_memory()
  run()
