"""Words of a caption that may name something in its image, offline.

The multi-label loss prompts them (paper section 3.2). The original tags with
nltk's perceptron, whose weights are a separate download; this uses TextBlob's
lexicon tagger, whose data is inside its wheel, plus a few rules for what it
gets wrong in captions. Both tag English.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

Tagged = list[tuple[str, str]]


def _set(words: str) -> frozenset[str]:
  return frozenset(words.split())


KINDS = ('nouns_and_verbs', 'nouns', 'noun_phrases')

# The released list (NVlabs/GroupViT datasets/builder.py); it has no NNPS.
_RELEASED = _set('NN NNS NNP VB VBD VBG VBN VBP VBZ')
_NOUNS = _set('NN NNS NNP NNPS')
_ADJECTIVES = _set('JJ JJR JJS')
_DETERMINERS = frozenset(['DT', 'PRP$'])
# After these no verb follows (after "that" or "while" it may).
_PREPOSITIONS = _set('of with on in over near by under behind through above')
# Articles and numbers that may stand for a noun themselves.
_PRONOUNS = _set('this that another one each either neither')
# What begins another phrase, and what ends the one before it.
_PHRASE_STARTS = _set('DT PRP$ CD IN . CC')
_PHRASE_ENDS = _set('. IN TO VBZ VBP WDT WP MD')
_SUBJECTS = _set('NN NNP PRP WP WDT')

# A text encoder reads 77 tokens, some 400 characters: nothing far behind them
# can be learned, and a broken caption must not cost a second.
MAX_CHARACTERS = 2000

# Verbs that captions use in the present tense and the lexicon knows as nouns.
_VERB_FORMS = _set(
  'approaches attempts bites catches chases chews climbs crawls dances '
  'drinks drives fetches grabs grazes grins hits hugs jumps kicks laughs '
  'leaps naps paddles points poses races rests retrieves rides runs sails '
  'shakes sits skates sleeps slides smiles soars splashes stands stares '
  'swims swings talks throws walks watches'
)
# Groups take a plural verb ("a couple sit"), so the rule for "a kitchen sink"
# must not apply after them.
_COLLECTIVES = _set(
  'audience band bunch cattle couple crew crowd deer family fish flock '
  'group herd pair police sheep team trio'
)
# Adjectives that stay adjectives at the end of a phrase ("next to the other").
_NEVER_NOUNS = _set('few many more most much next other same several such')


@functools.cache
def _tagger() -> tuple[Callable[..., Any], Callable[..., Any]]:
  """TextBlob's parser and lexicon; its import takes a second or two."""
  from textblob import en

  return en.parser.parse, en.lexicon.get


def extract(caption: str, kind: str = 'nouns_and_verbs') -> list[str]:
  """Finds the words of a caption that the multi-label loss may prompt.

  Args:
    caption: English text of any length; its first 2,000 characters are read.
      Other languages give words too, but not reliably nouns.
    kind: 'nouns_and_verbs' as released (also "is" and "are"), 'nouns', or
      'noun_phrases' (a noun with the adjectives and nouns before it).

  Returns:
    The words or phrases in lower case, in order, repeated as in the caption;
    empty for a caption without any.

  Raises:
    ValueError: an unknown kind.
  """
  check_kind(kind)
  tagged = _correct(_tag(caption))
  if kind == 'noun_phrases':
    return _phrases(tagged)
  wanted = _RELEASED if kind == 'nouns_and_verbs' else _NOUNS
  return [word for word, tag in tagged if tag in wanted and _is_word(word)]


def check_kind(kind: str) -> str:
  """Returns `kind`; ValueError when there is no such kind."""
  if kind not in KINDS:
    raise ValueError(f'word kind must be one of {KINDS}, got {kind!r}')
  return kind


def _tag(caption: str) -> Tagged:
  if len(caption) > MAX_CHARACTERS:
    # The last word may be cut in two, so it goes (unless it is the only one).
    head = caption[:MAX_CHARACTERS]
    caption = (head.rsplit(None, 1) or [''])[0]
  parse, _ = _tagger()
  # Lower case, because the lexicon takes "Young" or "Black" at the start of a
  # caption, and most words of a Title Case one, for names.
  sentences = parse(caption.lower(), chunks=False, collapse=False)
  return [(word, tag) for sentence in sentences for word, tag in sentence]


def _is_word(word: str) -> bool:
  """Whether it has letters: not "&", "50%", an emoji or the s of "dog's"."""
  return any(map(str.isalpha, word)) and not (len(word) == 1 and word < '\x7f')


def _correct(tagged: Tagged) -> Tagged:
  """Mends, left to right, what the lexicon tagger gets wrong in captions."""
  fixed: Tagged = []
  for i in range(len(tagged)):
    fixed.append((tagged[i][0], _corrected(fixed, tagged, i)))
  return fixed


def _corrected(fixed: Tagged, tagged: Tagged, i: int) -> str:
  """The tag of word i after mended ones; each case has its example."""
  word, tag = tagged[i]
  before = fixed[-1][1] if fixed else ''
  after = _tag_at(tagged, i + 1)
  if tag == 'JJ':
    return _adjective_or_noun(fixed, tagged, i)
  if tag == 'VBZ' and _is_plural(word, fixed, after):  # three green leaves
    return 'NNS'
  if tag == 'VB' and _before_noun(fixed):  # a stuffed bear; a kitchen sink
    return 'NN'
  if tag == 'NNS' and before in _SUBJECTS:
    if word in _VERB_FORMS and after not in _NOUNS:  # a dog jumps over
      return 'VBZ'
    if after in _DETERMINERS and word.endswith('s'):  # a woman forks her food
      return 'VBZ'
  return tag


def _tag_at(tagged: Tagged, i: int) -> str:
  """The tag of a word still to come; the end counts as a full stop."""
  word, tag = tagged[i] if i < len(tagged) else ('', '.')
  return 'VBZ' if tag == 'NNS' and word in _VERB_FORMS else tag


def _adjective_or_noun(fixed: Tagged, tagged: Tagged, i: int) -> str:
  word = tagged[i][0]
  if _modifies(tagged, i):
    # The tagger guesses by "-ish" what it does not know: a starfish shell.
    return 'NN' if word.endswith('fish') else 'JJ'
  _, look_up = _tagger()
  if '-' in word:  # a man in a t-shirt, but: the water is knee-deep
    last = word.rsplit('-', 1)[1]
    tag = look_up(last) or look_up(last.removesuffix('s'))
    return 'NN' if tag in _NOUNS else 'JJ'
  if look_up(word) is None:  # two starfish; an unknown adjective is rare
    return 'NN'
  if word not in _NEVER_NOUNS and _after_article(fixed):  # an orange on a plate
    return 'NN'
  return 'JJ'


def _modifies(tagged: Tagged, i: int) -> bool:
  """Whether the phrase goes on behind word i: "black and white dog"."""
  after = _tag_at(tagged, i + 1)
  if after in ('CC', ','):
    # "an orange and a pear" does not, "a big, brown dog" does.
    return _tag_at(tagged, i + 2) not in _PHRASE_STARTS
  return after not in _PHRASE_ENDS


def _after_article(fixed: Tagged) -> bool:
  """Whether only adjectives lie between the word and its "a" or "the"."""
  for _, tag in reversed(fixed):
    if tag not in _ADJECTIVES:
      return tag in _DETERMINERS
  return False


def _is_plural(word: str, fixed: Tagged, after: str) -> bool:
  """Whether "leaves" or "tracks" is a noun after the words so far."""
  before, tag = fixed[-1] if fixed else ('', '')
  if word == 'leaves':  # far more often foliage than a departure
    return not (tag in _SUBJECTS and after in _DETERMINERS)
  if word in ('is', 'has') or before in _PRONOUNS:  # another stands
    return False
  return before in _PREPOSITIONS or tag in _DETERMINERS or tag == 'CD'


def _before_noun(fixed: Tagged) -> bool:
  """Whether a noun, not a verb, must follow the words so far."""
  word, tag = fixed[-1] if fixed else ('', '')
  if tag == 'NN':
    return word not in _COLLECTIVES
  return tag == 'VBN' or tag in _DETERMINERS or tag in _ADJECTIVES


# A phrase over one letter per word: J adjective, N noun, C "and" (which only
# joins adjectives: "a black and white dog" is one phrase, "a dog and a cat"
# and "bread and cheese" are two).
_PHRASE = re.compile('(?:J(?:C?J)*)?N+')


def _phrases(tagged: Tagged) -> list[str]:
  """Maximal noun phrases, also the one that ends the caption."""
  letters = ''.join(
    _letter(word, tag, tagged[i - 1][1] if i else 'DT')
    for i, (word, tag) in enumerate(tagged)
  )
  return [
    ' '.join(word for word, _ in tagged[found.start() : found.end()])
    for found in _PHRASE.finditer(letters)
  ]


def _letter(word: str, tag: str, tag_before: str) -> str:
  if not _is_word(word):
    return '.'
  if tag in _NOUNS:
    return 'N'
  # A participle right after the article is an adjective: "a stuffed bear".
  if tag in _ADJECTIVES or (tag == 'VBN' and tag_before in _DETERMINERS):
    return 'J'
  return 'C' if word == 'and' else '.'
