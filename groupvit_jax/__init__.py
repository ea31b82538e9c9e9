"""GroupViT in JAX: segmentation that emerges from captions alone."""

__version__ = '0.1.0'
