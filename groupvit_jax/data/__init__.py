"""Training input: sources, sampling, augmentation and batches."""
