"""The bundle: a saved model with everything that scoring needs and where it came from.

`encoder/` (Hugging Face layout, with the tokenizer), `model.safetensors` (pooling and heads), `secauditai.json` (the
card), `baseline/`, `training_keys.npy`, `model.onnx` once exported, and `manifest.json` with the digest of each file.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from secauditai.data.replacing import replacing
from secauditai.data.windows import Windowing
from secauditai.errors import ModelError
from secauditai.files import describe_file, describe_tree
from secauditai.mirror import mirror_of

if TYPE_CHECKING:
    from torch import nn

    from secauditai.models.baseline import Baseline
    from secauditai.models.tokenizer import CodeTokenizer

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class BundleLayout:
    """The file names of a bundle."""

    root: Path

    @property
    def encoder(self) -> Path:
        """Encoder and tokenizer in Hugging Face layout."""
        return self.root / "encoder"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer in one file."""
        return self.encoder / "tokenizer.json"

    @property
    def heads(self) -> Path:
        """Weights of pooling and heads."""
        return self.root / "model.safetensors"

    @property
    def card(self) -> Path:
        """`BundleCard`."""
        return self.root / "secauditai.json"

    @property
    def baseline(self) -> Path:
        """TF-IDF and logistic regression, fitted on the same training data."""
        return self.root / "baseline"

    @property
    def training_keys(self) -> Path:
        """Digests of the training code, to count overlap with test data."""
        return self.root / "training_keys.npy"

    @property
    def onnx(self) -> Path:
        """The exported graph."""
        return self.root / "model.onnx"

    @property
    def manifest(self) -> Path:
        """Size and sha256 of every other file."""
        return self.root / "manifest.json"


class BundleCard(BaseModel):
    """`secauditai.json`: what the model predicts, how code becomes its input, and where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    kind: Literal["classifier", "encoder"]
    task: str
    heads: dict[str, list[str]]
    """Task name to labels, in the order of the logits."""
    max_length: int
    stride: int
    long_code: str
    max_windows: int
    pooling: str
    special_ids: dict[str, int]
    strip_comments: bool = False
    """Whether the code it learnt from had its comments removed."""
    threshold: float = 0.5
    """Probability of `vulnerability` from which a sample is called one; fitted on the validation split."""
    temperature: dict[str, float] = {}
    """Task name to the number its logits are divided by; fitted on the validation split (arXiv 1706.04599)."""
    provenance: dict[str, Scalar] = {}

    @property
    def windowing(self) -> Windowing:
        """How code becomes windows."""
        return Windowing(self.max_length, self.stride, self.long_code, self.max_windows)

    @property
    def main_task(self) -> str:
        """The task whose metrics stand for the model."""
        return next(iter(self.heads), "")


class Bundle:
    """An opened bundle; its parts are loaded when they are asked for."""

    def __init__(self, layout: BundleLayout, card: BundleCard) -> None:
        self.layout, self.card = layout, card

    @property
    def sha256(self) -> str:
        """Digest of the manifest, and so of every file."""
        return hashlib.sha256(self.layout.manifest.read_bytes()).hexdigest()

    @property
    def weights_sha256(self) -> str:
        """Digest of all weights; an exported graph names it."""
        manifest = json.loads(self.layout.manifest.read_text(encoding="utf-8"))["files"]
        digests = [manifest[name]["sha256"] for name in sorted(manifest) if name.endswith(".safetensors")]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    @cached_property
    def tokenizer(self) -> "CodeTokenizer":
        """The tokenizer."""
        from secauditai.models.tokenizer import load_tokenizer

        return load_tokenizer(self.layout.encoder)

    @cached_property
    def baseline(self) -> "Baseline | None":
        """The baseline of the main task, if the bundle has one."""
        from secauditai.models.baseline import load_baseline

        return load_baseline(self.layout.baseline) if self.layout.baseline.exists() else None

    @cached_property
    def training_keys(self) -> npt.NDArray[np.uint64] | None:
        """Sorted digests (`code_digest`) of the training code."""
        path = self.layout.training_keys
        return np.load(path, allow_pickle=False) if path.exists() else None

    def load_model(self) -> "nn.Module":
        """The model in evaluation mode: a `VulnerabilityClassifier`, or an `Embedder` for an encoder."""
        from safetensors.torch import load_file

        from secauditai.models.classifier import Embedder, VulnerabilityClassifier
        from secauditai.models.encoders import load_encoder

        encoder = load_encoder(self.layout.encoder, dropout=0.0).module
        if self.card.kind == "encoder":
            return Embedder(encoder).eval()
        model = VulnerabilityClassifier(encoder, self.card.heads, 0.0, self.card.pooling)
        weights = load_file(str(self.layout.heads))
        wrong = model.load_state_dict(weights, strict=False)
        if wrong.unexpected_keys or any(not key.startswith("encoder.") for key in wrong.missing_keys):
            raise ModelError("the heads do not fit the card", where=str(self.layout.heads))
        return model.eval()


def save_bundle(
    directory: Path,
    *,
    model: "nn.Module",
    tokenizer: "CodeTokenizer",
    card: BundleCard,
    baseline: "Baseline | None" = None,
    training_keys: npt.NDArray[np.uint64] | None = None,
) -> Bundle:
    """Write a bundle, whole or not at all; one that is there is replaced."""
    from safetensors.torch import save_file

    from secauditai.models.encoders import save_encoder
    from secauditai.models.masked_language import MaskedLanguageModel, save_masked_language_head

    partial = BundleLayout(directory.with_name(f".{directory.name}.{os.getpid()}.partial"))
    shutil.rmtree(partial.root, ignore_errors=True)
    partial.root.mkdir(parents=True)
    encoder: Any = model.encoder
    save_encoder(encoder, tokenizer, partial.encoder)
    if isinstance(model, MaskedLanguageModel):
        save_masked_language_head(model, partial.encoder)
    else:
        heads = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
        save_file({name: value.contiguous() for name, value in heads.items()}, str(partial.heads))
    partial.card.write_text(card.model_dump_json(indent=2), encoding="utf-8")
    if baseline is not None:
        baseline.save(partial.baseline)
    if training_keys is not None:
        np.save(partial.training_keys, training_keys)
    refresh_manifest(partial)
    shutil.rmtree(directory, ignore_errors=True)
    partial.root.rename(directory)
    return Bundle(BundleLayout(directory), card)


def open_bundle(root: Path) -> Bundle:
    """Open a bundle after comparing every file with the manifest.

    Raises:
        ModelError: when it is none, or a file is missing or differs.
    """
    layout = BundleLayout(root)
    try:
        files = json.loads(layout.manifest.read_text(encoding="utf-8"))["files"]
        card = BundleCard.model_validate_json(layout.card.read_text(encoding="utf-8"))
        for name, expected in files.items():
            if describe_file(root / name) != expected:
                raise ModelError(f"damaged model: {name} differs from its manifest", where=str(root))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "its card is damaged" if isinstance(error, ValidationError) else str(error)
        raise ModelError(f"not a saved model: {reason}", where=str(root)) from None
    return Bundle(layout, card)


def keep_bundle(bundle: Bundle, cache: Path) -> Bundle:
    """A bundle where every machine finds it: in the store of a remote workspace, copied there if it lies elsewhere.

    In a local workspace it stays where it is.
    """
    mirror, root = mirror_of(cache), bundle.layout.root
    if mirror is None:
        return bundle
    if not root.is_relative_to(mirror.root):
        root = cache / "models" / bundle.sha256
        if not is_bundle(root):
            with replacing(root) as partial:
                shutil.copytree(bundle.layout.root, partial, dirs_exist_ok=True)
    mirror.send_tree(root)
    return Bundle(BundleLayout(root), bundle.card)


def refresh_manifest(layout: BundleLayout) -> None:
    """Write the manifest anew, after a file was added."""
    files = describe_tree(layout.root, leave_out=[layout.manifest])
    layout.manifest.write_text(json.dumps({"version": 1, "files": files}, indent=2), encoding="utf-8")


def is_bundle(root: Path) -> bool:
    """Whether a directory looks like a bundle."""
    return BundleLayout(root).card.exists()
