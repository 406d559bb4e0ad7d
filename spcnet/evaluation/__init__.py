"""Scoring: confusion counts, IoU, and one pass over a domain."""
