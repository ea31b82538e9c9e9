"""Losses: pure functions; with a mesh, negatives come from all devices.

- `contrastive.contrastive_loss`: images and captions, symmetric.
- `multi_label.multi_label_loss`: images, groups or tokens and nouns.
- `sigmoid.sigmoid_loss`: pairs by themselves.
- `background.background_loss`: the learned background.
- `assignment`: regularisers and statistics of the assignment.
"""
