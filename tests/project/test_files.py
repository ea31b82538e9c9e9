"""Files written whole or not at all, whatever happens on the way."""

import os
import pathlib
import resource
import stat
import threading

import pytest

from groupvit_jax import files


def names(folder: pathlib.Path) -> list[str]:
  return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('old', [None, b'old'])
@pytest.mark.parametrize(
  ('content', 'want'),
  [('číslo\n', 'číslo\n'.encode()), (b'\xff\r\n', b'\xff\r\n'), ('', b'')],
)
def test_text_and_bytes_replace_what_was_there(tmp_path, old, content, want):
  path = tmp_path / 'a.txt'
  if old:
    path.write_bytes(old)
  files.write_atomically(path, content)
  assert path.read_bytes() == want
  files.write_atomically(str(path), b'by str')
  assert path.read_bytes() == b'by str'
  assert names(tmp_path) == ['a.txt']


def test_a_full_disk_leaves_the_old_file(tmp_path):
  """A limit on the size of files stands for it: the write breaks half-way."""
  path = tmp_path / 'a'
  path.write_bytes(b'old')
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
  try:
    with pytest.raises(OSError, match='File too large'):
      files.write_atomically(path, bytes(1 << 18))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert path.read_bytes() == b'old'
  assert names(tmp_path) == ['a']


@pytest.mark.parametrize('call', ['fsync', 'replace'])
@pytest.mark.parametrize('error', [OSError('no space left'), KeyboardInterrupt])
def test_what_breaks_it_off_leaves_the_old_file(
  tmp_path, monkeypatch, call, error
):
  path = tmp_path / 'a'
  path.write_bytes(b'old')

  def fail(*unused):
    raise error

  owner = {'fsync': os, 'replace': pathlib.Path}[call]
  monkeypatch.setattr(owner, call, fail)
  with pytest.raises((OSError, KeyboardInterrupt)):
    files.write_atomically(path, b'new')
  assert path.read_bytes() == b'old'
  assert names(tmp_path) == ['a']


def test_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
  path = tmp_path / 'a'
  fsync, synced = os.fsync, []

  def watch(descriptor):
    fsync(descriptor)
    synced.append((os.fstat(descriptor).st_size, path.exists()))

  monkeypatch.setattr(os, 'fsync', watch)
  files.write_atomically(path, bytes(5))
  assert synced == [(5, False)]


def test_a_folder_in_the_way_or_missing_is_an_error(tmp_path):
  (tmp_path / 'a').mkdir()
  with pytest.raises(OSError):
    files.write_atomically(tmp_path / 'a', 'text')
  with pytest.raises(FileNotFoundError):
    files.write_atomically(tmp_path / 'b' / 'c', 'text')
  assert names(tmp_path) == ['a']


def test_others_may_read_it_as_the_umask_says(tmp_path):
  before = os.umask(0o022)
  try:
    files.write_atomically(tmp_path / 'a', 'text')
  finally:
    os.umask(before)
  assert stat.S_IMODE((tmp_path / 'a').stat().st_mode) == 0o644


def test_writers_at_the_same_time_do_not_mix(tmp_path):
  path = tmp_path / 'a'
  contents = [bytes([i]) * 100_000 for i in range(4)]

  def write(content):
    for _ in range(10):
      files.write_atomically(path, content)

  threads = [threading.Thread(target=write, args=(c,)) for c in contents]
  for thread in threads:
    thread.start()
  while any(thread.is_alive() for thread in threads):
    if path.exists():
      assert path.read_bytes() in contents
  assert path.read_bytes() in contents
  assert names(tmp_path) == ['a']
