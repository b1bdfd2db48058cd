import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from secauditai.models import dropout
from secauditai.models.classifier import VulnerabilityClassifier
from secauditai.models.dropout import CpuDropout, attend, draw_kept, use_cpu_dropout
from secauditai.models.encoders import build_encoder
from secauditai.models.tokenizer import train_tokenizer


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5])
def test_the_share_dropped_is_the_one_asked_for(probability: float) -> None:
    torch.manual_seed(1)
    kept = draw_kept(torch.Size((1000, 1003)), probability)
    assert float((~kept).float().mean()) == pytest.approx(probability, rel=0.02)
    assert float(CpuDropout(probability)(torch.ones(1000, 1000)).mean()) == pytest.approx(1.0, abs=0.01)


def test_masks_follow_torchs_seed_alone() -> None:
    torch.manual_seed(7)
    first = [draw_kept(torch.Size((5, 7)), 0.5) for _ in range(2)]
    torch.manual_seed(7)
    again = [draw_kept(torch.Size((5, 7)), 0.5) for _ in range(2)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


def test_gradients_of_dropout_and_of_checkpointed_dropout_use_the_same_mask() -> None:
    layer, values = CpuDropout(0.3), torch.randn(40, 50, requires_grad=True)
    torch.manual_seed(3)
    out = checkpoint(layer, values, use_reentrant=False)
    out.sum().backward()
    torch.testing.assert_close(values.grad * values, out)


def test_dropout_does_nothing_outside_training() -> None:
    values = torch.randn(3, 4)
    assert torch.equal(CpuDropout(0.5).eval()(values), values)


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_attention_agrees_with_autograd_over_the_same_mask(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    batch, heads, sequence, size = 3, 2, 9, 4
    inputs = [torch.randn(batch, heads, sequence, size, dtype=torch.float32, requires_grad=True) for _ in range(3)]
    allowed = torch.ones(batch, 1, sequence, sequence, dtype=torch.bool)
    allowed[1, :, :, 6:] = False
    bias = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    mask = {"none": None, "bool": allowed, "float": bias}[kind]
    kept = torch.rand(batch * heads, sequence, sequence) > 0.25
    monkeypatch.setattr(dropout, "draw_kept", lambda *_: kept)
    found, _ = attend(nn.Identity(), *inputs, mask, dropout=0.25, scaling=0.5)
    scores = inputs[0] @ inputs[1].transpose(2, 3) * 0.5 + (0 if mask is None else bias)
    weights = torch.softmax(scores, dim=-1) * kept.view(batch, heads, sequence, sequence) / 0.75
    expected = (weights @ inputs[2]).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    target = torch.randn_like(expected)
    ours = torch.autograd.grad((found * target).sum(), inputs)
    theirs = torch.autograd.grad((expected * target).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_model_keeps_its_outputs_in_evaluation_and_its_mean_in_training() -> None:
    tokenizer = train_tokenizer(["int main(void) { return 0; }\n"] * 4, 300)
    encoder = build_encoder("tiny", tokenizer=tokenizer, max_length=64, dropout=0.1, seed=1).module
    model = VulnerabilityClassifier(encoder, {"t": ["a", "b"]}, 0.1).eval()
    ids = torch.randint(5, tokenizer.vocab_size, (4, 2, 16))
    mask = torch.ones_like(ids)
    mask[1, 1], mask[2, 0, 10:] = 0, 0
    before = model(ids, mask)["t"]
    use_cpu_dropout(model, encoder)
    torch.testing.assert_close(model(ids, mask)["t"], before)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Dropout)]
    assert layers
    assert all(isinstance(layer, CpuDropout) for layer in layers)
    torch.manual_seed(2)
    loss = F.cross_entropy(model.train()(ids, mask)["t"], torch.tensor([0, 1, 0, 1]))
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
