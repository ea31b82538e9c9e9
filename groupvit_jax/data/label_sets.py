"""Class names by label set, in the order of their mask values.

Evaluation turns these names into prompts; readers label pixels by position.
"""

from groupvit_jax.data.scenes.names import CLASS_NAMES, GROUNDS, THINGS

LABEL_SETS: dict[str, tuple[str, ...]] = {
  'scenes': CLASS_NAMES,
  'scenes_things': THINGS,
  'scenes_grounds': GROUNDS,
}
