"""Names of what can be measured, and of how; nothing that measures it.

Nothing is imported here, so that a command's help can show them at once.
"""

SEGMENTED = (
  *('voc21', 'voc20', 'context60', 'context59', 'coco_object', 'coco_stuff'),
  *('ade20k', 'cityscapes', 'pet', 'scenes', 'scenes_things', 'folder'),
)
DRAWN = ('scenes', 'scenes_things')  # of SEGMENTED: they have no folder
CAPTIONS = 'captions'
WHOLES = ('imagenet', 'classes', CAPTIONS)
NAMES = (*SEGMENTED, *WHOLES)

PROTOCOLS = ('groupvit', 'tcl')

MODEL = 'model'  # the groups are its own
REGIONS = (MODEL, 'kmeans', 'pixels', 'mean_shift', 'spectral')
COUNTED = ('kmeans', 'spectral')  # of REGIONS: they are told how many
NUM_GROUPS = 8
