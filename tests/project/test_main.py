"""The command: its errors in one line, its exit codes, a quiet screen."""

import logging
import os
import pathlib
import re
import subprocess
import sys

import pytest
from absl import app
from absl.testing import flagsaver

from groupvit_jax import main

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = f'--config={ROOT}/configs/gvit_s.py'
ENVIRONMENT = os.environ | {
  'PYTHONPATH': str(ROOT),
  'JAX_PLATFORMS': 'cpu',
  'JAX_NUM_CPU_DEVICES': '1',
}
# As a user's shell has it; conftest.py quietens TensorFlow for the tests.
ENVIRONMENT.pop('TF_CPP_MIN_LOG_LEVEL', None)
COMMAND = [sys.executable, '-m', 'groupvit_jax.main']


def run(*arguments) -> subprocess.CompletedProcess:
  """Runs the command as a user does."""
  return subprocess.run(
    [*COMMAND, *arguments],
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.fixture
def said(monkeypatch, capsys):
  """Function of arguments: what is said of them, and the exit code."""

  def parse(*arguments) -> tuple[str, int]:
    argv = ['main', *arguments]
    monkeypatch.setattr(sys, 'argv', argv)  # where config_flags looks
    app.define_help_flags()
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as stop:
      main._parse_flags(argv)
    return capsys.readouterr().err, stop.value.code

  return parse


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([f'{CONFIG}:dmeo'], "unknown config variant 'dmeo' .did you mean 'demo'"),
    ([f'{CONFIG}:demo,stepz=3'], "'stepz' .did you mean 'steps'"),
    ([f'{CONFIG}:demo,steps=x'], "'steps' needs an integer such as"),
    ([f'{CONFIG}:demo,depths=abc'], "'depths' needs a tuple such as 2x0"),
    (
      [f'{CONFIG}:demo', '--config.model.depths=abc'],
      "field 'model.depths' needs a tuple of int .*.2, 0.., not 'abc'",
    ),
    ([CONFIG, '--config.data.shards=3'], "'data.shards' needs .* str .*not 3"),
    ([CONFIG, '--config.foo=1'], "unknown config field 'foo'"),
    (
      [f'{CONFIG}:demo', '--config.data.shrds=1'],
      "unknown config field 'data.shrds' .did you mean 'data.shards'",
    ),
    ([CONFIG, '--config.batch_size=abc'], "batch_size=abc: .*'abc'"),
    (['--config=/no/nope.py'], 'there is no config file /no/nope.py'),
    (['--config=nope.py:demo', '--config.seed=1'], 'no config file /.*nope.py'),
    ([CONFIG, 'demo'], "unexpected argument 'demo'"),
    ([], 'say what to train, such as --config=configs/gvit_s.py:demo'),
    (['--confg=x'], "Unknown command line flag 'confg'"),
  ],
)
def test_a_wrong_command_line_is_one_line(said, arguments, message):
  text, code = said(*arguments)
  assert code == 2
  assert re.match(f'error: .*{message}', text)
  assert text.count('\n') == 1


def test_fields_that_are_tuples_take_one_and_several(monkeypatch):
  argv = [
    'main',
    f'{CONFIG}:demo',
    '--config.model.depths=6,3,3',
    '--config.data.shards=/d/{0..9}.tar',
    '--config.model.num_group_tokens=4',
    '--config.model.num_group_tokens=0',
  ]
  monkeypatch.setattr(sys, 'argv', argv)
  app.define_help_flags()
  with flagsaver.flagsaver():
    main._parse_flags(argv)
    config = main._CONFIG.value
  assert config.model.depths == (6, 3, 3)
  assert config.model.num_group_tokens == (4, 0)
  assert config.data.shards == ('/d/{0..9}.tar',)


@pytest.mark.parametrize(
  ('parameter', 'known'),
  [
    ('arg="none"', 'none'),
    ('arg=None', None),
    ('arg', ''),
    ('arg="", *, insists="asked"', ''),
  ],
)
def test_the_base_is_the_config_file_without_an_argument(
  monkeypatch, tmp_path, parameter, known
):
  path = tmp_path / 'mine.py'
  path.write_text(
    f'import ml_collections\ndef get_config({parameter}):\n'
    '  if arg == "":\n    raise KeyError("say which variant")\n'
    '  return ml_collections.ConfigDict({"name": arg})\n'
  )
  argv = ['main', f'--config={path}:asked']
  monkeypatch.setattr(sys, 'argv', argv)
  app.define_help_flags()
  with flagsaver.flagsaver():
    main._parse_flags(argv)
    assert main._CONFIG.value.name == 'asked'
    base = main._base()
  assert (base is None) if known == '' else (base.name == known)


@pytest.mark.parametrize(
  ('program', 'message'),
  [
    ('x = 1\ndef get_config():\n  return y', 'line 3: NameError: .*y'),
    ('def get_config():\n  return int("a")', 'line 2: ValueError: invalid'),
    ('def get_config():\n  return None.a', 'line 2: AttributeError: .*a'),
    ('def (', 'SyntaxError: invalid syntax'),
  ],
)
def test_a_mistake_in_a_config_file_is_shown_where_it_is(
  said, tmp_path, program, message
):
  path = tmp_path / 'mine.py'
  path.write_text(program)
  text, code = said(f'--config={path}')
  assert code == 2
  assert re.match(f'error: cannot load {path}.*{message}', text)
  assert text.count('\n') == 1


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path, tiny_run):
  (tmp_path / 'file').touch()
  done = run(f'{CONFIG}:{tiny_run}', f'--workdir={tmp_path}/file/run')
  assert done.returncode == 3
  assert re.match('error: cannot write to .*file/run: .*--workdir', done.stderr)
  assert done.stderr.count('\n') == 1


def test_the_screen_shows_our_lines_and_nothing_else(tmp_path, tiny_run):
  pytest.importorskip('tensorflow_datasets')
  pytest.importorskip('array_record')
  done = run(
    f'{CONFIG}:{tiny_run},data.cache={tmp_path}/cache',
    f'--workdir={tmp_path}/run',
  )
  assert done.returncode == 0, done.stderr
  lines = [x for x in re.split('[\r\n]+', done.stderr) if x.strip()]
  bars = {x.split(':')[0] for x in lines if not re.match(r'\d\d:', x)}
  assert bars == {
    'scenes train 16 px',
    'reading scenes train',
    'scenes validation 16 px',
    'reading scenes validation',
  }
  logged = [x[9:] for x in lines if re.match(r'\d\d:\d\d:\d\d ', x)]
  # One for each shape of texts that occurs.
  compiled = [i for i, x in enumerate(logged) if x.startswith('compiled ')]
  logged = [x for i, x in enumerate(logged) if i not in compiled[1:]]
  starts = [' '.join(line.split()[:2]).rstrip(':') for line in logged]
  assert [s for s in starts if s.startswith('step')] == [
    'step 0',
    'step 1',
    'step 2',
    'step 2',
    'step 3',
    'step 3',
  ]
  assert starts[0].startswith('groupvit') and starts[-1].startswith('report')
  assert starts[1] == '3 steps'
  assert starts[3:5] == ['compiling the', 'compiled the']
  assert len(logged) == 11
  # Compiling is no part of a step's time.
  timed, *_ = [x for x in logged if x.startswith('step') and 'images/s' in x]
  assert re.fullmatch(
    r'step \d of 3  loss \d+\.\d+  \d+ images/s  .* left', timed
  )
  assert done.stdout.strip().startswith('miou ')


@pytest.mark.parametrize('moment', [' 0/100000', ' 128/100000'])
def test_ctrl_c_while_scenes_are_made_is_one_line(
  tmp_path, press_ctrl_c, moment
):
  """While the workers start, and while they work."""
  options = f'demo,size=32,examples=100000,data.cache={tmp_path}/cache'
  command = [*COMMAND, f'{CONFIG}:{options}', f'--workdir={tmp_path}/run']
  code, said = press_ctrl_c(command, moment, env=ENVIRONMENT)
  assert code == 130
  lines = re.split('[\r\n]+', said.decode().strip())
  # The line may follow a bar that was being drawn.
  assert lines[-1].endswith('stopped; what was saved before is kept')
  for line in lines[:-1]:
    assert not line or re.match(
      'scenes train 32 px|.* into memory|.* matmul_operands=', line
    )


INTERRUPTED_WRITER = """
import itertools
from tensorflow_datasets.core import writer
from groupvit_jax import main
write, count = writer.Writer.write, itertools.count()
def interrupted(*arguments):
  if next(count) == 150:
    raise KeyboardInterrupt
  return write(*arguments)
writer.Writer.write = interrupted
main.run()
"""


def test_ctrl_c_while_a_scene_is_written_is_the_last_line(tmp_path):
  """The bar waits in a generator then, which nobody goes on with."""
  pytest.importorskip('tensorflow_datasets')
  options = f'demo,size=32,examples=100000,data.cache={tmp_path}/cache'
  done = subprocess.run(
    [
      *(sys.executable, '-c', INTERRUPTED_WRITER),
      *(f'{CONFIG}:{options}', f'--workdir={tmp_path}/run'),
    ],
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 130
  last = re.split('[\r\n]+', done.stderr.strip())[-1]
  assert last.endswith('stopped; what was saved before is kept')


def record(level: int, pathname: str) -> logging.LogRecord:
  return logging.LogRecord('absl', level, pathname, 1, 'text', (), None)


def test_others_are_heard_when_they_warn_and_tfds_when_it_fails():
  site = '/home/me/groupvit_jax/.venv/lib/site-packages'
  heard = {
    ('ours', logging.INFO): main.__file__,
    ('orbax', logging.WARNING): f'{site}/orbax/a.py',
    ('tfds', logging.ERROR): f'{site}/tensorflow_datasets/core/a.py',
  }
  not_heard = {
    ('orbax', logging.INFO): f'{site}/orbax/a.py',
    ('tfds', logging.WARNING): f'{site}/tensorflow_datasets/core/a.py',
  }
  for (_, level), path in heard.items():
    assert main._is_for_the_user(record(level, path))
  for (_, level), path in not_heard.items():
    assert not main._is_for_the_user(record(level, path))


HUGE_PAGES = """
import os, sys
from groupvit_jax import main
print('begin', flush=True)
main._keep_memory()
print(os.environ.get('GLIBC_TUNABLES'), *sys.argv[1:], sep='|')
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='a setting of glibc')
@pytest.mark.parametrize(
  ('argument', 'given', 'lines'),
  [
    ('groupvit_jax.main', '', ['begin', 'begin', main.MALLOC]),
    (
      'groupvit_jax.main',
      'glibc.malloc.perturb=0',
      ['begin', 'begin', f'glibc.malloc.perturb=0:{main.MALLOC}'],
    ),
    (
      'groupvit_jax.main',
      'glibc.malloc.hugetlb=0',
      ['begin', 'glibc.malloc.hugetlb=0'],
    ),
    ('another.program', '', ['begin', '']),
  ],
)
def test_training_restarts_itself_once_to_keep_memory(argument, given, lines):
  done = subprocess.run(
    [sys.executable, '-c', HUGE_PAGES, argument],
    env=ENVIRONMENT | {'GLIBC_TUNABLES': given},
    capture_output=True,
    text=True,
    check=True,
  )
  *begun, last = lines
  assert done.stdout.splitlines() == [*begun, f'{last}|{argument}']
