from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_runs import SMALL, write_dataset

from secauditai.cluster import Capacity
from secauditai.config.files import NamedConfigs, parse_layer
from secauditai.errors import ConfigError, DataError
from secauditai.tuning.ledger import Ledger
from secauditai.tuning.planning import SweepRequest, TrialResources, check_metric, plan_sweep

SPACE = {"learning_rate": {"loguniform": [1e-4, 1e-2]}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def request(data: Path, tmp_path: Path, layer: dict[str, Any] | None = None, **changes: Any) -> SweepRequest:
    raw = {**SMALL, "data": str(data), **(SPACE if layer is None else layer)}
    return SweepRequest("c", parse_layer(raw), tmp_path, **changes)


def test_what_fits_is_computed_from_the_cluster() -> None:
    two, nodes = Capacity(((2.0, 0.0),)), Capacity(((4.0, 1.0), (4.0, 0.0), (3.0, 2.0)))
    assert TrialResources(1, 1, 0).fitting(two) == 2
    assert TrialResources(2, 1, 0).fitting(two) == 1
    assert TrialResources(1, 3, 0).fitting(two) == 0
    assert TrialResources(1, 2, 0).fitting(nodes) == 5  # one CPU of the last node is left over
    assert TrialResources(1, 1, 1).fitting(nodes) == 3
    assert TrialResources(2, 1, 1).fitting(nodes) == 1
    assert TrialResources(1, 1, 0).fitting(Capacity(((2.0, 0.0),), used_cpus=1.0)) == 1
    assert "floor((2 − 0) / 3) CPUs" in TrialResources(1, 3, 0).arithmetic(two)


def test_gpus_that_others_use_are_not_counted_on() -> None:
    busy = Capacity(((8.0, 4.0),), used_cpus=1.0, used_gpus=3.0)
    assert TrialResources(1, 1, 1).fitting(busy) == 1
    assert TrialResources(2, 1, 1).fitting(busy) == 0
    assert TrialResources(1, 1, 0).fitting(busy) == 7
    told = TrialResources(1, 1, 1).arithmetic(busy)
    assert (
        "8 CPUs, 1 of them in use, and 4 GPUs, 3 of them in use: floor((8 − 1) / 1) CPUs, floor((4 − 3) / 1) GPUs"
        in told
    )


def test_an_impossible_sweep_is_refused_with_the_arithmetic(data: Path, tmp_path: Path) -> None:
    machine = Capacity(((2.0, 0.0),))
    plan = plan_sweep(request(data, tmp_path, {**SPACE, "threads": 4}))
    with pytest.raises(
        ConfigError, match=r"no trial fits: a trial takes 1 worker of 4 CPUs each; .* leave 0 at a time"
    ):
        plan.max_concurrent(machine)
    plan = plan_sweep(request(data, tmp_path, max_concurrent=3))
    with pytest.raises(ConfigError, match=r"3 trials at a time do not fit: .* leave 2 at a time"):
        plan.max_concurrent(machine)
    assert plan_sweep(request(data, tmp_path)).max_concurrent(machine) == 2
    assert plan_sweep(request(data, tmp_path, num_samples=1)).max_concurrent(machine) == 1


def test_what_trials_share_is_resolved_once(data: Path, tmp_path: Path) -> None:
    plan = plan_sweep(request(data, tmp_path, metric="brier", scheduler="asha"))
    shared = {key: plan.fixed[key] for key in ("num_workers", "threads", "selection_metric", "keep_checkpoints")}
    assert shared == {"num_workers": 1, "threads": 1, "selection_metric": "brier", "keep_checkpoints": 1}
    assert plan.metric == "brier"
    assert not plan.new_ledger().higher_is_better
    assert plan.fixed["precision"] in ("fp32", "bf16")
    assert plan.rungs == [plan.training.train.num_rows]
    assert not (tmp_path / "sweeps").exists()


def test_a_grid_decides_how_many_trials_there_are(data: Path, tmp_path: Path) -> None:
    layer = {"batch_size": {"choice": [4, 8]}, "epochs": {"int": [1, 3]}}
    assert plan_sweep(request(data, tmp_path, layer, sampler="grid")).trials == 6
    with pytest.raises(ConfigError, match="the grid has 6 trials"):
        plan_sweep(request(data, tmp_path, layer, sampler="grid", num_samples=4))
    with pytest.raises(ConfigError, match="the grid has 10000 trials, a sweep has at most 9999"):
        plan_sweep(request(data, tmp_path, {"epochs": {"int": [1, 10000]}}, sampler="grid"))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({}, "has no search space"),
        ({"num_workers": {"choice": [1, 2]}}, "num_workers cannot be searched"),
        ({"similarity": {"uniform": [0.7, 0.9]}}, "similarity cannot be searched"),
        ({"task": {"choice": ["multi_task", "severity_prediction"]}}, "task cannot be searched"),
        ({**SPACE, "num_workers": "2-4"}, "num_workers: trials cannot have a range of workers, 2-4"),
    ],
)
def test_what_cannot_be_searched_is_refused(data: Path, tmp_path: Path, layer: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_sweep(request(data, tmp_path, layer))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my sweep", "configuration 'my sweep' is not a name"),
        ("c" * 60, f"the configuration of the best trial '{'c' * 60}-best' is not a name"),
    ],
)
def test_a_name_that_the_best_model_cannot_have_is_refused(data: Path, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_sweep(replace(request(data, tmp_path), name=name))


def test_a_configuration_of_the_user_is_not_replaced_by_the_best_trial(data: Path, tmp_path: Path) -> None:
    NamedConfigs(tmp_path).create("c-best", {"epochs": 3})
    with pytest.raises(ConfigError, match="the configuration c-best would be replaced"):
        plan_sweep(request(data, tmp_path))
    path = tmp_path / "sweeps" / "c" / "s1" / "ledger.json"
    Ledger(path, "s1", "c", "loss", higher_is_better=False, best_config="c-best").save()
    assert plan_sweep(request(data, tmp_path)).request.name == "c"  # an earlier sweep's best
    path.write_text("")
    with pytest.raises(ConfigError, match="no sweep here has made it"):
        plan_sweep(request(data, tmp_path))


def test_a_goal_that_is_never_defined_is_refused(data: Path, tmp_path: Path) -> None:
    asked = request(data, tmp_path)
    layer = {**asked.layer, "task": "severity_prediction"}
    with pytest.raises(DataError, match="specificity is for two labels only, and severity_prediction has"):
        plan_sweep(replace(asked, layer=layer, metric="specificity"))


def test_the_goal_is_one_known_metric() -> None:
    assert check_metric("macro-F1") == "macro_f1"
    with pytest.raises(ConfigError, match="Did you mean roc_auc"):
        check_metric("roc_ac")
    with pytest.raises(ConfigError, match="a sweep has one goal"):
        check_metric("f1,loss")
