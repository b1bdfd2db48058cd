"""The built-in `security_dataset`: synthetic, labelled, deterministic by seed. See `docs/security-dataset.md`."""

from secauditai.data.corpus.compose import CORPUS_VERSION, DEFAULT_SEED, DEFAULT_SIZE, generate_corpus

__all__ = ["CORPUS_VERSION", "DEFAULT_SEED", "DEFAULT_SIZE", "generate_corpus"]
