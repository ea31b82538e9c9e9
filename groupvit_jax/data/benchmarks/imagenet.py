"""ImageNet-1k: the class names that CLIP prompts, and their WordNet ids.

In label order, which is the order of the ids. CLIP's templates are in
`text/prompts.py`.
"""

import pathlib

_TABLE = pathlib.Path(__file__).parents[1] / 'assets' / 'imagenet_classes.tsv'


def _read() -> tuple[tuple[str, ...], tuple[str, ...]]:
  lines = _TABLE.read_text(encoding='utf-8').splitlines()
  ids, names = zip(*(line.split('\t') for line in lines), strict=True)
  return ids, names


# openai/CLIP notebooks/Prompt_Engineering_for_ImageNet.ipynb; the released
# GroupViT has the same (NVlabs/GroupViT datasets/imagenet_template.py).
IMAGENET_IDS, IMAGENET_CLASSES = _read()
