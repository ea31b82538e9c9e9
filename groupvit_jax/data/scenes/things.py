"""Who paints which thing: parts, patterns and relief, by signed distance.

A painter takes (canvas, dice, tone); `tone` is the (hue, saturation, value) of
the thing's colour. Own coordinates: about a unit circle, y down.
"""

from groupvit_jax.data.scenes import things_animals, things_made, things_plants

PAINTERS = {
  'apple': things_plants.apple,
  'ball': things_made.ball,
  'bird': things_animals.bird,
  'boat': things_made.boat,
  'butterfly': things_animals.butterfly,
  'cactus': things_plants.cactus,
  'cat': things_animals.cat,
  'fish': things_animals.fish,
  'flower': things_plants.flower,
  'leaf': things_plants.leaf,
  'mushroom': things_plants.mushroom,
  'starfish': things_animals.starfish,
}
