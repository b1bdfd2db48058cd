"""Honest numbers about a model, and the report that shows them."""
