"""Pruning: what to remove, and really removing it."""
