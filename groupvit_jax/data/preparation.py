"""What to do when training data is not there yet.

The error of a missing data set carries the commands that make it.
"""

_IMG2DATASET = """\
  pip install img2dataset
  img2dataset --url_list {table} --input_format {kind} --url_col url \\
    --caption_col caption --output_format webdataset \\
    --output_folder {folder} --processes_count 16 --thread_count 64 \\
    --image_size 512 --resize_mode keep_ratio --resize_only_if_bigger True"""

_CC3M = (
  'Conceptual Captions 3M: get Train_GCC-training.tsv from '
  'https://ai.google.com/research/ConceptualCaptions/download, put the header '
  'line "caption<TAB>url" on top, then\n'
  + _IMG2DATASET.format(
    table='Train_GCC-training.tsv', kind='tsv', folder='{folder}'
  )
)
_CC12M = (
  'Conceptual 12M: get cc12m.tsv from '
  'https://github.com/google-research-datasets/conceptual-12m, put the header '
  'line "url<TAB>caption" on top, then\n'
  + _IMG2DATASET.format(table='cc12m.tsv', kind='tsv', folder='{folder}')
)
_REDCAPS = (
  'RedCaps: get the annotations (JSON) from https://redcaps.xyz, write their '
  'columns url and caption to shuffled parquet files in redcaps/, then\n'
  + _IMG2DATASET.format(table='redcaps/', kind='parquet', folder='{folder}')
)
_YFCC = (
  'YFCC14M: take the photo ids of '
  'https://github.com/openai/CLIP/blob/main/data/yfcc100m.md, join them with '
  "YFCC100M's table, and write tar shards into {folder} whose samples have "
  'the keys jpg and text (the description: url-unquoted, HTML removed, two '
  'words or more).'
)
_ANY = (
  'Any tar shards of img2dataset or webdataset will do: each sample has an '
  'image (jpg, jpeg, png, webp) and a caption (txt, text, json):\n'
  + _IMG2DATASET.format(table='pairs.tsv', kind='tsv', folder='{folder}')
)

_BY_WORD = (
  (('gcc12m', 'cc12m', 'conceptual-12m'), _CC12M),
  (('gcc3m', 'cc3m', 'gcc-train'), _CC3M),
  (('redcap',), _REDCAPS),
  (('yfcc',), _YFCC),
)


def how_to_prepare(pattern, folder):
  """Says how to make the data that a pattern of shards asks for.

  Args:
    pattern: the path or pattern that found nothing.
    folder: where the data should lie.

  Returns:
    str, one or more lines.
  """
  for words, text in _BY_WORD:
    if any(word in pattern.lower() for word in words):
      return text.replace('{folder}', folder)
  return _ANY.replace('{folder}', folder)
