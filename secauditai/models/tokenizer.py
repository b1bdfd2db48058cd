"""Tokenizers: the one that comes with an encoder, or a byte-level BPE trained on the data.

Part of the door to Hugging Face; the fast `tokenizers` library does the work.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from secauditai.errors import ModelError

SPECIAL_TOKENS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
TRAINING_CHARACTERS = 50_000_000
"""Characters of code a tokenizer is trained on at most; more does not change the common words."""
_trained: dict[tuple[str, int], str] = {}
"""The tokenizer that this process has trained last, by digest of its text and size: a sweep's trials share it."""


class CodeTokenizer:
    """Tokenises code without special tokens and without cutting anything off. Can be sent to other processes."""

    def __init__(self, serialised: str, special_tokens: dict[str, str]) -> None:
        self._serialised, self._special_tokens = serialised, special_tokens
        for name in ("pad", "cls", "sep", "mask"):
            if self._tokenizer.token_to_id(special_tokens[name]) is None:
                raise ModelError(f"the tokenizer has no {name} token {special_tokens[name]!r}")

    def __reduce__(self) -> tuple[object, ...]:
        return CodeTokenizer, (self._serialised, self._special_tokens)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self._serialised)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of everything that decides the tokens."""
        text = json.dumps([self._serialised, self._special_tokens], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def pad_id(self) -> int:
        """Fills up short sequences."""
        return self._id("pad")

    @property
    def cls_id(self) -> int:
        """Opens a window."""
        return self._id("cls")

    @property
    def sep_id(self) -> int:
        """Closes a window."""
        return self._id("sep")

    @property
    def mask_id(self) -> int:
        """Hides a token in masked-language modelling."""
        return self._id("mask")

    @property
    def special_ids(self) -> dict[str, int]:
        """The ids of cls, sep, pad and mask."""
        return {name: self._id(name) for name in ("cls", "sep", "pad", "mask")}

    def encode(self, codes: Sequence[str]) -> list[list[int]]:
        """Token ids of each code."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(codes), add_special_tokens=False)]

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which Hugging Face's AutoTokenizer reads."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.json").write_text(self._serialised, encoding="utf-8")
        names = {f"{name}_token": token for name, token in self._special_tokens.items()}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def _id(self, name: str) -> int:
        return int(self._tokenizer.token_to_id(self._special_tokens[name]))


def save_tokenizer(tokenizer: CodeTokenizer, directory: Path) -> None:
    """Write a tokenizer beside its encoder."""
    tokenizer.save(directory)


def load_tokenizer(directory: Path) -> CodeTokenizer:
    """Load the tokenizer of a saved encoder, or of a model as the hub has it (vocab.json and merges.txt, …).

    Raises:
        ModelError: when there is none.
    """
    ours = directory / "tokenizer.json", directory / "tokenizer_config.json"
    if all(path.exists() for path in ours):
        config = json.loads(ours[1].read_text(encoding="utf-8"))
        tokens = {name: _text(config.get(f"{name}_token")) for name in SPECIAL_TOKENS}
        if all(tokens.values()):
            return CodeTokenizer(ours[0].read_text(encoding="utf-8"), tokens)
    return _load_foreign(directory)


def _load_foreign(directory: Path) -> CodeTokenizer:
    from transformers import AutoTokenizer

    try:
        fast = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, use_fast=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load the tokenizer: {str(error).splitlines()[0]}", where=str(directory)) from None
    tokens = {
        "cls": fast.cls_token or fast.bos_token,
        "sep": fast.sep_token or fast.eos_token,
        "pad": fast.pad_token,
        "unk": fast.unk_token,
        "mask": fast.mask_token,
    }
    missing = [name for name, token in tokens.items() if not token and name != "unk"]
    if missing or not hasattr(fast, "backend_tokenizer"):
        raise ModelError(f"the tokenizer has no {', '.join(missing) or 'fast version'}", where=str(directory))
    return CodeTokenizer(fast.backend_tokenizer.to_str(), {**tokens, "unk": tokens["unk"] or tokens["pad"]})


def train_tokenizer(codes: Iterable[str], vocab_size: int) -> CodeTokenizer:
    """A byte-level BPE (as GPT-2's) trained on code; the same for the same samples in any order."""
    text = _training_text(codes)
    key = (hashlib.sha256(json.dumps(text).encode()).hexdigest(), vocab_size)
    serialised = _trained.get(key)
    if serialised is None:
        serialised = _train(text, vocab_size)
        _trained.clear()
        _trained[key] = serialised
    return CodeTokenizer(serialised, SPECIAL_TOKENS)


def _train(text: list[str], vocab_size: int) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS["unk"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return str(tokenizer.to_str())


def _training_text(codes: Iterable[str]) -> list[str]:
    """Sorted by digest, so that a cap takes a random but reproducible part."""
    ordered = sorted(codes, key=lambda code: hashlib.sha256(code.encode("utf-8", "replace")).digest())
    taken, characters = [], 0
    for code in ordered:
        if characters >= TRAINING_CHARACTERS:
            break
        taken.append(code)
        characters += len(code)
    return taken


def _text(token: object) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
