"""Tables of images and captions: CSV, TSV, JSON lines, Parquet.

An image is the path of a file, or in Parquet its bytes, as the Hugging Face hub
keeps them.
"""

import bisect
import csv
import functools
import json
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from groupvit_jax import files
from groupvit_jax.data import paths, reading, records, remote, tar
from groupvit_jax.data.images import MAX_BYTES, BadSampleError
from groupvit_jax.data.reading import Source
from groupvit_jax.data.sources import Joined

SUFFIXES = ('.csv', '.tsv', '.jsonl', '.parquet')
_IMAGES = ('image', 'file_name', 'filename', 'filepath', 'file', 'path', 'jpg')
_CAPTIONS = ('captions', 'caption', 'text', 'txt', 'sentences', 'title')
_MOST_GROUPS = 4  # of rows of a Parquet file in memory


class _Pairs(Source):
  """Base of tables: images are files, or bytes.

  Fields:
    name: path of the table.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    images: str | os.PathLike | None = None,
    columns: Mapping[str, str] | None = None,
  ):
    """Opens a table.

    Args:
      path: of the table. The first line of a CSV or TSV names the columns.
      images: folder that image paths are relative to; by default the table's.
      columns: names of the columns `image` and `caption`, where they are not
        the usual ones.

    Raises:
      ImportError: the package pyarrow is missing.
      ValueError: no such columns, or a file that does not parse.
    """
    self.name = os.fspath(path)
    path = files.expanded(path)
    self._folder = files.expanded(images) if images else path.parent
    self._open(path, columns)

  def _open(
    self, path: pathlib.Path, columns: Mapping[str, str] | None
  ) -> None:
    raise NotImplementedError

  def _row(self, index: int) -> tuple[Any, Any]:
    raise NotImplementedError

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns {'image': encoded bytes, 'caption': one or several}.

    Raises:
      BadSampleError: there is no image, no such file, or it is too large.
    """
    image, caption = self._row(index)
    return {
      'image': _image_bytes(image, self._folder),
      'caption': _captions(caption),
    }


class TableSource(_Pairs):
  """Pairs of a CSV, TSV or JSON lines table."""

  def _open(self, path, columns):
    rows = _json_rows(path) if path.suffix == '.jsonl' else _csv_rows(path)
    names = rows[0] if rows else {}
    image, caption = _columns(names, columns, self.name)
    self._rows = [(row.get(image), row.get(caption)) for row in rows]

  def __len__(self) -> int:
    return len(self._rows)

  def _row(self, index):
    return self._rows[index]

  def describe(self, index: int) -> str:
    """Names a sample by the row and its image."""
    return f'{self.name}: row {index + 1} ({self._rows[index][0]})'

  def identity(self) -> dict[str, Any]:
    """See `Source.identity`: the table alone, not its images."""
    return reading.describe_identity('table', len(self), 1, self._rows)


class ParquetSource(_Pairs):
  """Pairs of a Parquet file."""

  def _open(self, path, columns):
    try:
      from pyarrow import parquet
    except ImportError as error:
      raise ImportError(
        "Parquet files need: pip install 'groupvit_jax[parquet]'"
      ) from error
    try:
      self._file = parquet.ParquetFile(path)
    except OSError:
      raise
    except Exception as error:
      raise ValueError(f'{path} is no Parquet file ({error})') from error
    names = self._file.schema_arrow.names
    self._columns = _columns(names, columns, self.name)
    meta = self._file.metadata
    rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
    self._ends = np.cumsum(rows).tolist()
    self._group = functools.lru_cache(_MOST_GROUPS)(self._read_group)
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def _row(self, index):
    group = bisect.bisect_right(self._ends, index)
    at = index - (self._ends[group - 1] if group else 0)
    with self._lock:  # threads that want one group read it once
      table = self._group(group)
    image, caption = (table.column(k)[at].as_py() for k in range(2))
    if isinstance(image, dict):  # of the datasets library
      image = image.get('bytes') or image.get('path')
    return image, caption

  def describe(self, index: int) -> str:
    """Names a sample by its row."""
    return f'{self.name}: row {index + 1}'

  def identity(self) -> dict[str, Any]:
    """See `Source.identity`: name, size and number of rows."""
    size = files.expanded(self.name).stat().st_size
    facts = [os.path.basename(self.name), size]
    return reading.describe_identity('parquet', len(self), 1, facts)

  def _read_group(self, number):
    table = self._file.read_row_group(number, columns=list(self._columns))
    return table.select(self._columns)


def open_source(
  entries: Sequence[str],
  *,
  images: str | os.PathLike | None = None,
  columns: Mapping[str, str] | None = None,
  cache: remote.ShardCache | None = None,
) -> Source:
  """Opens tables, tar shards or record files, told apart by their names.

  Args:
    entries: paths, patterns, folders or addresses (of shards).
    images, columns: as TableSource.
    cache: for remote shards.

  Raises:
    ValueError, FileNotFoundError: an entry that cannot be read.
  """
  parts: dict[str, Source] = {}
  shards: list[str] = []
  for entry in entries:
    if pathlib.Path(entry).suffix in SUFFIXES and not remote.is_remote(entry):
      for path in _found('tables', paths.expand, entry):
        form = ParquetSource if path.endswith('.parquet') else TableSource
        parts[path] = form(path, images, columns)
    else:
      shards.append(entry)
  if shards:
    names = ' '.join(paths.names(shards))
    if '.tfrecord' in names or 'array_record' in names:
      keys = {f'{kind}_key': name for kind, name in (columns or {}).items()}
      open_shards = functools.partial(records.open_records, **keys)
    else:
      open_shards = tar.TarSource
    source = _found('shards', open_shards, shards, None, cache)
    parts[source.name] = source
  return next(iter(parts.values())) if len(parts) == 1 else Joined(parts)


def _found(what, function, entries, *args):
  """Calls a function of entries; its error tells how to prepare training."""
  try:
    return function(entries, *args)
  except FileNotFoundError:
    listed = ', '.join(paths.listed(entries))
    raise FileNotFoundError(f'{listed}: there are no such {what}') from None


def _csv_rows(path):
  csv.field_size_limit(1 << 24)
  with path.open(newline='', encoding='utf-8', errors='replace') as file:
    delimiter = '\t' if path.suffix == '.tsv' else ','
    try:
      return list(csv.DictReader(file, delimiter=delimiter))
    except csv.Error as error:
      raise ValueError(f'{path} does not parse: {error}') from error


def _json_rows(path):
  rows = []
  with path.open(encoding='utf-8', errors='replace') as file:
    for number, line in enumerate(file, 1):
      try:
        row = json.loads(line)
      except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}, line {number}: {error}') from error
      if not isinstance(row, dict):
        raise ValueError(f'{path}, line {number} is no object')
      rows.append(row)
  return rows


def _columns(names, given, table):
  """The names of the columns with images and captions."""
  found = []
  for kind, usual in (('image', _IMAGES), ('caption', _CAPTIONS)):
    chosen = (given or {}).get(kind)
    column = chosen or next((name for name in usual if name in names), None)
    if column not in names:
      raise ValueError(
        f'{table} has no column {chosen or usual[0]!r} among {list(names)}: '
        f'name it with --{kind}-column'
      )
    found.append(column)
  return tuple(found)


def _image_bytes(image, folder):
  """Bytes of an image, or of the file that it names."""
  if isinstance(image, bytes):
    return image
  if not image or not isinstance(image, str) or '\0' in image:
    raise BadSampleError('the row names no image', 'record')
  try:
    with open(os.path.join(folder, os.path.expanduser(image)), 'rb') as file:
      return file.read(MAX_BYTES + 1)
  except OSError as error:
    raise BadSampleError(
      f'{image}: {error.strerror}', 'image_absent'
    ) from error


def _captions(value):
  """One caption, or several."""
  if isinstance(value, list | tuple):
    return tuple(str(text) for text in value)
  return '' if value is None else str(value)
