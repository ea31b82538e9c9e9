"""Captions of a scene in varied English, written from its layout alone.

They name things, colours, sizes, numbers, places and the ground; now and then
something stays unsaid, as in captions from the web.
"""

from groupvit_jax.scenes import layout as layout_lib
from groupvit_jax.scenes.layout import Layout, Thing
from groupvit_jax.scenes.rng import Rng

_NUMBERS = {2: 'two', 3: 'three', 4: 'four'}

# {things} is a list of noun phrases, {ground} a noun phrase.
_WITH_GROUND = (
  ('{things} on {ground}', 9),
  ('{things} lying on {ground}', 3),
  ('on {ground}, {things}', 2),
  ('{things} seen on {ground}', 2),
  ('there {is} {things} on {ground}', 2),
  ('{ground} with {things}', 3),
  ('{things} against {ground}', 2),
  ('a photo of {things} on {ground}', 2),
  ('a picture of {things} on {ground}', 1),
  ('{things} and {ground}', 1),
  ('{ground} and {things}', 1),
  ('close-up of {things} on {ground}', 1),
  ('{things}, with {ground} all around', 1),
  ('we found {things} on {ground}', 1),
)
_ON_WATER = (
  ('{things} in {ground}', 5),
  ('{things} floating on {ground}', 4),
)
_WITHOUT_GROUND = (
  ('{things}', 6),
  ('a photo of {things}', 3),
  ('there {is} {things}', 2),
  ('look at {things}', 1),
  ('a picture of {things}', 2),
  ('{things} outdoors', 1),
)


def _word(name: str, many: bool, rng: Rng) -> str:
  """The class name, four times in five, or another word for it."""
  if rng.chance(0.2):
    one, several = rng.choice(layout_lib.SYNONYMS[name])
    return several if many else one
  return layout_lib.plural(name) if many else name


def _article(phrase: str) -> str:
  """The phrase with 'a' or 'an' before it."""
  return ('an ' if phrase[0] in 'aeiou' else 'a ') + phrase


def _attributes(thing: Thing, rng: Rng) -> str:
  """Size and colour, each only sometimes said."""
  words = []
  if rng.chance(0.25):
    if thing.share > 0.13:
      words.append(rng.choice(('big', 'large')))
    elif thing.share < 0.07:
      words.append(rng.choice(('small', 'little', 'tiny')))
  if rng.chance(0.5):
    words.append(thing.colour)
  return ''.join(word + ' ' for word in words)


def _phrases(things: list[Thing], rng: Rng) -> list[str]:
  """One noun phrase for each class, in the given order."""
  phrases = []
  for name in dict.fromkeys(thing.name for thing in things):
    same = [thing for thing in things if thing.name == name]
    if len(same) == 1:
      phrase = _article(_attributes(same[0], rng) + _word(name, False, rng))
      if rng.chance(0.08):
        phrase = 'the' + phrase[phrase.index(' ') :]
    else:
      colours = {thing.colour for thing in same}
      colour = f'{same[0].colour} ' if len(colours) == 1 else ''
      colour = colour if rng.chance(0.5) else ''
      number = rng.weighted(((_NUMBERS[len(same)], 4), ('some', 1)))
      phrase = f'{number} {colour}{_word(name, True, rng)}'
    phrases.append(phrase)
  return phrases


def _join(phrases: list[str], rng: Rng) -> str:
  """Lists phrases as people do."""
  if len(phrases) == 1:
    return phrases[0]
  last = rng.weighted(((' and ', 6), (' with ', 1), (' and also ', 1)))
  comma = ',' if len(phrases) > 2 and rng.chance(0.3) else ''
  return ', '.join(phrases[:-1]) + comma + last + phrases[-1]


def _relation(first: Thing, second: Thing, above: bool, rng: Rng) -> str:
  """How the first thing stands to the second (which is drawn later?)."""
  dx = second.pose.x - first.pose.x
  dy = second.pose.y - first.pose.y
  distance = (dx * dx + dy * dy) ** 0.5
  touching = distance < 0.8 * (first.pose.scale + second.pose.scale)
  if touching and rng.chance(0.6):
    return 'in front of' if above else 'behind'
  if abs(dx) > abs(dy) and rng.chance(0.6):
    return 'left of' if dx > 0 else 'right of'
  if abs(dy) > abs(dx) and rng.chance(0.6):
    return 'above' if dy > 0 else 'below'
  near = ('next to', 'beside', 'near', 'by')
  return rng.choice(near) if distance < 0.55 else 'not far from'


def _ground(name: str, rng: Rng) -> str:
  """A phrase for the ground: plain, adorned, or another word."""
  words = layout_lib.GROUND_WORDS[name]
  if rng.chance(0.2):
    return rng.choice(words[3:])
  return rng.weighted(((words[0], 3), (words[1], 5), (words[2], 2)))


def write(layout: Layout, rng: Rng) -> str:
  """Writes one caption.

  Returns:
    A sentence or phrase, lower case but for an occasional capital and stop.
  """
  mentioned = rng.shuffled(layout.things)
  if len(mentioned) > 1 and rng.chance(0.34):
    # One class stays unsaid: about one object in nine, over all scenes.
    unsaid = mentioned[-1].name
    mentioned = [t for t in mentioned if t.name != unsaid] or mentioned
  with_ground = rng.chance(0.9)
  templates = _WITH_GROUND if with_ground else _WITHOUT_GROUND
  if with_ground and layout.ground == 'water':
    templates = templates + _ON_WATER
  phrases = _phrases(mentioned, rng)
  distinct = list(dict.fromkeys(thing.name for thing in mentioned))
  if len(distinct) == len(mentioned) == 2 and rng.chance(0.45):
    first, second = mentioned
    above = layout.things.index(first) > layout.things.index(second)
    how = _relation(first, second, above, rng)
    things = f'{phrases[0]} {how} {phrases[1]}'
  else:
    things = _join(phrases, rng)
  # 'There is a cat and a ball', but 'there are two cats'.
  several = phrases[0].startswith(tuple(_NUMBERS.values()) + ('some',))
  text = rng.weighted(templates).format(
    things=things,
    ground=_ground(layout.ground, rng),
    **{'is': 'are' if several else 'is'},
  )
  style = rng.unit()
  if style < 0.3:
    text = text[0].upper() + text[1:] + '.'
  elif style < 0.4:
    text += '.'
  return text
