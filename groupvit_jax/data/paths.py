"""Paths and addresses of shards: braces, globs, directories.

The error of missing shards says how to prepare some.
"""

import glob
import os
import re
from collections.abc import Sequence

from absl import logging

from groupvit_jax.data import remote

Patterns = str | os.PathLike | Sequence[str | os.PathLike]

_HOW_TO_PREPARE = """\
Shards are tars of images with captions, as img2dataset and `groupvit data
convert` write them:
- CC3M and CC12M are hosted as such, and are read from there (pip install
  'groupvit_jax[hub]'):
    data.shards=hf://datasets/pixparse/cc3m-wds/cc3m-train-*.tar
    data.shards=hf://datasets/pixparse/cc12m-wds/cc12m-train-*.tar
- from a table with the columns url and caption (pip install img2dataset):
    img2dataset --url_list pairs.parquet --input_format parquet \\
      --url_col url --caption_col caption --output_format webdataset \\
      --output_folder my --image_size 512 --resize_mode keep_ratio \\
      --resize_only_if_bigger True --processes_count 16 --thread_count 64
- from images that you have, and a table of their captions:
    groupvit data convert captions.csv my
docs/data.md tells more, also of RedCaps and YFCC.
"""
_MOST_NAMED = 3

_NUMBERS = re.compile(r'^(\d+)\.\.(\d+)$')


def listed(patterns: Patterns) -> list[str]:
  """One or several patterns as a list."""
  if isinstance(patterns, (str, os.PathLike)):
    patterns = [patterns]
  return [os.fspath(pattern) for pattern in patterns]


def names(patterns: Patterns) -> list[str]:
  """Names of patterns, and of what lies in those that are folders."""
  found = [os.path.expanduser(pattern) for pattern in listed(patterns)]
  found += [x for f in found if os.path.isdir(f) for x in os.listdir(f)]
  return [os.path.basename(path) for path in found]


def expand(patterns: Patterns, suffix: str = 'tar') -> list[str]:
  """Expands `{000..436}`, `{a,b}`, `*`, `~` and folders in paths of shards.

  Args:
    patterns: str or path, or a list of them. An address (`gs://bucket/*.tar`)
      is listed by fsspec; of a folder, or an address that ends with `/`, all
      files with the suffix are taken.
    suffix: of the shards in a folder.

  Returns:
    Paths in order, without those that do not exist: warnings name the patterns
    that lack some or all of theirs.

  Raises:
    FileNotFoundError: nothing matches; the message says how to prepare it.
    ValueError: a pattern is a command.
  """
  patterns = listed(patterns)
  if not patterns:
    raise ValueError(
      'No shards are named: give a path or a pattern, such as '
      'data.shards=/data/{00000..00331}.tar.'
    )
  files_of = {pattern: _files_by_path(pattern, suffix) for pattern in patterns}
  found = [
    file
    for by_path in files_of.values()
    for there in by_path.values()
    for file in there
  ]
  if not found:
    named = ''.join(f'  {pattern}\n' for pattern in patterns[:_MOST_NAMED])
    more = len(patterns) - _MOST_NAMED
    more = f'  and {more} more\n' if more > 0 else ''
    raise FileNotFoundError(
      f'no training data: none of the shards is there:\n{named}{more}'
      + _HOW_TO_PREPARE
    )
  _warn_of_absent(files_of)
  return list(dict.fromkeys(found))


def absent(patterns: Patterns) -> list[tuple[str, str]]:
  """Returns (pattern, path) of paths spelled out that are not there."""
  return [
    (pattern, path)
    for pattern in listed(patterns)
    for path, there in _files_by_path(pattern, 'tar').items()
    if not there
  ]


def _files_by_path(pattern, suffix):
  """Maps each path that the braces spell to the files that are there."""
  if pattern.startswith('pipe:'):
    raise ValueError(
      f'{pattern!r} is a command, and commands are not run: give a path or an '
      'address (gs://, s3://, https://, hf://).'
    )
  if remote.is_remote(pattern):
    return {url: remote.matches(url, suffix) for url in _braces(pattern)}
  by_path = {}
  for path in _braces(os.path.expanduser(pattern)):
    if os.path.isdir(path):
      path = os.path.join(path, f'*.{suffix}*')
    matches = sorted(glob.glob(path)) if glob.has_magic(path) else [path]
    by_path[path] = [
      match  # and no index beside a shard
      for match in matches
      if os.path.isfile(match) and not match.endswith('.npz')
    ]
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
