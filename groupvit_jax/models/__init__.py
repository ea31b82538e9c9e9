"""Models: Flax modules whose fields are plain values.

- `build.build`: a `DualEncoder` from a mapping of plain values.
- `dual_encoder.predict_fns`: the functions that evaluation calls.
- `groupvit.GroupViT`, `vit.ViT`, `vit.ClipViT`, `resnet.ClipResNet`,
  `text.TextTransformer`: the encoders.
- `grouping.GroupingBlock`, `layers`, `patches`, `ops`: their parts.
"""
