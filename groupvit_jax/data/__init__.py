"""Training input: sources, decoding, sampling, augmentation and batches.

- `pipeline.train_batches`: the batches of a run from any position.
- `sources`, `shards`, `tables`: samples in memory, TFDS, shards and tables.
- `sampling`: the order of samples, from seed and position alone.
- `images.open_image`, `images.decode`: the one decoder of images.
- `augment` (host, Pillow) and `on_device` (JAX): flips, crops, RandAugment,
  normalisation.
- `conversion.convert`, `inspection.inspect`: `groupvit data`.
"""
