"""No run takes another's report: neither a finished one, nor meanwhile."""

import pytest

from groupvit_jax.cli import resume
from groupvit_jax.cli.resume import Claim, lock_of


def claim(out, overwrite=False) -> Claim:
  resume.check(out, overwrite)
  return Claim(out, resume.journal_of(out), overwrite)


@pytest.fixture
def out(tmp_path):
  return tmp_path / 'out.json'


def names(out) -> list[str]:
  return sorted(path.name for path in out.parent.iterdir())


def test_a_report_is_written_and_nothing_else_is_left(out):
  held = claim(out)
  held.write('one')
  held.release()
  assert names(out) == ['out.json'] and out.read_text() == 'one'
  held = claim(out, overwrite=True)
  held.write('two')
  held.release()
  assert names(out) == ['out.json'] and out.read_text() == 'two'


@pytest.mark.parametrize('left', ['.journal', '.journal.1-of-2', '.journal~'])
def test_a_stray_journal_gives_no_leave_to_replace(out, left):
  out.write_text('finished')
  out.with_name(out.name + left).write_text('{}')
  with pytest.raises(ValueError, match='exists: choose another --out'):
    claim(out)
  # Nor does a lock that says nothing of it, as one that a kill leaves.
  lock_of(out).write_text('null')
  with pytest.raises(ValueError, match='exists: choose another --out'):
    claim(out)


def test_what_was_to_be_replaced_still_is_without_overwrite(out):
  out.write_text('old')
  held = claim(out, overwrite=True)
  resume.journal_of(out).write_text('{}')
  held.release()  # interrupted
  held = claim(out)
  held.release()  # once more
  held = claim(out)
  held.write('new')
  held.release()
  assert out.read_text() == 'new' and not lock_of(out).exists()
  # The leave was for that file alone.
  with pytest.raises(ValueError, match='exists: choose another --out'):
    claim(out)


def test_nothing_counted_is_nothing_to_go_on_from(out):
  out.write_text('old')
  claim(out, overwrite=True).release()
  assert names(out) == ['out.json']
  with pytest.raises(ValueError, match='exists: choose another --out'):
    claim(out)


def test_a_report_that_came_meanwhile_is_kept(out):
  held = claim(out)
  resume.journal_of(out).write_text('{}')
  out.write_text('of another')
  with pytest.raises(ValueError, match='has appeared or changed .* move it aw'):
    held.write('mine')
  held.release()
  assert out.read_text() == 'of another'
  out.unlink()
  assert resume.journal_of(out).exists()
  held = claim(out)
  held.write('mine')
  held.release()
  assert out.read_text() == 'mine'


@pytest.mark.parametrize('overwrite', [False, True])
def test_two_runs_cannot_measure_for_one_report(out, overwrite):
  held = claim(out)
  with pytest.raises(ValueError, match='another run is measuring for it; wait'):
    claim(out, overwrite)
  held.release()
  claim(out, overwrite).release()
  assert names(out) == []


def test_without_locks_a_report_that_came_meanwhile_is_kept_all_the_same(
  out, monkeypatch
):
  monkeypatch.setattr(resume, 'fcntl', None)  # as on Windows
  first, second = claim(out), claim(out)
  first.write('one')
  with pytest.raises(ValueError, match='has appeared or changed'):
    second.write('two')
  assert out.read_text() == 'one'
