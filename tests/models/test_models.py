import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_hub import COMMIT, LINES, write_tiny_hub

from secauditai.data.windows import Windowing
from secauditai.errors import ModelError, SecAuditError
from secauditai.models import classifier as classifiers
from secauditai.models.baseline import fit_baseline, load_baseline
from secauditai.models.bundle import BundleCard, open_bundle, save_bundle
from secauditai.models.catalogue import SIZES, catalogue_file, estimate_parameters, open_catalogue
from secauditai.models.classifier import VulnerabilityClassifier, score_in_chunks
from secauditai.models.encoders import LoadedEncoder, build_encoder, check_max_length, load_encoder, save_encoder
from secauditai.models.masked_language import build_masked_language_model, save_head_state
from secauditai.models.predict import TorchScorer, score
from secauditai.models.tokenizer import CodeTokenizer, load_tokenizer, train_tokenizer

HEADS = {"vulnerability_detection": ["safe", "vulnerability"], "severity_prediction": ["none", "low", "high"]}


@pytest.fixture(scope="module")
def encoder() -> LoadedEncoder:
    return build_encoder("tiny", tokenizer=train_tokenizer(LINES, 350), max_length=64, dropout=0.1, seed=3)


@pytest.fixture
def classifier(encoder: LoadedEncoder) -> VulnerabilityClassifier:
    torch.manual_seed(0)
    return VulnerabilityClassifier(encoder.module, HEADS, 0.1).eval()


def card_of(tokenizer: CodeTokenizer, **changes: object) -> BundleCard:
    values = {"kind": "classifier", "task": "multi_task", "heads": HEADS, "max_length": 64, "stride": 8}
    values |= {"long_code": "windows", "max_windows": 4, "pooling": "mean_max", "special_ids": tokenizer.special_ids}
    return BundleCard.model_validate({**values, **changes})


def test_tokenizer_is_deterministic_lossless_in_length_and_picklable(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(LINES, 350)
    assert train_tokenizer(reversed(LINES), 350).fingerprint == tokenizer.fingerprint
    assert train_tokenizer(LINES, 280).vocab_size == 280
    assert train_tokenizer([*LINES, "fn unheard_of() {}"], 350).fingerprint != tokenizer.fingerprint
    assert train_tokenizer(LINES, 350).fingerprint == tokenizer.fingerprint
    long = "x = 1\n" * 5000
    assert len(tokenizer.encode([long])[0]) > 5000
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301
    tokenizer.save(tmp_path)
    for other in (copy, load_tokenizer(tmp_path)):
        assert other.fingerprint == tokenizer.fingerprint
        assert other.encode(LINES) == tokenizer.encode(LINES)


def test_fresh_encoders_follow_from_the_seed(encoder: LoadedEncoder) -> None:
    again = build_encoder("tiny", tokenizer=encoder.tokenizer, max_length=64, dropout=0.1, seed=3)
    other = build_encoder("tiny", tokenizer=encoder.tokenizer, max_length=64, dropout=0.1, seed=4)
    ours, same, different = (next(e.module.parameters()) for e in (encoder, again, other))
    assert torch.equal(ours, same)
    assert not torch.equal(ours, different)


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_parameters_are_counted_without_building(encoder: LoadedEncoder, size: str) -> None:
    built = build_encoder(size, tokenizer=encoder.tokenizer, max_length=64, dropout=0.0, seed=0)
    assert sum(p.numel() for p in built.module.parameters()) == estimate_parameters(
        size, built.tokenizer.vocab_size, 64
    )
    assert set(SIZES) == {"tiny", "small", "base", "large"}


def test_padding_changes_nothing(classifier: VulnerabilityClassifier) -> None:
    ids = torch.randint(5, 300, (2, 2, 10))
    mask = torch.ones_like(ids)
    wider_ids = torch.full((2, 4, 17), 1)
    wider_mask = torch.zeros_like(wider_ids)
    wider_ids[:, :2, :10], wider_mask[:, :2, :10] = ids, mask
    with torch.no_grad():
        narrow, wide = classifier(ids, mask), classifier(wider_ids, wider_mask)
    for task in HEADS:
        torch.testing.assert_close(narrow[task], wide[task], atol=1e-6, rtol=1e-5)


def test_chunked_scoring_equals_one_forward_pass(classifier: VulnerabilityClassifier) -> None:
    ids = torch.randint(5, 300, (3, 4, 12))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        whole = classifier(ids, mask)
        vectors = torch.cat([classifier.encode_windows(ids[i], mask[i]) for i in range(3)]).reshape(3, 4, -1)
        parts = classifier.classify(vectors, mask[:, :, 0])
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=1e-5)


def test_a_bundle_survives_and_notices_damage(
    tmp_path: Path, encoder: LoadedEncoder, classifier: VulnerabilityClassifier
) -> None:
    baseline = fit_baseline(
        ["a b c", "a b d", "x y", "x z"] * 3,
        ["safe", "safe", "vulnerability", "vulnerability"] * 3,
        HEADS["vulnerability_detection"],
    )
    keys = np.array([3, 9], dtype=np.uint64)
    save_bundle(
        tmp_path / "b",
        model=classifier,
        tokenizer=encoder.tokenizer,
        card=card_of(encoder.tokenizer),
        baseline=baseline,
        training_keys=keys,
    )
    bundle = open_bundle(tmp_path / "b")
    assert bundle.training_keys is not None
    assert bundle.training_keys.tolist() == [3, 9]
    reloaded = bundle.load_model().state_dict()
    for name, value in classifier.state_dict().items():
        assert torch.equal(reloaded[name], value), name
    from transformers import AutoModel, AutoTokenizer

    assert AutoModel.from_pretrained(bundle.layout.encoder).config.hidden_size == 128
    assert len(AutoTokenizer.from_pretrained(bundle.layout.encoder)) == encoder.tokenizer.vocab_size
    assert not [path for path in (tmp_path / "b").rglob("*") if path.suffix in (".pkl", ".bin", ".pt")]
    (tmp_path / "b" / "encoder" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"config\.json differs"):
        open_bundle(tmp_path / "b")
    with pytest.raises(ModelError, match="not a saved model"):
        open_bundle(tmp_path)


def test_the_saved_baseline_predicts_as_fitted(tmp_path: Path) -> None:
    codes = [f"call_{i % 5}(x_{i % 7}) + eval(y)" if i % 2 else f"int(x_{i % 7}) - z" for i in range(80)]
    labels = ["vulnerability" if i % 2 else "safe" for i in range(80)]
    baseline = fit_baseline(codes, labels, ["safe", "vulnerability"])
    assert baseline is not None
    baseline.save(tmp_path)
    ours, loaded = baseline.probabilities(codes), load_baseline(tmp_path).probabilities(codes)
    np.testing.assert_allclose(ours, loaded, atol=1e-5)
    assert (ours.argmax(axis=1) == [i % 2 for i in range(80)]).all()
    from sklearn.linear_model import LogisticRegression

    features = baseline._vectoriser.transform(codes)
    reference = LogisticRegression(C=10.0, max_iter=1000, random_state=0).fit(features, [i % 2 for i in range(80)])
    np.testing.assert_allclose(ours, reference.predict_proba(features), atol=1e-3)
    assert fit_baseline(codes, ["safe"] * 80, ["safe", "vulnerability"]) is None


def test_the_baseline_keeps_no_word_of_a_single_sample() -> None:
    codes = ["key = 'hunter2'", "key = load()", "eval(key)", "eval(x)"]
    baseline = fit_baseline(codes, ["safe", "safe", "vulnerability", "vulnerability"], ["safe", "vulnerability"])
    assert baseline is not None
    assert set(baseline.vocabulary) == {"key", "=", "key =", "eval", "(", ")", "eval ("}
    assert fit_baseline(["a", "b"], ["safe", "vulnerability"], ["safe", "vulnerability"]) is None


def test_scores_do_not_depend_on_batching(
    tmp_path: Path, encoder: LoadedEncoder, classifier: VulnerabilityClassifier
) -> None:
    bundle = save_bundle(tmp_path / "b", model=classifier, tokenizer=encoder.tokenizer, card=card_of(encoder.tokenizer))
    codes = ["x\n", "int main(void) { return 0; }\n" * 40, "def f(x):\n    return x\n", "y = 2\n" * 9]
    scorer, windowing = TorchScorer(bundle), Windowing(64, 8)
    together = score(scorer, encoder.tokenizer, windowing, codes)
    alone = score(scorer, encoder.tokenizer, windowing, codes, tokens_per_batch=1)
    for task in HEADS:
        np.testing.assert_allclose(together[task], alone[task], atol=1e-5)


def test_the_hub_cache_is_used_offline_and_the_commit_recorded(tiny_hub: Path) -> None:
    loaded = load_encoder("microsoft/codebert-base", dropout=0.3)
    assert loaded.source == {"path": None, "hub_id": "microsoft/codebert-base", "commit": COMMIT}
    assert loaded.masked_language_head is None
    assert loaded.module.config.hidden_dropout_prob == 0.3
    stored = torch.load(
        tiny_hub / "models--microsoft--codebert-base/snapshots" / COMMIT / "pytorch_model.bin", weights_only=True
    )
    for name, value in loaded.module.state_dict().items():
        assert torch.equal(value, stored[name]), name
    with pytest.raises(ModelError, match="max_length 600 is more than the encoder's 512"):
        check_max_length(loaded, 600)


def test_a_masked_language_head_is_taken_over_or_fresh(tmp_path: Path, tiny_hub: Path) -> None:
    write_tiny_hub(tiny_hub, "ehsanaghaei/SecureBERT", with_head=True)
    loaded = load_encoder("ehsanaghaei/SecureBERT")
    assert loaded.masked_language_head is not None
    save_encoder(loaded.module, loaded.tokenizer, tmp_path / "e")
    save_head_state(loaded.masked_language_head, tmp_path / "e")
    again = load_encoder(tmp_path / "e")
    model = build_masked_language_model(again.module, tmp_path / "e", seed=0)
    assert torch.equal(model.head_state()["dense.weight"], loaded.masked_language_head["dense.weight"])
    ids = torch.randint(5, 200, (2, 9))
    logits = model(ids, torch.ones_like(ids), torch.tensor([0, 1]), torch.tensor([3, 4]))
    assert logits.shape == (2, loaded.tokenizer.vocab_size)


def test_what_is_not_cached_is_one_clear_error(tiny_hub: Path) -> None:
    with pytest.raises(ModelError, match=r"HF_HUB_CACHE.*--model PATH.*--model transformer"):
        load_encoder("microsoft/unixcoder-base")


@pytest.mark.parametrize("damage", ["config", "weights", "missing"])
def test_a_damaged_encoder_is_never_loaded_half(tiny_hub: Path, damage: str) -> None:
    snapshot = tiny_hub / "models--microsoft--codebert-base/snapshots" / COMMIT
    if damage == "config":
        (snapshot / "config.json").write_text("{")
    elif damage == "weights":
        (snapshot / "pytorch_model.bin").write_bytes(b"not weights")
    else:
        weights = torch.load(snapshot / "pytorch_model.bin", weights_only=True)
        del weights["encoder.layer.1.output.dense.weight"]
        torch.save(weights, snapshot / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load_encoder("microsoft/codebert-base")


def test_users_add_models_in_one_file(workspace: Path) -> None:
    workspace.mkdir()
    catalogue_file(workspace).write_text("mine: me/encoder\npinned: {hub: me/other, revision: v2}\n")
    entries = open_catalogue(workspace)
    assert (entries["mine"].hub_id, entries["pinned"].revision) == ("me/encoder", "v2")
    for text, told in (
        ("mine: [1]\n", "a catalogue maps names to hub ids"),
        ("mine: {hub: me/x, revison: v2}\n", "mine: unknown key 'revison'. Did you mean revision?"),
        ("mine: {hub: me/x, revision: 12345}\n", "mine: the revision must be text"),
        ("mine: me/x\nmine: me/y\n", "mine is there twice"),
        ("mine: 0b_\n", "'0b_' is read as int"),
        ("mine: &x me/x\nother: *x\n", "aliases are not allowed"),
    ):
        catalogue_file(workspace).write_text(text)
        with pytest.raises(SecAuditError, match=r"models\.yaml") as caught:
            open_catalogue(workspace)
        assert told in str(caught.value)


def test_the_card_refuses_what_it_does_not_know(tmp_path: Path, encoder: LoadedEncoder) -> None:
    text = json.loads(card_of(encoder.tokenizer).model_dump_json())
    with pytest.raises(ValueError, match="extra"):
        BundleCard.model_validate({**text, "surprise": 1})


def test_scoring_in_chunks_is_scoring_at_once(
    classifier: VulnerabilityClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.randint(5, 300, (3, 7, 16))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    mask[2, :, 9:] = 0
    encoded = []
    encode = classifier.encode_windows

    def counted(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        encoded.append(len(input_ids))
        return encode(input_ids, attention_mask)

    monkeypatch.setattr(classifier, "encode_windows", counted)
    monkeypatch.setattr(classifiers, "TOKENS_AT_ONCE", 4 * 16)
    chunked = score_in_chunks(classifier, ids, mask)
    assert encoded == [4, 4, 4, 4, 4, 1]
    for task, logits in classifier(ids, mask).items():
        torch.testing.assert_close(chunked[task], logits, rtol=1e-5, atol=1e-5)
