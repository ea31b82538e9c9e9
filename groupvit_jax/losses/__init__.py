"""Losses: pure functions; with a mesh, negatives come from all devices."""
