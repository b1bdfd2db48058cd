"""Sweeps over search spaces through Ray Tune."""
