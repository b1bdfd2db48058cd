"""One training loop for several objectives, its checkpoints and its launcher."""
