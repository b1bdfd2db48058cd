"""The door to Hugging Face: encoders by hub id, cache or path, built from scratch, and saved in its layout."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # what torch raises for a file that holds no weights
from typing import Any

import torch
from torch import Tensor, nn

from secauditai.errors import ModelError
from secauditai.models.catalogue import POSITION_OFFSET, SIZES
from secauditai.models.masked_language import HEAD_FILE, has_masked_language_head, roberta_head_state
from secauditai.models.tokenizer import CodeTokenizer, load_tokenizer, save_tokenizer

HARMLESS_MISSING = ("pooler.", "embeddings.position_ids")
"""Weights that our heads do not use, so that a checkpoint may lack them."""
HARMLESS_EXTRA = ("pooler.", "lm_head.", "cls.", "classifier.", "embeddings.position_ids", "head.", "decoder.")
"""Heads of other tasks that a checkpoint may bring along."""


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder ready to be trained on."""

    module: nn.Module
    """Called with input_ids and attention_mask, (n, sequence) int64; `.last_hidden_state` is (n, sequence, hidden)."""
    tokenizer: CodeTokenizer
    source: dict[str, str | None]
    """Where it came from: `hub_id` and `commit`, `path`, or `scratch` size."""
    masked_language_head: dict[str, Tensor] | None = None
    """Weights of the masked-language head that came along."""

    @property
    def hidden_size(self) -> int:
        """Width of its output."""
        return int(self.module.config.hidden_size)  # type: ignore[union-attr, arg-type]


def load_encoder(source: str | Path, *, revision: str | None = None, dropout: float | None = None) -> LoadedEncoder:
    """Load a pretrained encoder and its tokenizer.

    Args:
        source: a directory in Hugging Face layout; or, as text, a hub id, taken from the cache or downloaded into it.
        revision: branch, tag or commit on the hub.
        dropout: overrides the configured one.

    Raises:
        ModelError: when it is neither here, cached nor reachable, or its weights do not fit.
    """
    if isinstance(source, Path):
        directory, origin = source, {"path": str(source), "hub_id": None, "commit": None}
    else:
        directory = hub_directory(source, revision)
        origin = {"path": None, "hub_id": source, "commit": directory.name}
    module, extra_keys = _load_module(directory, dropout)
    return LoadedEncoder(module, load_tokenizer(directory), origin, _find_head(directory, extra_keys))


def load_transformers() -> tuple[Any, Any]:
    """Import what encoders are made of, which takes seconds the first time: transformers' AutoModel, RobertaModel."""
    with _without_scipy():
        from transformers import AutoModel, RobertaModel
    return AutoModel, RobertaModel


def build_encoder(size: str, *, tokenizer: CodeTokenizer, max_length: int, dropout: float, seed: int) -> LoadedEncoder:
    """A fresh encoder of one of `SIZES`, its weights drawn from the seed alone."""
    from transformers import RobertaConfig

    _, roberta = load_transformers()
    shape = SIZES[size]
    config = RobertaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.hidden,
        max_position_embeddings=max_length + POSITION_OFFSET,
        type_vocab_size=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_id,
        bos_token_id=tokenizer.cls_id,
        eos_token_id=tokenizer.sep_id,
    )
    with _seeded(seed):
        module = roberta(config, add_pooling_layer=False)
    return LoadedEncoder(module, tokenizer, {"scratch": size, "hub_id": None, "commit": None, "path": None})


def save_encoder(module: nn.Module, tokenizer: CodeTokenizer, directory: Path) -> None:
    """Save encoder and tokenizer in Hugging Face layout, weights as safetensors."""
    with _quiet():
        module.save_pretrained(directory)  # type: ignore[operator]
    save_tokenizer(tokenizer, directory)


def check_max_length(encoder: LoadedEncoder, max_length: int) -> None:
    """Refuse windows longer than the encoder has positions for.

    Raises:
        ModelError: naming the setting and the limit.
    """
    config: Any = encoder.module.config
    _check_positions(config.to_dict(), max_length)


def check_saved_max_length(directory: Path, max_length: int) -> None:
    """As `check_max_length`, for a saved encoder that is not loaded yet."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the encoder's configuration: {_first_line(error)}", where=str(path)) from None
    if not isinstance(config, dict):
        raise ModelError("the encoder's configuration is no mapping", where=str(path))
    _check_positions(config, max_length)


def _check_positions(config: dict[str, Any], max_length: int) -> None:
    positions = config.get("max_position_embeddings")
    if positions is None:
        return
    limit = positions - POSITION_OFFSET if config.get("model_type") in ("roberta", "xlm-roberta") else positions
    if max_length > limit:
        raise ModelError(
            f"max_length {max_length} is more than the encoder's {limit} positions",
            where="max_length",
            hint=f"Use --max-length {limit} or less.",
        )


@contextlib.contextmanager
def _without_scipy() -> Iterator[None]:
    """Let transformers' models be imported without scipy's optimizers, which take half a second of every start.

    Only its losses for object detection use them.
    """
    import transformers.utils

    module: Any = transformers.utils
    before = module.is_scipy_available
    module.is_scipy_available = lambda: False
    try:
        yield
    finally:
        module.is_scipy_available = before


def _load_module(directory: Path, dropout: float | None) -> tuple[nn.Module, list[str]]:
    from safetensors import SafetensorError
    from transformers import AutoConfig

    overrides = {} if dropout is None else _dropout_overrides(directory, dropout)
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(directory, trust_remote_code=False, **overrides)
            module, report = _model_class(config).from_pretrained(
                directory, config=config, trust_remote_code=False, weights_only=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, UnpicklingError) as error:
        raise ModelError(f"cannot load the encoder: {_first_line(error)}", where=str(directory)) from None
    missing = [key for key in report["missing_keys"] if not key.startswith(HARMLESS_MISSING)]
    extra = [key for key in report["unexpected_keys"] if not key.startswith(HARMLESS_EXTRA)]
    if missing or extra:
        shown = ", ".join([*missing, *extra][:4])
        raise ModelError(f"the weights do not fit the encoder's configuration ({shown} …)", where=str(directory))
    return module.float(), list(report["unexpected_keys"])


def _find_head(directory: Path, extra_keys: list[str]) -> dict[str, Tensor] | None:
    """The masked-language head saved beside the encoder by us, or inside a RoBERTa checkpoint."""
    from safetensors.torch import load_file

    if has_masked_language_head(directory):
        return load_file(str(directory / HEAD_FILE))
    if not any(key.startswith("lm_head.") for key in extra_keys):
        return None
    safe, old = directory / "model.safetensors", directory / "pytorch_model.bin"
    if safe.exists():
        return roberta_head_state(load_file(str(safe)))
    return roberta_head_state(torch.load(old, weights_only=True, map_location="cpu")) if old.exists() else None


def _model_class(config: Any) -> Any:
    """The bare encoder class, without the pooling layer that pretraining used."""
    auto, roberta = load_transformers()
    if config.model_type == "roberta":
        return _WithoutPooler(roberta)
    return _FromAuto(auto)


@dataclass(frozen=True)
class _WithoutPooler:
    model: Any

    def __call__(self, config: Any) -> nn.Module:
        return self.model(config, add_pooling_layer=False)  # type: ignore[no-any-return]

    def from_pretrained(self, directory: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
        options.pop("trust_remote_code")
        return self.model.from_pretrained(directory, add_pooling_layer=False, **options)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _FromAuto:
    model: Any

    def __call__(self, config: Any) -> nn.Module:
        return self.model.from_config(config)  # type: ignore[no-any-return]

    def from_pretrained(self, directory: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
        return self.model.from_pretrained(directory, **options)  # type: ignore[no-any-return]


def _dropout_overrides(directory: Path, dropout: float) -> dict[str, float]:
    """The configuration keys that hold dropout in this architecture."""
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    names = (
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "embedding_dropout",
        "mlp_dropout",
        "attention_dropout",
    )
    return {name: dropout for name in names if name in raw}


def hub_directory(hub_id: str, revision: str | None) -> Path:
    """The directory of a hub model in the local cache, downloaded when it is not there.

    Raises:
        ModelError: when it is no hub id, or neither cached nor reachable.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    patterns = ["*.json", "*.txt", "*.safetensors", "pytorch_model*.bin", "*.model"]
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=True))
    except HFValidationError as error:
        raise ModelError(f"{hub_id!r} is not a hub id: {_first_line(error)}") from None
    except LocalEntryNotFoundError:
        pass
    try:
        if constants.HF_HUB_OFFLINE:
            raise LocalEntryNotFoundError("offline mode is on")
        with _quiet():
            found = snapshot_download(hub_id, revision=revision, allow_patterns=patterns, etag_timeout=5)
        return Path(found)
    except (LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError, OSError) as error:
        raise _out_of_reach(hub_id, error) from None


def check_available(hub_id: str, revision: str | None) -> None:
    """See whether a hub model is in the local cache, or the hub would give it; nothing is downloaded.

    Raises:
        ModelError: when neither is so.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(hub_id, revision=revision, allow_patterns=["config.json"], local_files_only=True)
        return
    except LocalEntryNotFoundError:
        pass
    try:
        if constants.HF_HUB_OFFLINE:
            raise LocalEntryNotFoundError("offline mode is on")
        HfApi().model_info(hub_id, revision=revision, timeout=5)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise _out_of_reach(hub_id, error) from None


def _out_of_reach(hub_id: str, error: BaseException) -> ModelError:
    from huggingface_hub import constants

    return ModelError(
        f"{hub_id} is not in the Hugging Face cache ({constants.HF_HUB_CACHE}) and cannot be downloaded: "
        f"{_first_line(error)}",
        hint="Point HF_HUB_CACHE or HF_HOME at a cache that has it, name a directory with --model PATH, "
        "or train from scratch with --model transformer.",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and notes of Hugging Face off the terminal for a while."""
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
