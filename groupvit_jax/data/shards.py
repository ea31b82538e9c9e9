"""Finds shard files and reads pieces out of them.

What tar and TFRecord sources share: patterns, cached indices, random reads.
"""

import concurrent.futures
import glob
import hashlib
import io
import json
import os
import pathlib
import re
import struct
import threading

import numpy as np
from absl import logging
from tqdm import tqdm

from groupvit_jax import files
from groupvit_jax.data import images

# What to do when training data is not there yet.
#
# The error of a missing data set carries the commands that make it.

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
  of https://gitlab.com/jfolz/yfcc100m, and write pictures (jpg) and their
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


def how_to_prepare(patterns):
  """Says how to make the data that patterns of shards ask for.

  Args:
    patterns: the paths or patterns (str) that found nothing.

  Returns:
    str: a paragraph with commands for each data set.
  """
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


_VERSION = 1
_NUMBERS = re.compile(r'^(\d+)\.\.(\d+)$')
_MOST_OPEN = 256
_MOST_NAMED = 3


def expand(patterns):
  """Expands `{000..436}`, `{a,b}`, `*` and `~` in paths of shards.

  Args:
    patterns: str or path, or a list of them.

  Returns:
    List of paths (str), in order, without those that do not exist: warnings
    name the patterns that lack some or all of theirs.

  Raises:
    FileNotFoundError: nothing matches; the message says how to prepare it.
    ValueError: a pattern is a command or an address.
  """
  if isinstance(patterns, (str, os.PathLike)):
    patterns = [patterns]
  patterns = [os.fspath(pattern) for pattern in patterns]
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
    raise FileNotFoundError(_nothing_found(patterns))
  _warn_of_absent(files_of)
  return list(dict.fromkeys(found))


def absent(patterns):
  """Paths that patterns spell out and that are not there.

  Args:
    patterns: as in `expand`.

  Returns:
    List of (pattern, path), in order.
  """
  if isinstance(patterns, (str, os.PathLike)):
    patterns = [patterns]
  return [
    (pattern, path)
    for pattern in map(os.fspath, patterns)
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
    logging.warning('%s', _left_out(empty))


def _left_out(patterns):
  """Names data sets of which nothing is there, while others are."""
  named = ', '.join(patterns[:_MOST_NAMED])
  more = len(patterns) - _MOST_NAMED
  if more > 0:
    named += f' and {more} more'
  return (
    f'no shard is there of {named}: training goes on without; '
    'docs/data.md tells how to prepare them'
  )


def _nothing_found(patterns):
  return (
    'no training data: none of the shards is there. How to prepare them:\n\n'
    + how_to_prepare(patterns)
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


def build_index(paths, scan, kind):
  """Indexes shards, in parallel, with indices of earlier runs reused.

  Args:
    paths: list of paths.
    scan: function of a path that returns an integer array [n, columns].
    kind: str, tells index files of different scans apart.

  Returns:
    (shard int32 [n], table uint32 or int64 [n, columns]), shards in order.
  """
  with concurrent.futures.ThreadPoolExecutor(min(32, len(paths))) as pool:
    work = pool.map(lambda path: _indexed(path, scan, kind), paths)
    progress = tqdm(
      work, 'index shards', len(paths), unit=' shards', delay=2, leave=False
    )
    tables = list(progress)
  shard = np.repeat(
    np.arange(len(paths), dtype=np.int32), [len(table) for table in tables]
  )
  return shard, np.concatenate(tables)


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

  def __init__(self, paths):
    self.paths = list(paths)
    self._open = {}
    self._lock = threading.Lock()

  def read(self, shard, offset, size):
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

  def close(self):
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


# Random access to image-caption pairs in tar shards.
#
# The shards of img2dataset and webdataset, read without either: headers once
# into an index, then one pread per image, no pipe and no pickle.

IMAGES = ('jpg', 'jpeg', 'png', 'webp')
_CAPTIONS = ('txt', 'text', 'json')
BLOCK = 512
# A caption member larger than this is no caption.
_MAX_CAPTION_BYTES = 1 << 20


class TarSource:
  """Image-caption pairs of tar shards.

  Fields:
    name: what messages call it.
    paths: the shards.
  """

  def __init__(self, patterns, name=None):
    """Opens shards.

    Args:
      patterns: path or pattern (`{00000..00436}.tar`, `*.tar`), or a list.
      name: what messages call it; by default the patterns.

    Raises:
      FileNotFoundError: no shard; the message says how to prepare the data.
      ValueError: the shards hold no pair.
    """
    self.paths = expand(patterns)
    self.name = name or _short(patterns)
    self._shard, self._table = build_index(self.paths, scan, 'pairs')
    if not len(self._table):
      raise ValueError(
        f'{self.name}: {len(self.paths)} shards hold no pair of an image '
        f'({", ".join(IMAGES)}) and a caption ({", ".join(_CAPTIONS)}) under '
        'one key.'
      )
    self._files = Files(self.paths)

  def __len__(self):
    return len(self._table)

  def __getitem__(self, index):
    """Returns {'image': encoded bytes, 'caption': str}."""
    shard, row = self._shard[index], self._table[index].tolist()
    image_at, image_size, caption_at, caption_size, is_json = row
    image = self._files.read(shard, image_at * BLOCK, image_size)
    caption = self._files.read(
      shard, caption_at * BLOCK, min(caption_size, _MAX_CAPTION_BYTES)
    )
    return {'image': image, 'caption': _text(caption, is_json)}


def _short(patterns):
  if isinstance(patterns, (str, os.PathLike)):
    return os.fspath(patterns)
  return ', '.join(map(os.fspath, patterns))


def _text(caption, is_json):
  if not is_json:
    return caption.decode('utf-8', 'replace')
  try:
    fields = json.loads(caption)
  except ValueError as error:
    raise images.BadSampleError(f'the json does not parse ({error})') from error
  text = None
  if isinstance(fields, dict):
    text = fields.get('caption') or fields.get('text')
  if not isinstance(text, str):
    raise images.BadSampleError('the json has no "caption" or "text"')
  return text


def scan(path):
  """Indexes the pairs of one tar shard.

  Args:
    path: of the shard.

  Returns:
    int64 [n, 5]: for each pair the 512-byte block where the image starts, its
    size in bytes, the same of the caption, and whether that is JSON.
  """
  rows, unpaired = [], 0
  for parts in samples(path):
    image = next((parts[e] for e in IMAGES if e in parts), None)
    kind = next((e for e in _CAPTIONS if e in parts), None)
    if image and kind:
      rows.append((*image, *parts[kind], kind == 'json'))
    else:
      unpaired += 1
  if unpaired:
    logging.warning(
      '%s: %d samples lack an image or a caption and are left out',
      path,
      unpaired,
    )
  return np.array(rows, np.int64).reshape(-1, 5)


def samples(path):
  """Walks the samples of a tar: neighbours whose names differ in suffix alone.

  Args:
    path: of the tar.

  Yields:
    dict of (block, size) by suffix in lower case, without its dot.

  Raises:
    ValueError: the file is no tar.
  """
  key, parts = None, {}
  for name, block, size in members(path):
    folder, slash, base = name.rpartition('/')
    stem, dot, extension = base.partition('.')
    if not stem or not dot:
      continue
    extension = extension.lower()
    if folder + slash + stem != key or extension in parts:
      if parts:
        yield parts
      key, parts = folder + slash + stem, {}
    parts[extension] = (block, size)
  if parts:
    yield parts


def members(path):
  """Walks the regular files of an uncompressed tar (POSIX.1-2001, GNU).

  Args:
    path: of the tar.

  Yields:
    (name, block where its data starts, size in bytes). A member that the end
    of the file cuts ends the walk with a warning.

  Raises:
    ValueError: the file is no tar.
  """
  end = os.path.getsize(path)
  with open(path, 'rb', buffering=0) as file:
    at, extra = 0, {}
    while at + BLOCK <= end:
      header = os.pread(file.fileno(), BLOCK, at)
      if not header.strip(b'\0'):
        return
      size = _header_size(header, path, at)
      kind = header[156:157]
      size = extra.get('size', size) if kind not in b'xgLK' else size
      data = at + BLOCK
      at = data + -(-size // BLOCK) * BLOCK
      if data + size > end:
        break
      if kind in (b'L', b'x'):
        value = os.pread(file.fileno(), size, data)
        extra.update(_long_name(value) if kind == b'L' else _pax(value))
      elif kind in (b'g', b'K'):
        pass
      else:
        if kind in b'0\x007':
          yield extra.get('path') or _name(header), data // BLOCK, size
        extra = {}
    else:
      return
  logging.warning('%s is cut short; its last sample is left out', path)


def _header_size(header, path, at):
  field = header[124:136]
  if header[257:262] != b'ustar' and at == 0 and header[:2] == b'\x1f\x8b':
    raise ValueError(f'{path} is compressed: gunzip it for random access.')
  try:
    if field[0] & 0x80:  # GNU: too large for octal digits
      return int.from_bytes(field, 'big') & ((1 << 88) - 1)
    return int(field.rstrip(b'\0 ').lstrip() or b'0', 8)
  except ValueError as error:
    raise ValueError(
      f'{path} is not an uncompressed tar, or is broken at byte {at}.'
    ) from error


def _name(header):
  name = header[:100].split(b'\0', 1)[0]
  if header[257:263] == b'ustar\0':
    prefix = header[345:500].split(b'\0', 1)[0]
    name = prefix + b'/' + name if prefix else name
  return name.decode('utf-8', 'replace')


def _long_name(value):
  return {'path': value.split(b'\0', 1)[0].decode('utf-8', 'replace')}


def _pax(value):
  """Path and size of an extended header ("length key=value\\n" records)."""
  found, at = {}, 0
  while at < len(value):
    length = int(value[at : value.index(b' ', at)])
    record = value[at : at + length].split(b' ', 1)[1].rstrip(b'\n')
    key, _, text = record.partition(b'=')
    if key == b'path':
      found['path'] = text.decode('utf-8', 'replace')
    elif key == b'size':
      found['size'] = int(text)
    at += max(length, 1)
  return found


# Random access to image-caption pairs in TFRecord files, without TensorFlow.
#
# Record lengths are walked once into an index; a tf.train.Example is parsed by
# the few rules of the protocol buffer wire format that it uses.

_IMAGE_KEYS = ('image', 'image/encoded', 'jpg', 'jpeg', 'png')
_CAPTION_KEYS = (
  'caption',
  'captions',
  'captions/text',
  'image/caption',
  'text',
  'txt',
)


class TFRecordSource:
  """Image-caption pairs of TFRecord files of tf.train.Example.

  Fields:
    name: what messages call it.
    paths: the files.
    image_key, caption_key: features to read; None finds the usual names.
  """

  def __init__(self, patterns, name=None, image_key=None, caption_key=None):
    """Opens TFRecord files.

    Args:
      patterns: path or pattern, or a list (see `shards.expand`).
      name: what messages call it; by default the first pattern.
      image_key: feature with the encoded image.
      caption_key: feature with the caption or captions.

    Raises:
      FileNotFoundError: no file matches.
      ValueError: no record, a compressed file, or no such feature.
    """
    self.paths = expand(patterns)
    self.name = name or self.paths[0]
    self._shard, self._table = build_index(self.paths, scan_records, 'records')
    if not len(self._table):
      raise ValueError(f'{self.name}: the TFRecord files hold no record.')
    self._files = Files(self.paths)
    features = parse_example(self._record(0))
    self.image_key = image_key or _find(features, _IMAGE_KEYS, 'image')
    self.caption_key = caption_key or _find(features, _CAPTION_KEYS, 'caption')

  def __len__(self):
    return len(self._table)

  def __getitem__(self, index):
    """Returns {'image': encoded bytes, 'caption': tuple of bytes}."""
    try:
      features = parse_example(self._record(index))
    except (ValueError, IndexError) as error:
      raise images.BadSampleError(f'a broken record ({error})') from error
    image = features.get(self.image_key) or [b'']
    captions = features.get(self.caption_key) or [b'']
    return {'image': bytes(image[0]), 'caption': tuple(map(bytes, captions))}

  def _record(self, index):
    offset, size = self._table[index].tolist()
    return self._files.read(self._shard[index], offset, size)


def _find(features, keys, what):
  for key in keys:
    if key in features:
      return key
  raise ValueError(
    f'No {what} among the features {sorted(features)}: name it with '
    f'{what}_key=...'
  )


def scan_records(path):
  """Indexes the records of one TFRecord file.

  Args:
    path: of the file.

  Returns:
    int64 [n, 2]: offset and size in bytes of each record's data.
  """
  rows, at, end = [], 0, os.path.getsize(path)
  with open(path, 'rb', buffering=0) as file:
    # A record is: length (8), its checksum (4), data, checksum (4).
    while at + 16 <= end:
      (size,) = struct.unpack('<Q', os.pread(file.fileno(), 8, at))
      if at + 16 + size > end:
        break
      rows.append((at + 12, size))
      at += 16 + size
  if at != end:
    if not rows:
      raise ValueError(
        f'{path} is no uncompressed TFRecord file: write it without GZIP, '
        'which cannot be read at random.'
      )
    logging.warning('%s is cut short; its last record is left out', path)
  return np.array(rows, np.int64).reshape(-1, 2)


def parse_example(data):
  """Parses the byte features of a serialised tf.train.Example.

  Args:
    data: bytes. Example {1: Features {1: map entry {1: key, 2: Feature}}},
      where Feature {1: BytesList {1: bytes}}.

  Returns:
    Dict from feature name to its list of bytes; features of numbers have an
    empty list.
  """
  found = {}
  for features in _messages(memoryview(data), 1):
    for entry in _messages(features, 1):
      key = bytes(next(_messages(entry, 1), b'')).decode()
      found[key] = [
        bytes(value)
        for feature in _messages(entry, 2)
        for values in _messages(feature, 1)
        for value in _messages(values, 1)
      ]
  return found


def _messages(data, wanted):
  """Yields the length-delimited fields of one number in a message."""
  at = 0
  while at < len(data):
    tag, at = _varint(data, at)
    number, wire = tag >> 3, tag & 7
    if wire == 2:
      size, at = _varint(data, at)
      if at + size > len(data):
        raise ValueError('a field runs over the end')
      if number == wanted:
        yield data[at : at + size]
      at += size
    elif wire == 0:
      _, at = _varint(data, at)
    elif wire in (1, 5):
      at += 8 if wire == 1 else 4
    else:
      raise ValueError(f'wire type {wire}')


def _varint(data, at):
  value = shift = 0
  while True:
    byte = data[at]
    at += 1
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      return value, at
    shift += 7
