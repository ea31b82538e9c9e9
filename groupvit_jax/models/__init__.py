"""Models: Flax modules whose fields are plain values."""
