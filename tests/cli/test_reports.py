"""No run replaces another's report: neither a finished one, nor meanwhile."""

import os

import pytest

from groupvit_jax.cli.reports import ReportFile


@pytest.fixture
def out(tmp_path):
  return tmp_path / 'out.json'


def names(out) -> list[str]:
  return sorted(path.name for path in out.parent.iterdir())


def test_a_report_is_written_and_nothing_else_is_left(out):
  for overwrite, text in ((False, 'one'), (True, 'two')):
    report = ReportFile(out, overwrite)
    report.write(text)
    report.release()
    assert names(out) == ['out.json'] and out.read_text() == text
  with pytest.raises(ValueError, match='exists: choose another --out'):
    ReportFile(out, overwrite=False)


def test_a_report_that_came_meanwhile_is_kept(out):
  report = ReportFile(out, overwrite=True)
  out.write_text('of another')
  with pytest.raises(ValueError, match='has appeared or changed .* move it aw'):
    report.write('mine')
  report.release()
  assert out.read_text() == 'of another'


@pytest.mark.parametrize('overwrite', [False, True])
def test_two_runs_cannot_measure_for_one_report(out, overwrite):
  report = ReportFile(out, overwrite=False)
  with pytest.raises(ValueError, match='another run is measuring for it; wait'):
    ReportFile(out, overwrite)
  report.release()
  ReportFile(out, overwrite).release()
  assert names(out) == []


def test_a_lock_that_a_killed_run_left_does_not_block(out):
  out.with_name('out.json.lock').write_text('')
  ReportFile(out, overwrite=False).release()
  assert names(out) == []


def test_places_where_no_report_can_be(tmp_path):
  (tmp_path / 'file').write_text('')
  places = {
    tmp_path: 'is a folder: --out names a file',
    tmp_path / '..' / '..' / 'dev' / 'null': 'there is no such folder',
    tmp_path / 'file' / 'x.json': 'file: there is no such folder; make it',
    tmp_path / 'file': 'exists: choose another --out, or replace it with',
  }
  for out, reason in places.items():
    with pytest.raises(ValueError, match=reason):
      ReportFile(out, overwrite=False)
  with pytest.raises(ValueError, match='is not a regular file'):
    ReportFile(type(tmp_path)('/dev/null'), overwrite=True)
  with pytest.raises(ValueError, match='File name too long'):
    ReportFile(tmp_path / ('x' * 250), overwrite=False)
  assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_a_folder_that_one_may_not_write_to(tmp_path):
  if os.geteuid():
    tmp_path.chmod(0o500)
  elif not os.path.isdir('/proc/self'):
    pytest.skip('needs a folder that even root cannot write to; run as a user')
  folder = tmp_path if os.geteuid() else type(tmp_path)('/proc/self')
  with pytest.raises(ValueError, match='x.json cannot be written'):
    ReportFile(folder / 'x.json', overwrite=True)
