"""Names of the classes of `scenes`, their words and their colours.

Everything that is vocabulary rather than drawing lives here.
"""

GROUNDS = ('brick', 'grass', 'gravel', 'sand', 'snow', 'water', 'wood')

THINGS = (
  'apple',
  'ball',
  'bird',
  'boat',
  'butterfly',
  'cactus',
  'cat',
  'fish',
  'flower',
  'leaf',
  'mushroom',
  'starfish',
)

# The order of mask values: grounds first, then things, each by alphabet.
CLASS_NAMES = GROUNDS + THINGS

PLURALS = {
  'butterfly': 'butterflies',
  'cactus': 'cacti',
  'fish': 'fish',
  'leaf': 'leaves',
  'starfish': 'starfish',
  'goldfish': 'goldfish',
}

# (singular, plural) of other words for a thing; the class name stays the word
# of four captions in five, because zero-shot evaluation asks for it.
SYNONYMS = {
  'apple': (('fruit', 'fruits'),),
  'ball': (('toy ball', 'toy balls'), ('rubber ball', 'rubber balls')),
  'bird': (('songbird', 'songbirds'), ('little bird', 'little birds')),
  'boat': (('ship', 'ships'), ('vessel', 'vessels')),
  'butterfly': (('moth', 'moths'),),
  'cactus': (('cactus plant', 'cactus plants'), ('succulent', 'succulents')),
  'cat': (('kitten', 'kittens'), ('kitty', 'kitties')),
  'fish': (('goldfish', 'goldfish'), ('little fish', 'little fish')),
  'flower': (('blossom', 'blossoms'), ('bloom', 'blooms')),
  'leaf': (('tree leaf', 'tree leaves'), ('fallen leaf', 'fallen leaves')),
  'mushroom': (('toadstool', 'toadstools'), ('fungus', 'fungi')),
  'starfish': (('sea star', 'sea stars'),),
}

# Ways to speak of a ground; the first is the plain one.
GROUND_WORDS = {
  'brick': ('brick', 'the brick', 'a brick wall', 'old brick', 'red bricks'),
  'grass': ('grass', 'the grass', 'green grass', 'a lawn', 'a meadow'),
  'gravel': ('gravel', 'the gravel', 'gray gravel', 'pebbles', 'stones'),
  'sand': ('sand', 'the sand', 'warm sand', 'a beach', 'a sandy beach'),
  'snow': ('snow', 'the snow', 'fresh snow', 'white snow', 'a snowy field'),
  'water': ('water', 'the water', 'blue water', 'a lake', 'a pond'),
  'wood': ('wood', 'the wood', 'old wood', 'wooden boards', 'a wooden floor'),
}

# Hue, saturation, value (each 0 to 1) at the middle of a colour word.
COLOURS = {
  'red': (0.985, 0.80, 0.76),
  'orange': (0.065, 0.82, 0.90),
  'yellow': (0.135, 0.78, 0.92),
  'green': (0.300, 0.62, 0.55),
  'blue': (0.600, 0.68, 0.72),
  'purple': (0.775, 0.50, 0.60),
  'pink': (0.930, 0.42, 0.92),
  'white': (0.110, 0.06, 0.93),
  'black': (0.620, 0.16, 0.16),
  'gray': (0.600, 0.07, 0.56),
  'brown': (0.065, 0.58, 0.46),
}

# Colours of a thing with their odds. As in the world, most things have a usual
# colour, and every colour is shared by several things: colour is a hint that
# holds about six times in ten, never a name.
PALETTES = {
  'apple': (('red', 6), ('green', 3), ('yellow', 1)),
  'ball': (('blue', 5), ('white', 2), ('red', 2), ('green', 1)),
  'bird': (('yellow', 6), ('blue', 2), ('red', 1), ('black', 1)),
  'boat': (('white', 6), ('red', 2), ('blue', 1), ('brown', 1)),
  'butterfly': (('purple', 6), ('blue', 2), ('orange', 1), ('yellow', 1)),
  'cactus': (('green', 1),),
  'cat': (('black', 6), ('gray', 2), ('orange', 2)),
  'fish': (('gray', 6), ('orange', 3), ('blue', 1)),
  'flower': (('pink', 6), ('white', 2), ('yellow', 2)),
  'leaf': (('green', 5), ('orange', 2), ('yellow', 2), ('brown', 1)),
  'mushroom': (('brown', 6), ('red', 3), ('white', 1)),
  'starfish': (('orange', 6), ('red', 2), ('purple', 1), ('pink', 1)),
}


def plural(word: str) -> str:
  """Plural of a class name."""
  return PLURALS.get(word, word + 's')
