import math
from pathlib import Path

import numpy as np
import pytest
import torch
import training_runs
from training_runs import history, weights, write_dataset

from secauditai.config.settings import HealthSettings
from secauditai.errors import RunError
from secauditai.runs import Run, read_metrics
from secauditai.training.checkpoint import list_checkpoints, read_state
from secauditai.training.health import Decided, Health, most_decided
from secauditai.training.launch import launch
from secauditai.training.loop import train_rank
from secauditai.training.objectives import Classification
from secauditai.training.step import Stepper

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """Stands for a process that dies on the spot."""


def new_run(data: Path, workspace: Path, **settings: object) -> Run:
    """One thread: these models are so small that a second one only waits."""
    return training_runs.new_run(data, workspace, threads=1, max_length=32, **settings)


def events(run: Run, name: str | None = None) -> list[dict[str, object]]:
    found = [record for record in read_metrics(run.layout.metrics) if record["kind"] == "event"]
    return [record for record in found if name in (None, record["event"])]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Factors of the loss of micro-batches that hold a sample, by the sample's id."""
    factors: dict[str, float] = {}
    real = Classification.loss

    def loss(self: Classification, model: torch.nn.Module, batch: object) -> torch.Tensor:
        value = real(self, model, batch)  # type: ignore[arg-type]
        for index in batch.plan.samples:  # type: ignore[attr-defined]
            value = value * factors.get(self.ids[index], 1.0)  # type: ignore[attr-defined]
        return value

    init = Classification.__init__

    def remember(self: Classification, heads: object, store: object, *more: object) -> None:
        init(self, heads, store, *more)  # type: ignore[arg-type]
        self.ids = store.samples.column("id").to_pylist()  # type: ignore[attr-defined]

    monkeypatch.setattr(Classification, "loss", loss)
    monkeypatch.setattr(Classification, "__init__", remember)
    return factors


def train_sample(run: Run) -> str:
    from secauditai.data.tokens import open_token_store
    from secauditai.training.recipe import read_recipe

    return str(open_token_store(Path(read_recipe(run.layout.recipe).train_store)).samples.column("id")[0].as_py())


def steps(health: Health, norms: list[float], start: int = 1) -> list[str | None]:
    found = [health.after_step(start + i, 1.0, norm, lambda: ["a", "b"]) for i, norm in enumerate(norms)]
    return [finding.event if finding else None for finding in found]


def test_a_spike_stands_far_out_of_the_usual_noise() -> None:
    noise = np.exp(np.random.default_rng(0).normal(0.0, 0.5, 300)).tolist()
    health = Health(HealthSettings(), {})
    assert set(steps(health, noise)) == {None}
    assert steps(health, [8.0, 300.0, 0.001]) == [None, "spike", None]
    wide = Health(HealthSettings(), {})
    assert set(steps(wide, np.exp(np.random.default_rng(0).normal(0.0, 2.0, 300)).tolist())) == {None}
    assert steps(wide, [300.0]) == [None]


def test_too_little_is_known_at_first_to_call_anything_a_spike() -> None:
    assert steps(Health(HealthSettings(), {}), [1.0] * 9 + [1e6]) == [None] * 10


@pytest.mark.parametrize(("policy", "accepted"), [("warn", True), ("skip", False), ("stop", False)])
def test_policies_decide_whether_a_spike_changes_weights(policy: str, accepted: bool) -> None:
    health = Health(HealthSettings(on_spike=policy), {})  # type: ignore[arg-type]
    steps(health, [1.0] * 20)
    assert health.accepts(1.0, 2.0)
    assert health.accepts(1.0, 100.0) is accepted
    finding = health.after_step(21, 1.0, 100.0, lambda: ["a"])
    assert finding is not None
    assert finding.values["samples"] == ["a"]
    assert (finding.stop is not None) == (policy == "stop")
    assert not health.accepts(math.nan, 1.0)
    assert not health.accepts(1.0, math.inf)


def test_repeated_spikes_stop_with_advice() -> None:
    health = Health(HealthSettings(max_spikes=2), {})
    steps(health, [1.0] * 50)
    assert steps(health, [99.0, 1.0, 99.0], start=51) == ["spike", None, "spike"]
    assert steps(health, [1.0] * 90, start=54) == [None] * 90
    later = health.after_step(154, 1.0, 99.0, lambda: ["a"])
    assert later is not None
    assert later.stop is None  # the first two are more than 100 steps ago
    stopped = Health(HealthSettings(max_spikes=2), {})
    steps(stopped, [1.0] * 50)
    *_, third = (stopped.after_step(step, 1.0, 99.0, lambda: ["a"]) for step in (51, 52, 53))
    assert third is not None
    assert third.stop is not None
    error = third.error("checkpoint_40")
    assert "3 spikes" in str(error)
    assert "--gradient-clip" in str(error)
    assert "--learning-rate" in str(error)
    assert "checkpoint_40" in str(error)


def test_a_collapse_counts_after_some_validations_in_a_row() -> None:
    health = Health(HealthSettings(collapse_validations=2), {})
    all_safe, mixed = {"t": Decided("safe", 1.0, 0.5, 9)}, {"t": Decided("safe", 0.7, 0.5, 9)}
    rare = {"t": Decided("safe", 1.0, 0.97, 3)}
    seen = [health.after_validation(step, found) for step, found in enumerate((all_safe, mixed, all_safe, all_safe))]
    assert [len(found) for found in seen] == [0, 0, 0, 1]
    assert "safe" in seen[-1][0].message
    assert health.after_validation(5, all_safe) == []  # told once
    assert [health.after_validation(step, rare) for step in range(3)] == [[], [], []]


def test_a_rare_class_that_is_never_decided_is_a_collapse_once_there_are_many_of_it() -> None:
    assert Decided("safe", 1.0, 0.97, 30).is_collapse
    assert not Decided("safe", 0.995, 0.97, 30).is_collapse  # some are decided
    assert not Decided("safe", 1.0, 0.97, 3).is_collapse


def test_the_state_goes_through_json_unchanged() -> None:
    import json

    health = Health(HealthSettings(), {})
    steps(health, [0.1 * n for n in range(1, 30)] + [1e5])
    health.after_validation(1, {"t": Decided("safe", 1.0, 0.5, 9)})
    again = Health(HealthSettings(), json.loads(json.dumps(health.state())))
    assert again.state() == health.state()


def test_the_most_decided_class() -> None:
    found = most_decided(np.array([0, 1, 1, 1]), np.array([1, 1, 1, 1]), ["safe", "vulnerability"])
    assert found == Decided("vulnerability", 1.0, 0.75, 1)


@pytest.mark.parametrize("policy", ["warn", "skip"])
def test_resume_across_an_event_is_bit_identical(
    data: Path, tmp_path: Path, poison: dict[str, float], monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    settings = {"epochs": 4, "on_spike": policy, "checkpoint_interval": 4}
    whole = new_run(data, tmp_path / "whole", **settings)
    poison[train_sample(whole)] = 1e4
    assert launch(whole).finished
    spikes = events(whole, "spike")
    assert spikes
    assert all(train_sample(whole) in record["samples"] for record in spikes)  # type: ignore[operator]
    skipped = [record for record in read_metrics(whole.layout.metrics) if "skipped" in record and "loss" not in record]
    assert (len(skipped) == len(spikes)) == (policy == "skip")

    real, deaths = Stepper.run, {int(str(spikes[0]["step"])), int(str(spikes[0]["step"])) + 1, 23}

    def run(self: Stepper, plan: object, step: int, *, stop: bool) -> object:
        if step in deaths:
            deaths.remove(step)
            raise Killed
        return real(self, plan, step, stop=stop)  # type: ignore[arg-type]

    monkeypatch.setattr(Stepper, "run", run)
    killed = new_run(data, tmp_path / "killed", **settings)
    for _ in range(len(deaths)):
        with pytest.raises(Killed):
            train_rank(killed.root, 0, 1)
    train_rank(killed.root, 0, 1)
    assert weights(killed) == weights(whole)
    assert history(killed) == history(whole)
    ends = [read_state(list_checkpoints(run.layout.checkpoints)[-1]).health for run in (killed, whole)]
    assert ends[0] == ends[1]


def test_one_poisoned_sample_is_skipped_and_named(data: Path, tmp_path: Path, poison: dict[str, float]) -> None:
    run = new_run(data, tmp_path)
    poison[train_sample(run)] = math.nan
    assert launch(run).finished
    found = events(run, "non_finite")
    assert len(found) == 2  # once per epoch
    assert all(train_sample(run) in record["samples"] for record in found)  # type: ignore[operator]
    assert found[0]["loss"] == "nan"


def test_a_spike_stops_where_it_is_told_to(data: Path, tmp_path: Path, poison: dict[str, float]) -> None:
    run = new_run(data, tmp_path, epochs=4, on_spike="stop")
    poison[train_sample(run)] = 1e4
    with pytest.raises(RunError, match=r"times its usual .* in step \d+.*last good checkpoint is checkpoint_\d+"):
        launch(run)
    assert events(run, "spike")


def test_a_learning_rate_far_too_high_collapses_and_stops(data: Path, tmp_path: Path) -> None:
    settings = {"learning_rate": 0.5, "epochs": 5, "collapse_validations": 2, "warmup_ratio": 0.0}
    warned = new_run(data, tmp_path / "warned", **settings)
    launch(warned)
    collapse = events(warned, "collapse")
    assert collapse
    assert collapse[0]["label"] in ("safe", "vulnerability")
    assert "--learning-rate" in str(collapse[0]["message"])
    stopped = new_run(data, tmp_path / "stopped", on_collapse="stop", **settings)
    with pytest.raises(RunError, match=r"collapsed to one class.*--learning-rate.*checkpoint_"):
        launch(stopped)
    assert stopped.info.status == "failed"


def test_a_diverging_training_ends_by_itself(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path, optimizer="sgd", learning_rate=10.0, gradient_clip=0.0, warmup_ratio=0.5, epochs=10)
    with pytest.raises(RunError, match=r"checkpoint_\d+"):
        launch(run)
    assert events(run)


def test_weights_that_are_no_numbers_stop_at_the_validation(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(data, tmp_path)
    real = Classification.outputs

    def outputs(self: Classification, model: torch.nn.Module, batch: object) -> torch.Tensor:
        return real(self, model, batch) * math.inf  # type: ignore[arg-type]

    monkeypatch.setattr(Classification, "outputs", outputs)
    with pytest.raises(RunError, match=r"validation split are not finite after step \d+"):
        launch(run)
