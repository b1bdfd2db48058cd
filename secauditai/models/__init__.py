"""Encoders, classifiers and the bundle they are saved in."""
