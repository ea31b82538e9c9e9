"""CLIP's prompt templates, and words put into them.

The released training puts each sampled noun into one of the 80; evaluation
averages a class over 1 (segmentation) or 7 (ImageNet) of them.
"""

from collections.abc import Sequence

import numpy as np

# openai/CLIP (MIT), notebooks/Prompt_Engineering_for_ImageNet.ipynb, in order.
FULL = (
  'a bad photo of a {}.',
  'a photo of many {}.',
  'a sculpture of a {}.',
  'a photo of the hard to see {}.',
  'a low resolution photo of the {}.',
  'a rendering of a {}.',
  'graffiti of a {}.',
  'a bad photo of the {}.',
  'a cropped photo of the {}.',
  'a tattoo of a {}.',
  'the embroidered {}.',
  'a photo of a hard to see {}.',
  'a bright photo of a {}.',
  'a photo of a clean {}.',
  'a photo of a dirty {}.',
  'a dark photo of the {}.',
  'a drawing of a {}.',
  'a photo of my {}.',
  'the plastic {}.',
  'a photo of the cool {}.',
  'a close-up photo of a {}.',
  'a black and white photo of the {}.',
  'a painting of the {}.',
  'a painting of a {}.',
  'a pixelated photo of the {}.',
  'a sculpture of the {}.',
  'a bright photo of the {}.',
  'a cropped photo of a {}.',
  'a plastic {}.',
  'a photo of the dirty {}.',
  'a jpeg corrupted photo of a {}.',
  'a blurry photo of the {}.',
  'a photo of the {}.',
  'a good photo of the {}.',
  'a rendering of the {}.',
  'a {} in a video game.',
  'a photo of one {}.',
  'a doodle of a {}.',
  'a close-up photo of the {}.',
  'a photo of a {}.',
  'the origami {}.',
  'the {} in a video game.',
  'a sketch of a {}.',
  'a doodle of the {}.',
  'a origami {}.',
  'a low resolution photo of a {}.',
  'the toy {}.',
  'a rendition of the {}.',
  'a photo of the clean {}.',
  'a photo of a large {}.',
  'a rendition of a {}.',
  'a photo of a nice {}.',
  'a photo of a weird {}.',
  'a blurry photo of a {}.',
  'a cartoon {}.',
  'art of a {}.',
  'a sketch of the {}.',
  'a embroidered {}.',
  'a pixelated photo of a {}.',
  'itap of the {}.',
  'a jpeg corrupted photo of the {}.',
  'a good photo of a {}.',
  'a plushie {}.',
  'a photo of the nice {}.',
  'a photo of the small {}.',
  'a photo of the weird {}.',
  'the cartoon {}.',
  'art of the {}.',
  'a drawing of the {}.',
  'a photo of the large {}.',
  'a black and white photo of a {}.',
  'the plushie {}.',
  'a dark photo of a {}.',
  'itap of a {}.',
  'graffiti of the {}.',
  'a toy {}.',
  'itap of my {}.',
  'a photo of a cool {}.',
  'a photo of a small {}.',
  'a tattoo of the {}.',
)

# The seven that the same notebook found to do nearly as well together, as
# released (NVlabs/GroupViT datasets/imagenet_template.py; CLIP has 'a bad photo
# of the {}.').
SUBSET = (
  'itap of a {}.',
  'a bad photo of a {}.',
  'a origami {}.',
  'a photo of the large {}.',
  'a {} in a video game.',
  'art of the {}.',
  'a photo of the small {}.',
)

# What the released segmentation uses.
SIMPLE = ('a photo of a {}.',)

# TCL's nine ('custom' in kakaobrain/tcl datasets/templates.py).
TCL = (*SUBSET, 'a photo of many {}.', 'a photo of {}s.')

TEMPLATES = {'full': FULL, 'subset': SUBSET, 'simple': SIMPLE, 'tcl': TCL}

SYNONYM = '|'  # between the names of a class, as in 'person|man|woman'


def synonyms(name: str) -> tuple[str, ...]:
  """The names of a class, the displayed one first; white space collapsed."""
  return tuple(' '.join(word.split()) for word in name.split(SYNONYM))


def shown_name(name: str) -> str:
  """The name of a class in tables and on images: its first synonym."""
  return synonyms(name)[0]


def repeated(names: Sequence[str]) -> str | None:
  """The first name or synonym that repeats an earlier one; None if none does.

  Case is ignored, as the text encoder does: a second class of the same name
  could never be predicted.
  """
  seen = set()
  for word in (word for name in names for word in synonyms(name)):
    if word.lower() in seen:
      return word
    seen.add(word.lower())
  return None


def check_distinct(names: Sequence[str], where: str = '') -> None:
  """Raises ValueError for a name that is `repeated`.

  Args:
    names: of classes, with synonyms.
    where: they come from; the message begins with it.
  """
  word = repeated(names)
  if word is not None:
    raise ValueError(
      f'{where}class name {word!r} stands twice (upper and lower case are the '
      'same), and the second could never be found; give each class a name of '
      'its own'
    )


def find_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
  """Templates by the name of a set (a key of `TEMPLATES`), or the user's own.

  Raises:
    ValueError: an unknown name, no template, or one without a place for the
      name.
  """
  if isinstance(templates, str):
    if templates in TEMPLATES:
      return TEMPLATES[templates]
    if '{}' not in templates:
      raise ValueError(
        f'templates={templates!r} is unknown; choose one of '
        f"{', '.join(TEMPLATES)}, or write your own with '{{}}'."
      )
    return (templates,)
  if not templates:
    raise ValueError('templates must be a list with at least one template')
  for template in templates:
    if '{}' not in template:
      raise ValueError(
        f"template {template!r} has no '{{}}' to put a name in, as in "
        f'{SIMPLE[0]!r}'
      )
  return tuple(templates)


def fill(template: str, name: str) -> str:
  """The template with a name in it; braces inside the name stay as they are."""
  return template.replace('{}', name)


def sample_prompts(
  rng: np.random.Generator,
  words: Sequence[str],
  k: int,
  templates: Sequence[str],
  fallback: str,
) -> list[str]:
  """Prompts some of a caption's words, as the released multi-label loss does.

  At most k words are drawn without replacement from the list (a word that
  stands in the caption twice may be drawn twice), each goes into a template
  drawn at random, and the raw caption fills up what is missing (paper section
  3.2; NVlabs/GroupViT datasets/builder.py, WordAugTokenizeWrapper).

  Args:
    rng: source of the draws.
    words: the caption's nouns (and verbs).
    k: prompts wanted.
    templates: templates with a '{}'.
    fallback: the raw caption.

  Returns:
    k texts.
  """
  chosen = rng.permutation(len(words))[:k]
  drawn = rng.integers(len(templates), size=len(chosen))
  prompts = [
    fill(templates[int(t)], words[int(w)])
    for w, t in zip(chosen.tolist(), drawn.tolist(), strict=True)
  ]
  return prompts + [fallback] * (k - len(prompts))
