"""Runs to disturb, and the one that nobody disturbs."""

import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

import pytest
import tiny_training


@pytest.fixture(scope='session')
def training() -> Iterator[tiny_training.Training]:
  # Not pytest's folder: others than its owner cannot enter that.
  folder = pathlib.Path(tempfile.mkdtemp(prefix='groupvit_faults_'))
  folder.chmod(0o777)
  yield tiny_training.Training(folder)
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
  wanted = tiny_training.state(undisturbed)

  def check(workdir: pathlib.Path) -> None:
    assert tiny_training.newest(workdir).name == str(tiny_training.STEPS)
    found = tiny_training.state(workdir)
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
      assert found[name].tobytes() == x.tobytes(), name

  return check
