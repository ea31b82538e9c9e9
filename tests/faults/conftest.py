"""The real training command on a run of seconds, and damage to its files.

All runs have the same seed and data, so that whatever happened on the way, the
last checkpoint has to be that of a run that nobody disturbed, bit for bit.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from groupvit_jax.convert import tensors

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 24
CONFIG = (
  f'configs/gvit_s.py:demo,matmul_operands=float32,steps={STEPS},batch=8,'
  'examples=24,size=16,patch=8,'
  'width=16,depths=1x0,tokens=3x0,groups=3x0,model.num_heads=2,text.width=16,'
  'text.depth=1,text.num_heads=2,text.context_length=16,joint.embed_dim=16,'
  'joint.projector_width=0,loss.num_nouns=0,eval.source=,run.pictures=0,'
  'run.log_every=1,run.checkpoint_every=2'
)


@dataclasses.dataclass
class Process:
  """A training command under way, or at its end."""

  popen: subprocess.Popen
  output: pathlib.Path

  @property
  def text(self) -> str:
    return self.output.read_text(errors='replace')

  def wait_for(self, pattern: str, seconds: float = 240) -> None:
    """Waits until the command has said something."""
    end = time.monotonic() + seconds
    while not re.search(pattern, self.text):
      if self.popen.poll() is not None or time.monotonic() > end:
        raise AssertionError(f'no {pattern!r} in:\n{self.text[-3000:]}')
      time.sleep(0.005)

  def kill(self) -> None:
    """kill -9, of the command and of all that it has started."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.popen.pid, signal.SIGKILL)
    self.popen.wait()

  def end(self, seconds: float = 240) -> int:
    """The exit code."""
    try:
      return self.popen.wait(seconds)
    finally:
      self.kill()

  def refusal(self) -> str:
    """The one line that ended it; AssertionError if it is not one line."""
    assert 'Traceback' not in self.text, self.text[-3000:]
    lines = [x for x in self.text.splitlines() if x.startswith('error:')]
    assert len(lines) == 1, self.text[-3000:]
    assert len(lines[0]) < 600, lines
    return lines[0]


class Training:
  """Starts the command; data and compiled programs are shared by all runs."""

  steps = STEPS
  config = CONFIG

  def __init__(self, shared: pathlib.Path, environment: dict[str, str]):
    self._shared, self._environment = shared, environment
    self._count = 0

  def start(
    self,
    workdir: pathlib.Path,
    config: str = CONFIG,
    before: Sequence[str] = (),
  ) -> Process:
    """The command in `workdir`; `before` starts it."""
    program = f'-m groupvit_jax.main --config={config}'.split()
    program += [
      f'--config.data.cache={self._shared / "data"}',
      f'--workdir={workdir}',
    ]
    return self._start([*before, sys.executable, *program])

  def _start(self, command: list[str]) -> Process:
    self._count += 1
    output = self._shared / f'output_{self._count}'
    environment = self._environment | {
      'PYTHONUNBUFFERED': '1',
      'JAX_COMPILATION_CACHE_DIR': str(self._shared / 'compiled'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }
    with output.open('wb') as file:
      popen = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        start_new_session=True,
      )
    return Process(popen, output)

  def run(self, workdir: pathlib.Path, **options: Any) -> Process:
    """Trains to the end, which has to be reached."""
    process = self.start(workdir, **options)
    assert process.end() == 0, process.text[-3000:]
    return process

  def run_each(self, workdirs: Sequence[pathlib.Path]) -> Process:
    """The same in each workdir, in one process: most of it is its start."""
    config = f'{CONFIG},data.cache={self._shared / "data"}'
    program = [str(ROOT / 'tests' / 'faults' / 'train.py'), config]
    process = self._start([sys.executable, *program, *map(str, workdirs)])
    assert process.end(60 * len(workdirs)) == 0, process.text[-3000:]
    return process


def newest(workdir: pathlib.Path) -> pathlib.Path:
  """The folder of the newest checkpoint."""
  steps = [p for p in (workdir / 'checkpoints').iterdir() if p.name.isdigit()]
  return max(steps, key=lambda path: int(path.name))


def state(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """All arrays of the newest checkpoint: parameters, optimizer, position."""
  import orbax.checkpoint as ocp

  path = newest(workdir) / 'state'
  handler = ocp.PyTreeCheckpointHandler()
  tree = handler.metadata(path).tree
  kinds = _map(tree, lambda _: ocp.RestoreArgs(restore_type=np.ndarray))
  restored = handler.restore(
    path, args=ocp.args.PyTreeRestore(item=tree, restore_args=kinds)
  )
  handler.close()
  return tensors.flatten(_as_dicts(restored))


def _map(tree, make):
  if isinstance(tree, dict):
    return {name: _map(value, make) for name, value in tree.items()}
  if isinstance(tree, list | tuple):
    return [_map(value, make) for value in tree]
  return make(tree)


def _as_dicts(tree):
  if isinstance(tree, list | tuple):
    tree = {str(i): value for i, value in enumerate(tree)}
  if isinstance(tree, dict):
    return {name: _as_dicts(value) for name, value in tree.items()}
  return tree


@pytest.fixture(scope='session')
def training(base_environment) -> Iterator[Training]:
  # Not pytest's folder: others than its owner cannot enter that.
  folder = pathlib.Path(tempfile.mkdtemp(prefix='groupvit_faults_'))
  folder.chmod(0o777)
  yield Training(folder, base_environment)
  shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope='session')
def undisturbed(training, tmp_path_factory) -> pathlib.Path:
  """The workdir of a run that nobody disturbed."""
  workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
  training.run(workdir)
  return workdir


@pytest.fixture
def assert_same_end(undisturbed) -> Callable[[pathlib.Path], None]:
  """Compares a finished workdir with the undisturbed one."""
  wanted = state(undisturbed)

  def check(workdir: pathlib.Path) -> None:
    assert newest(workdir).name == str(STEPS)
    found = state(workdir)
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
      assert found[name].tobytes() == x.tobytes(), name

  return check


def flip(path: pathlib.Path, seed: int) -> None:
  content = bytearray(path.read_bytes())
  if content:
    content[random.Random(seed).randrange(len(content))] ^= 1 << (seed % 8)
  path.write_bytes(content)


def truncate(path: pathlib.Path, seed: int) -> None:
  content = path.read_bytes()
  path.write_bytes(content[: random.Random(seed).randrange(len(content) or 1)])


def fill_with_garbage(path: pathlib.Path, seed: int) -> None:
  path.write_bytes(random.Random(seed).randbytes(path.stat().st_size or 16))


DAMAGES = {
  'delete': lambda path, seed: path.unlink(),
  'empty': lambda path, seed: path.write_bytes(b''),
  'truncate': truncate,
  'flip': flip,
  'garbage': fill_with_garbage,
}


@pytest.fixture(params=DAMAGES)
def damage(request) -> Callable[[pathlib.Path, int], None]:
  """Damages a file, the same way for the same seed."""
  return DAMAGES[request.param]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], pathlib.Path]]:
  """Mounts a file system of so many bytes; skips where nobody may."""
  folder = tmp_path / 'disk'
  folder.mkdir()

  def mount(size: int) -> pathlib.Path:
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', folder]
    if subprocess.run(mount, capture_output=True).returncode:
      pytest.skip('needs the right to mount a small file system (root)')
    return folder

  yield mount
  subprocess.run(['umount', '-l', folder], capture_output=True)


@pytest.fixture(scope='session')
def newest_files() -> Callable[[pathlib.Path], list[pathlib.Path]]:
  """All files of the newest checkpoint of a workdir, in order."""
  return lambda workdir: sorted(
    path for path in newest(workdir).rglob('*') if path.is_file()
  )
