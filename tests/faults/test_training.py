"""Training is killed, doubled, damaged and starved; its end stays the same.

`pytest -m slow tests/faults` runs the long form, whose figures stand in
docs/reliability.md.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import time

import pytest

SEED = 13


@pytest.fixture(scope='module')
def doubled(training, tmp_path_factory):
  """A run that a second process joined and that was then killed.

  Returns the workdir and the second process.
  """
  workdir = tmp_path_factory.mktemp('doubled') / 'run'
  first = training.start(workdir)
  first.wait_for('step 4 of')
  second = training.start(workdir)
  second.end()
  first.kill()
  return workdir, second


def test_a_second_process_is_refused(doubled):
  _, second = doubled
  assert second.popen.returncode == 1
  assert 'process' in second.refusal()


def test_a_killed_run_goes_on_to_the_same_end(
  doubled, training, tmp_path, assert_same_end
):
  workdir = tmp_path / 'run'
  shutil.copytree(doubled[0], workdir)
  training.run(workdir)
  assert_same_end(workdir)
  rows = (workdir / 'metrics.jsonl').read_text().splitlines()
  steps = [json.loads(row)['step'] for row in rows if '"train/loss"' in row]
  assert steps == list(range(1, training.steps + 1))


# The long form.


@pytest.mark.slow
def test_twenty_kills(training, tmp_path, assert_same_end):
  """At random moments of start, steps and saves; each continues the last."""
  rng, workdir = random.Random(SEED), tmp_path / 'run'
  moments = []
  for _ in range(20):
    process = training.start(workdir)
    if rng.random() < 0.25:
      moment = rng.uniform(0.5, 12)  # imports, restoring, compiling
    else:
      with contextlib.suppress(AssertionError):  # it had one step left
        process.wait_for(r'step \d+ of')
      moment = rng.uniform(0, 1)
    time.sleep(moment)
    process.kill()
    assert 'Traceback' not in process.text
    moments.append(round(moment, 2))
    if process.popen.returncode == 0:  # it reached its end: once more
      assert_same_end(workdir)
      shutil.rmtree(workdir)
  print('killed after', moments)
  training.run(workdir)
  assert_same_end(workdir)


@pytest.fixture(scope='module')
def interrupted(training, tmp_path_factory):
  """The workdir of a run that was killed after it had saved several times."""
  workdir = tmp_path_factory.mktemp('interrupted') / 'run'
  process = training.start(workdir)
  process.wait_for('step 13 of')
  process.kill()
  return workdir


@pytest.mark.slow
def test_each_damaged_file_of_the_newest_checkpoint(
  damage, newest_files, interrupted, training, tmp_path, assert_same_end
):
  """The run falls back to the older one, says so, and ends as it did."""
  workdirs = []
  for i, file in enumerate(newest_files(interrupted)):
    workdirs.append(tmp_path / f'run_{i}')
    shutil.copytree(interrupted, workdirs[-1])
    damage(workdirs[-1] / file.relative_to(interrupted), i)
  print(len(workdirs), 'files')
  first, *others = workdirs
  assert 'Traceback' not in training.run(first).text
  # Without that check: a process of several runs shows errors of their threads.
  training.run_each(others)
  for workdir in workdirs:
    assert_same_end(workdir)


@pytest.mark.slow
def test_a_full_disk(
  undisturbed, newest_files, training, small_disk, assert_same_end
):
  """One line at the save that failed; with room, the same command goes on."""
  one = sum(file.stat().st_size for file in newest_files(undisturbed))
  disk = small_disk(5 * one // 2)
  process = training.start(disk / 'run')
  assert process.end() == 3
  assert 'step 4' in process.refusal()
  room = ['mount', '-o', f'remount,size={10 * one}', disk]
  subprocess.run(room, check=True)
  training.run(disk / 'run')
  assert_same_end(disk / 'run')


@pytest.mark.slow
def test_a_disk_that_becomes_read_only(training, tmp_path, assert_same_end):
  """The process ends within 60 seconds, with one line."""
  before = ()
  if os.getuid() == 0:  # who may write everywhere, unless this is taken away
    if not shutil.which('setpriv'):
      pytest.skip('needs setpriv where the tests run as root')
    before = ('setpriv', '--bounding-set=-dac_override')
  workdir = tmp_path / 'run'
  process = training.start(workdir, before=before)
  process.wait_for('step 6 of')
  folders = [workdir, *(p for p in workdir.rglob('*') if p.is_dir())]
  for path in folders:
    path.chmod(0o555)
  start = time.monotonic()
  assert process.end(seconds=60) == 3
  print(f'ended after {time.monotonic() - start:.0f} s')
  process.refusal()
  for path in folders:
    if path.exists():
      path.chmod(0o755)
  training.run(workdir)
  assert_same_end(workdir)
