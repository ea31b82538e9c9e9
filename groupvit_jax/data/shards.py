"""Shard files: their patterns, cached indices, and random reads.

Serves tar and TFRecord sources. The error of a missing data set carries the
commands that make it.
"""

import concurrent.futures
import glob
import hashlib
import io
import os
import pathlib
import re
import threading
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging
from jaxtyping import Int32, Integer
from tqdm import tqdm

from groupvit_jax import files

Patterns = str | os.PathLike | Sequence[str | os.PathLike]

_IMG2DATASET = """\
    img2dataset --url_list {table} \\
      --url_col url --caption_col caption --output_format webdataset \\
      --output_folder {folder} --oom_shard_count {digits} \\
      --image_size 512 --resize_mode keep_ratio --resize_only_if_bigger True \\
      --processes_count 16 --thread_count 64
"""
_RENAME = """\
    (cd {folder} && for f in [0-9]*.tar; do mv "$f" "{prefix}$f"; done)
"""

_CC3M = (
  """\
  Conceptual Captions 3M. Get Train_GCC-training.tsv from
  https://ai.google.com/research/ConceptualCaptions/download, then
    (printf 'caption\\turl\\n'; cat Train_GCC-training.tsv) > gcc3m.tsv
""",
  'gcc3m.tsv --input_format tsv',
)
_CC12M = (
  """\
  Conceptual 12M. Get cc12m.tsv from
  https://github.com/google-research-datasets/conceptual-12m, then
    (printf 'url\\tcaption\\n'; cat cc12m.tsv) > gcc12m.tsv
""",
  'gcc12m.tsv --input_format tsv',
)
_REDCAPS = (
  """\
  RedCaps. Get the annotations from https://redcaps.xyz/download, make them
  tables in redcaps/ (docs/data.md has the script), then
""",
  'redcaps --input_format parquet',
)
_YFCC = (
  """\
  YFCC14M. Join the list of photos
  https://github.com/openai/CLIP/blob/main/data/yfcc100m.md with the metadata
  of https://gitlab.com/jfolz/yfcc100m, and write images (jpg) and their
  descriptions (txt) into {folder}/{prefix}*.tar.
  No single command does it; docs/data.md has the steps.
""",
  None,
)
_ANY = (
  """\
  Any tar shards of img2dataset or webdataset will do: each sample has an
  image (jpg, jpeg, png, webp) and a caption (txt, text, json). From a table
  with the columns url and caption:
""",
  'pairs.tsv --input_format tsv',
)

_BY_WORD = (
  (('gcc12m', 'cc12m', 'conceptual-12m'), _CC12M),
  (('gcc3m', 'cc3m', 'gcc-train'), _CC3M),
  (('redcap',), _REDCAPS),
  (('yfcc',), _YFCC),
)
_MOST_NAMED = 3

_VERSION = 1
_NUMBERS = re.compile(r'^(\d+)\.\.(\d+)$')
_MOST_OPEN = 256


def how_to_prepare(patterns: Sequence[str]) -> str:
  """Returns a paragraph with commands for each data set of some patterns."""
  wanted = {}
  for pattern in patterns:
    wanted.setdefault(_description(pattern), []).append(pattern)
  told = [_paragraph(*item) for item in wanted.items()]
  install = '(img2dataset comes by: pip install img2dataset)\n'
  if not any('img2dataset --' in paragraph for paragraph in told):
    install = ''
  return (
    ''.join(told) + install + 'docs/data.md tells more, also what to do with '
    'shards of other names.'
  )


def _description(pattern):
  for words, description in _BY_WORD:
    if any(word in pattern.lower() for word in words):
      return description
  return _ANY


def _paragraph(description, patterns):
  """One data set: what is missing, where it comes from, its commands."""
  folder, name = os.path.split(patterns[0])
  prefix = re.match(r'([^{*?\[]*)[{*?\[]', name)
  digits = re.search(r'\{(\d+)\.\.', name)
  text, table = description
  values = {
    'folder': folder or '.',
    'prefix': prefix[1] if prefix else '',
    'digits': len(digits[1]) if digits else 5,
    'table': table,
  }
  if table:
    text += _IMG2DATASET + (_RENAME if values['prefix'] else '')
  for key, value in values.items():  # other braces are the shell's
    text = text.replace(f'{{{key}}}', str(value))
  named = ''.join(f'{pattern}\n' for pattern in patterns[:_MOST_NAMED])
  more = len(patterns) - _MOST_NAMED
  return named + (f'... and {more} more\n' if more > 0 else '') + text


def listed(patterns: Patterns) -> list[str]:
  """One or several patterns as a list."""
  if isinstance(patterns, (str, os.PathLike)):
    patterns = [patterns]
  return [os.fspath(pattern) for pattern in patterns]


def expand(patterns: Patterns) -> list[str]:
  """Expands `{000..436}`, `{a,b}`, `*` and `~` in paths of shards.

  Args:
    patterns: str or path, or a list of them.

  Returns:
    Paths in order, without those that do not exist: warnings name the patterns
    that lack some or all of theirs.

  Raises:
    FileNotFoundError: nothing matches; the message says how to prepare it.
    ValueError: a pattern is a command or an address.
  """
  patterns = listed(patterns)
  if not patterns:
    raise ValueError(
      'No shards are named: give a path or a pattern, such as '
      'data.shards=/data/{00000..00331}.tar.'
    )
  files_of = {pattern: _files_by_path(pattern) for pattern in patterns}
  found = [
    file
    for by_path in files_of.values()
    for there in by_path.values()
    for file in there
  ]
  if not found:
    raise FileNotFoundError(
      'no training data: none of the shards is there. How to prepare them:\n\n'
      + how_to_prepare(patterns)
    )
  _warn_of_absent(files_of)
  return list(dict.fromkeys(found))


def absent(patterns: Patterns) -> list[tuple[str, str]]:
  """Returns (pattern, path) of paths spelled out that are not there."""
  return [
    (pattern, path)
    for pattern in listed(patterns)
    for path, there in _files_by_path(pattern).items()
    if not there
  ]


def _files_by_path(pattern):
  """Maps each path that the braces spell to the files that are there."""
  if pattern.startswith('pipe:') or '://' in pattern:
    raise ValueError(
      f'{pattern!r} is not a path. Commands and addresses are not run or '
      'opened: copy or mount the shards and give their path.'
    )
  by_path = {}
  for path in _braces(os.path.expanduser(pattern)):
    matches = sorted(glob.glob(path)) if glob.has_magic(path) else [path]
    by_path[path] = [match for match in matches if os.path.isfile(match)]
  return by_path


def _warn_of_absent(files_of):
  """Names the patterns that lack files, those without any in one line."""
  empty = []
  for pattern, by_path in files_of.items():
    absent = [path for path, there in by_path.items() if not there]
    if len(absent) == len(by_path):
      empty.append(pattern)
    elif absent:
      logging.warning(
        '%s: %d of its %d paths are absent and skipped, such as %s',
        pattern,
        len(absent),
        len(by_path),
        absent[0],
      )
  if empty:
    more = len(empty) - _MOST_NAMED
    logging.warning(
      'no shard is there of %s%s: training goes on without; docs/data.md tells '
      'how to prepare them',
      ', '.join(empty[:_MOST_NAMED]),
      f' and {more} more' if more > 0 else '',
    )


def _braces(pattern):
  """Expands the first {a..b} or {a,b} of a pattern, then the rest."""
  match = re.search(r'\{([^{}]*)\}', pattern)
  if not match:
    return [pattern]
  numbers = _NUMBERS.match(match[1])
  if numbers:
    first, last = numbers.groups()
    if int(last) < int(first):
      raise ValueError(f'{match[0]} in {pattern!r} counts down.')
    width = len(first)
    choices = [f'{i:0{width}d}' for i in range(int(first), int(last) + 1)]
  else:
    choices = match[1].split(',')
  head, tail = pattern[: match.start()], pattern[match.end() :]
  return [head + choice + rest for choice in choices for rest in _braces(tail)]


def build_index(
  paths: Sequence[str],
  scan: Callable[[str], np.ndarray],
  kind: str,
  *,
  skip_bad: bool = False,
) -> tuple[Int32[np.ndarray, 'n'], Integer[np.ndarray, 'n columns']]:
  """Indexes shards, in parallel, with indices of earlier runs reused.

  Args:
    paths: of the shards.
    scan: function of a path that returns an integer array [n, columns].
    kind: tells index files of different scans apart.
    skip_bad: whether shards that raise ValueError are left out with a warning,
      unless all do.

  Returns:
    Number of the shard of each row, and the rows, shards in order.

  Raises:
    ValueError: as `scan`.
  """

  def table_of(path):
    try:
      return _indexed(path, scan, kind)
    except ValueError as error:
      if not skip_bad:
        raise
      return error

  with concurrent.futures.ThreadPoolExecutor(min(32, len(paths))) as pool:
    work = pool.map(table_of, paths)
    progress = tqdm(
      work, 'index shards', len(paths), unit=' shards', delay=2, leave=False
    )
    tables = list(progress)
  errors = [table for table in tables if isinstance(table, ValueError)]
  if len(errors) == len(paths):
    raise errors[0]
  for error in errors:
    logging.warning('%s Left out.', error)
  good = [
    (number, table)
    for number, table in enumerate(tables)
    if not isinstance(table, ValueError)
  ]
  shard = np.concatenate(
    [np.full(len(table), number, np.int32) for number, table in good]
  )
  return shard, np.concatenate([table for _, table in good])


def _indexed(path, scan, kind):
  """The table of one shard, from its index file if that is up to date."""
  status = os.stat(path)
  stamp = np.array([_VERSION, status.st_size, status.st_mtime_ns], np.int64)
  beside, in_cache = _index_paths(path, kind)
  for index_path in (beside, in_cache):
    table = _load(index_path, stamp)
    if table is not None:
      return table
  table = scan(path)
  if table.max(initial=0) < 2**32:  # half the memory, for most shards
    table = table.astype(np.uint32)
  for index_path in (beside, in_cache):
    if _save(index_path, stamp, table):
      break
  return table


def _index_paths(path, kind):
  """Where an index may lie: beside the shard, or in the user's cache."""
  path = os.path.abspath(path)
  name = f'{os.path.basename(path)}.{kind}.npz'
  root = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  digest = hashlib.sha256(os.path.dirname(path).encode()).hexdigest()[:16]
  cache = pathlib.Path(root) / 'groupvit_jax' / 'shard_index' / digest
  return pathlib.Path(path).with_name(name), cache / name


def _load(index_path, stamp):
  """The table of an index file; None if absent, stale or broken."""
  try:
    with np.load(index_path, allow_pickle=False) as saved:
      if np.array_equal(saved['stamp'], stamp):
        return saved['table']
  except FileNotFoundError:
    pass
  except Exception as error:  # a torn zip raises many things
    logging.warning('%s is unreadable and made anew: %s', index_path, error)
  return None


def _save(index_path, stamp, table):
  """Writes an index file at once or not at all; tells whether it could."""
  packed = io.BytesIO()
  np.savez(packed, stamp=stamp, table=table)
  try:
    index_path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(index_path, packed.getvalue())
  except OSError:
    return False
  return True


class Files:
  """Reads byte ranges of many files from many threads.

  Some hundred files stay open; beyond that each read opens its own, since a
  process may not hold a thousand shards open.
  """

  def __init__(self, paths: Sequence[str]):
    self.paths = list(paths)
    self._open = {}
    self._lock = threading.Lock()

  def read(self, shard: int | np.integer, offset: int, size: int) -> bytes:
    """Returns `size` bytes of file number `shard` from `offset` on."""
    handle = self._open.get(shard)
    if handle is None:
      handle = os.open(self.paths[shard], os.O_RDONLY | os.O_CLOEXEC)
      if not self._keep(shard, handle):
        try:
          return os.pread(handle, size, offset)
        finally:
          os.close(handle)
    return os.pread(handle, size, offset)

  def _keep(self, shard, handle):
    with self._lock:
      if shard in self._open or len(self._open) >= _MOST_OPEN:
        return False
      self._open[shard] = handle
      return True

  def close(self) -> None:
    """Closes all files; nothing may read any more."""
    with self._lock:
      handles, self._open = self._open, {}
    for handle in handles.values():
      os.close(handle)

  def __del__(self):
    self.close()

  def __getstate__(self):
    return self.paths

  def __setstate__(self, paths):
    self.__init__(paths)
