"""What to do when training data is not there yet.

The error of a missing data set carries the commands that make it.
"""

import os
import re

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
