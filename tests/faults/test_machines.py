"""Machines of users: little memory, no home, no room, no shared memory.

Every command either works there or ends in one line.
"""

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
TESTDATA = ROOT / 'tests' / 'testdata'
UNMOUNT = 'umount -l /dev/shm && exec "$@"'


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> pathlib.Path:
  """A model folder and an image."""
  folder = tmp_path_factory.mktemp('files')
  with tarfile.open(TESTDATA / 'old_files.tar.xz') as archive:
    archive.extractall(folder)
  pixels = np.load(folder / 'outputs.npz')['image']
  Image.fromarray(pixels).save(folder / 'photo.png')
  return folder


@pytest.fixture(
  params=['memory', 'no home', 'read-only home', 'full tmp', 'no shm']
)
def machine(request, tmp_path) -> tuple[list[str], dict[str, str | None], dict]:
  """What to put before a command, its environment, and options of Popen."""
  before, environment, options = [], {}, {}
  match request.param:
    case 'memory':
      limit = 8 * 2**30
      options['preexec_fn'] = lambda: resource.setrlimit(
        resource.RLIMIT_AS, (limit, limit)
      )
    case 'no home':
      environment['HOME'] = None
    case 'read-only home':
      environment['HOME'] = '/proc/self'  # nobody can write there
    case 'full tmp':
      full = request.getfixturevalue('small_disk')(2**16)
      with contextlib.suppress(OSError):
        (full / 'filler').write_bytes(bytes(2**17))
      environment['TMPDIR'] = str(full)
    case 'no shm':
      before = ['unshare', '-m', 'sh', '-c', UNMOUNT, 'sh']
      if subprocess.run([*before, 'true'], capture_output=True).returncode:
        pytest.skip('needs the right to unmount /dev/shm (root)')
  return before, environment, options


def run(command: list[str], machine) -> subprocess.CompletedProcess:
  before, changes, options = machine
  environment = os.environ | {
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
  }
  environment |= changes
  environment = {k: v for k, v in environment.items() if v is not None}
  done = subprocess.run(
    [*before, sys.executable, '-m', *command],
    env=environment,
    cwd=ROOT,
    capture_output=True,
    text=True,
    **options,
  )
  assert 'Traceback' not in done.stderr, done.stderr[-3000:]
  assert done.returncode == 0, done.stderr[-3000:]
  return done


@pytest.mark.slow
def test_segment(files, machine, tmp_path):
  run(
    [
      *('groupvit_jax', 'segment', str(files / 'photo.png')),
      *('--model', str(files / 'model'), '--labels', 'fish,grass,water'),
      *('--out', str(tmp_path / 'out')),
    ],
    machine,
  )
  assert list((tmp_path / 'out').glob('*.png'))


@pytest.mark.slow
def test_convert(files, machine, tmp_path):
  out = tmp_path / 'out'
  run(['groupvit_jax', 'convert', str(files / 'model'), str(out)], machine)
  assert (out / 'model.safetensors').is_file()


@pytest.mark.slow
def test_train(training, machine, tmp_path):
  config = training.config.replace(f'steps={training.steps}', 'steps=2')
  shutil.rmtree(tmp_path / 'run', ignore_errors=True)
  run(
    [
      *('groupvit_jax.main', f'--config={config}'),
      *(f'--config.data.cache={tmp_path / "data"}',),
      f'--workdir={tmp_path / "run"}',
    ],
    machine,
  )
  assert (tmp_path / 'run' / 'checkpoints' / '2').is_dir()
