"""Labelled samples: reading, cleaning, splitting, tokenising and planning batches."""
