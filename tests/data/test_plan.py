from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secauditai.data.plan import BatchPlan, assign, plan_evaluation
from secauditai.data.windows import Windowing, stack_windows

WINDOWING = Windowing(max_length=34, stride=8, max_windows=3)


def plan_of(
    lengths: list[int], *, seed: int = 1, batch_size: int = 8, budget: int = 256, variants: int = 0
) -> BatchPlan:
    rows = np.repeat(np.array(lengths)[:, None], 1 + variants, axis=1)
    return BatchPlan(rows, WINDOWING, seed, batch_size, budget)


LENGTHS = st.lists(st.integers(0, 300), min_size=1, max_size=40)


@given(LENGTHS, st.integers(0, 50), st.integers(1, 12))
def test_an_epoch_shows_every_sample_once(lengths: list[int], seed: int, batch_size: int) -> None:
    plan = plan_of(lengths, seed=seed, batch_size=batch_size)
    shown = [s for step in range(1, plan.steps_per_epoch + 1) for b in plan.micro_batches(step) for s in b.samples]
    assert sorted(shown) == list(range(len(lengths)))


@given(LENGTHS, st.integers(0, 50), st.integers(1, 6))
def test_a_step_depends_on_nothing_but_seed_and_step(lengths: list[int], seed: int, step: int) -> None:
    first = plan_of(lengths, seed=seed)
    for other in (1, 9, 4):
        first.micro_batches(other)
    again = plan_of(lengths, seed=seed).micro_batches(step)
    for ours, theirs in zip(first.micro_batches(step), again, strict=True):
        assert ours.index == theirs.index
        assert (ours.samples == theirs.samples).all()
        assert (ours.windows == theirs.windows).all()


@given(LENGTHS, st.integers(1, 5))
def test_the_budget_holds_and_ranks_share_all_work(lengths: list[int], world_size: int) -> None:
    batches = plan_of(lengths).micro_batches(1)
    for batch in batches:
        assert len(batch.samples) == 1 or batch.windows.size * batch.sequence <= 256
        assert batch.windows.shape[1] <= WINDOWING.max_windows
    shared = assign(batches, world_size)
    assert sorted(batch.index for work in shared for batch in work) == [batch.index for batch in batches]


@given(LENGTHS)
def test_evaluation_uses_all_windows_of_all_samples(lengths: list[int]) -> None:
    counts = WINDOWING.counts(lengths)
    seen: dict[int, int] = {}
    for batch in plan_evaluation(np.array(lengths), WINDOWING, 256):
        for sample, drawn in zip(batch.samples, batch.windows, strict=True):
            seen[int(sample)] = int((drawn >= 0).sum())
    assert seen == {index: int(count) for index, count in enumerate(counts)}


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 50), st.integers(1, 12))
def test_balanced_sampling_shows_every_class_equally_often(classes: list[int], seed: int, batch_size: int) -> None:
    plan = replace(plan_of([9] * len(classes), seed=seed, batch_size=batch_size), classes=np.array(classes))
    shown = np.concatenate([plan.samples(step) for step in range(1, plan.steps_per_epoch + 1)])
    assert len(shown) == len(classes)
    counts = Counter(classes[sample] for sample in shown)
    assert max(counts.values()) - min(counts[name] for name in set(classes)) <= 1
    for name in set(classes):
        times = Counter(int(s) for s in shown if classes[s] == name)
        members = classes.count(name)
        assert max(times.values(), default=0) <= -(-counts[name] // members)
    again = replace(plan, seed=seed)
    assert (again.samples(1) == plan.samples(1)).all()


def test_epochs_differ_in_order_variants_and_windows() -> None:
    plan = plan_of([400] * 12, variants=3)
    first, second = (np.concatenate([b.samples for b in plan.micro_batches(step)]) for step in (1, 3))
    assert set(first) != set(second) or (first != second).any()
    variants = {int(v) for step in range(1, 9) for b in plan.micro_batches(step) for v in b.variants}
    assert variants == {0, 1, 2, 3}
    drawn = {tuple(row) for step in range(1, 9) for b in plan.micro_batches(step) for row in b.windows}
    assert len(drawn) > 5


@given(st.integers(0, 400), st.sampled_from(["windows", "truncate", "head-tail"]))
def test_windows_cover_all_tokens_or_say_which(length: int, long_code: str) -> None:
    windowing = Windowing(34, 8, long_code)
    tokens = np.arange(length)
    windows = windowing.cut(tokens)
    assert len(windows) == windowing.counts(length)
    assert all(len(window) <= 32 for window in windows)
    covered = set(np.concatenate(windows).tolist())
    if long_code == "windows":
        assert covered == set(range(length))
    elif long_code == "truncate":
        assert covered == set(range(min(length, 32)))
    else:
        assert covered == (set(range(length)) if length <= 32 else set(range(16)) | set(range(length - 16, length)))


def test_what_training_does_not_see_is_said() -> None:
    lengths = [10, 32, 64, 200]  # windows hold 32 tokens and begin 24 apart
    assert Windowing(34, 8, "windows", 8).describe_loss(lengths) is None
    assert "1 of 4 training samples have more than 3 windows" in str(WINDOWING.describe_loss(lengths))
    for long_code, part in (
        ("truncate", "only their beginning and loses"),
        ("head-tail", "only their beginning and end and loses"),
    ):
        said = str(Windowing(34, 8, long_code).describe_loss(lengths))
        assert "2 of 4 training samples exceed 32 tokens" in said
        assert part in said
        assert f"{200 / 306:.1%} of all tokens" in said
        assert Windowing(34, 8, long_code).describe_loss([10, 32]) is None


def test_stacking_pads_tokens_and_windows() -> None:
    ids, mask = stack_windows(
        [[np.array([5, 6])], [np.array([7]), np.array([8, 9, 10])]], {"cls": 0, "sep": 2, "pad": 1}
    )
    assert ids.shape == mask.shape == (2, 2, 5)
    assert ids[0].tolist() == [[0, 5, 6, 2, 1], [1, 1, 1, 1, 1]]
    assert mask.sum(axis=2).tolist() == [[4, 0], [3, 5]]


def test_the_last_step_of_an_epoch_may_be_smaller() -> None:
    plan = plan_of([5] * 20)
    assert [len(plan.samples(step)) for step in (1, 2, 3, 4)] == [8, 8, 4, 8]
    assert [plan.epoch(step) for step in (1, 3, 4)] == [0, 0, 1]
