"""Overlays, palettes, and names on images.

- `overlay.overlay`, `overlay.groups_overlay`: labels or groups over an image.
- `overlay.class_map`, `overlay.palette_image`: labels by themselves.
- `colours.class_colours`, `colours.palette`: colours of classes and groups.
- `names.draw_names`, `names.legend_strip`: names on an image or below it.
- `probe_chart.draw`: the chart of `groupvit probe`.
"""
