"""Overlays, palettes, and names on images."""
