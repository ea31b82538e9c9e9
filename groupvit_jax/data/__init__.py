"""Training input: sources, decoding, sampling, augmentation and batches."""
