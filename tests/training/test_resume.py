import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from training_runs import copy_run, history, new_run, weights, write_dataset

from secauditai.cluster import Cluster, Node
from secauditai.config.files import read_layer, write_layer
from secauditai.errors import RunError
from secauditai.files import write_json
from secauditai.runs import Run, create_run, read_metrics
from secauditai.training.checkpoint import list_checkpoints
from secauditai.training.launch import launch
from secauditai.training.loop import train_rank
from secauditai.training.memory import Budget, write_budgets
from secauditai.training.recipe import read_recipe
from secauditai.training.resume import describe, resolve_resume, restore_stores, summarise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), pairs=15)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(data, tmp_path_factory.mktemp("w"), checkpoint_interval=2, threads="auto")
    assert launch(run).finished
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy of the trained run, alone in the workspace `tmp_path`."""
    return copy_run(trained, tmp_path / "runs" / "m")


def change(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


def test_resume_continues_branches_or_says_complete(trained: Run, run: Run, tmp_path: Path) -> None:
    latest = resolve_resume(tmp_path, "m", "latest")
    assert not latest.branches
    assert not latest.complete
    run.update(status="finished", model_version=1)
    assert resolve_resume(tmp_path, "m", "latest").complete
    older = resolve_resume(tmp_path, "m", "checkpoint_2.pt")
    assert older.branches
    branch = older.begin(tmp_path)
    assert branch.info.parent_run_id == trained.root.name
    assert list_checkpoints(branch.layout.checkpoints)[-1].step == 2
    assert launch(branch).finished
    assert weights(branch) == weights(trained)
    assert history(branch) == history(trained)
    with pytest.raises(RunError, match=r"no checkpoint 'checkpoint_7\.pt'.*Steps with a checkpoint: "):
        resolve_resume(tmp_path, "m", "checkpoint_7.pt")


def test_trials_of_a_sweep_do_not_count_but_for_the_registered_one(run: Run, tmp_path: Path) -> None:
    run.update(sweep_id="s", trial_id="0000", status="finished", model_version=1)
    other = create_run(tmp_path, "m", kind="start", task="", sweep_id="s", trial_id="0001")
    shutil.copytree(run.layout.initial, other.layout.initial)
    shutil.copyfile(run.layout.recipe, other.layout.recipe)
    assert resolve_resume(tmp_path, "m", "latest").run.root == run.root


def test_a_path_names_its_own_run_and_no_other_model(trained: Run, run: Run, tmp_path: Path) -> None:
    checkpoint = list_checkpoints(trained.layout.checkpoints)[0]
    assert resolve_resume(tmp_path, "m", str(checkpoint.root)).run.root == trained.root
    copy_run(trained, tmp_path / "runs" / "other")
    with pytest.raises(RunError, match="belongs to a run of 'm', not of 'other'"):
        resolve_resume(tmp_path, "other", str(checkpoint.root))


def test_a_directory_that_is_no_checkpoint_is_named_as_it_was_typed(data: Path, run: Run, tmp_path: Path) -> None:
    for typed in (str(data), f"{data}/../data"):
        with pytest.raises(RunError, match="this is no checkpoint of a run") as error:
            resolve_resume(tmp_path, "m", typed)
        assert error.value.where == typed


def test_the_summary_says_where_the_run_stands_and_what_changed(run: Run, tmp_path: Path) -> None:
    recipe = json.loads(run.layout.recipe.read_text())
    recipe["promise"]["noted"]["host"] = "elsewhere"
    write_json(run.layout.recipe, recipe)
    newest = list_checkpoints(run.layout.checkpoints)[-1]
    newest.weights.write_bytes(b"")
    found = resolve_resume(tmp_path, "m", "latest")
    summary = summarise(found)
    assert summary.step == found.step == 4
    assert (summary.epoch, summary.samples_seen) == (4 / 3, 22 + 8)
    assert summary.samples_per_second
    assert summary.damaged_checkpoints == len(found.damaged) >= 1
    assert f"{newest.root.name}: damaged checkpoint" in found.damaged[0]
    assert any(text.startswith("host elsewhere → ") for text in summary.changes)
    assert "step 4 of 6, epoch 1.33, 30 samples seen" in summary.lines()[0]
    assert describe(found).startswith(f"Continuing run {run.root.name} at step 4 of 6")


def test_a_run_killed_before_its_first_checkpoint_begins_at_the_beginning(
    trained: Run, run: Run, tmp_path: Path
) -> None:
    shutil.rmtree(run.layout.checkpoints)
    run.layout.checkpoints.mkdir()
    found = resolve_resume(tmp_path, "m", "latest")
    assert (found.step, found.branches) == (0, False)
    assert launch(found.begin(tmp_path)).finished
    assert weights(run) == weights(trained)
    assert history(run) == history(trained)


def test_a_run_killed_while_it_was_prepared_gives_way_to_the_one_before(run: Run, tmp_path: Path) -> None:
    late = copy_run(run, tmp_path / "late").root.rename(run.root.parent / "99999999-000000-unborn")
    (late / "recipe.json").unlink()
    assert resolve_resume(tmp_path, "m", "latest").run.root == run.root
    run.layout.recipe.unlink()
    with pytest.raises(RunError, match="interrupted while being prepared"):
        resolve_resume(tmp_path, "m", "latest")


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("versions", "torch"), "1.0", r"torch 1\.0 →"),
        (("promise", "batch_plan"), "0", r"batch plan 0 → "),
        (("promise", "samples"), "abc", r"its samples changed \(abc → "),
        (("promise", "splits"), "abc", r"its splits changed \(abc → "),
        (("promise", "initial", "tokenizer.json"), "abc", r"initial encoder or tokenizer .* tokenizer\.json"),
    ],
)
def test_what_decides_the_result_is_refused_with_the_difference(
    run: Run, tmp_path: Path, where: tuple[str, ...], value: str, said: str
) -> None:
    recipe = json.loads(run.layout.recipe.read_text())
    place = recipe
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    write_json(run.layout.recipe, recipe)
    with pytest.raises(RunError, match=said):
        resolve_resume(tmp_path, "m", "latest")


def test_data_that_was_edited_or_is_gone_is_refused(run: Run, data: Path, tmp_path: Path) -> None:
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    change(run.layout.info, dataset=str(copied))
    assert resolve_resume(tmp_path, "m", "latest").dataset is not None
    part = next((copied / "train").iterdir())
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=rf"not what it was: .*train/{part.name} differs"):
        resolve_resume(tmp_path, "m", "latest")
    shutil.rmtree(copied)
    with pytest.raises(RunError, match=r"not what it was: .*no manifest\.json"):
        resolve_resume(tmp_path, "m", "latest")


@pytest.mark.parametrize("how", ["gone", "short", "flipped"])
def test_a_lost_token_store_is_built_again(run: Run, tmp_path: Path, how: str) -> None:
    found = resolve_resume(tmp_path, "m", "latest")
    assert found.dataset is not None
    assert found.changes is not None
    recipe = found.changes.recipe.model_copy(
        update={"train_store": str(tmp_path / "tokens" / Path(found.changes.recipe.train_store).name)}
    )
    copied = Path(recipe.train_store)
    shutil.copytree(read_recipe(run.layout.recipe).train_store, copied)
    tokens = (copied / "tokens.bin").read_bytes()
    if how == "gone":
        shutil.rmtree(copied)
    else:
        (copied / "tokens.bin").write_bytes(tokens[:-2] if how == "short" else b"xx" + tokens[2:])
    restore_stores(recipe, found.dataset, found.changes.config)
    assert (copied / "tokens.bin").read_bytes() == tokens


def test_execution_settings_change_and_say_what_they_cost(run: Run, tmp_path: Path) -> None:
    flags = {"checkpoint_interval": 1, "keep_checkpoints": 2, "max_failures": 7, "seed": 13, "epochs": 2}
    found = resolve_resume(tmp_path, "m", "latest", flags)
    assert found.changes is not None
    assert not any("no longer promised" in note for note in found.changes.notes)
    assert "checkpoint_interval: 2 → 1" in found.changes.notes
    begun = found.begin(tmp_path)
    recipe = read_recipe(begun.layout.recipe)
    assert (recipe.checkpoint_interval, recipe.keep_checkpoints) == (1, 2)
    assert resolve_resume(tmp_path, "m", "latest").changes.config.execution.max_failures == 7  # type: ignore[union-attr]
    costly = resolve_resume(tmp_path, "m", "latest", {"num_workers": 2, "threads": 1}).changes
    assert costly is not None
    assert (costly.recipe.world_size, costly.recipe.threads) == (2, 1)
    assert any("no longer promised: world_size 1 → 2" in note for note in costly.notes)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"learning_rate": 0.5}, r"--learning-rate 0\.001 → 0\.5"),
        ({"epochs": 9, "batch_size": 4}, r"--epochs 2 → 9, --batch-size 8 → 4"),
        ({"seed": 1}, "--seed 13 → 1"),
        ({"precision": "bf16"}, "--precision fp32 → bf16"),
    ],
)
def test_settings_that_change_the_training_are_refused(
    run: Run, tmp_path: Path, flags: dict[str, Any], said: str
) -> None:
    with pytest.raises(RunError, match=said):
        resolve_resume(tmp_path, "m", "latest", flags)


def test_devices_are_those_of_the_cluster_that_the_run_goes_on_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = tuple(Node(name, name, cpus=6, gpus=1, is_head=False) for name in ("one", "two"))
    there = Cluster(started_here=False, startup_seconds=0.0, nodes=nodes)
    monkeypatch.setattr("secauditai.training.devices.ensure_ray", lambda address: {"auto": there}[address])
    changes = resolve_resume(tmp_path, "m", "latest", {"num_workers": 2}, "auto").changes
    assert changes is not None
    assert (changes.recipe.device, changes.recipe.threads) == ("cuda", 6)


def test_a_run_on_a_cuda_device_does_not_go_on_without_one_unasked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    recipe = json.loads(run.layout.recipe.read_text())
    write_json(run.layout.recipe, {**recipe, "device": "cuda"})
    with pytest.raises(RunError, match="trains on a CUDA device, and there is none here"):
        resolve_resume(tmp_path, "m", "latest")
    found = resolve_resume(tmp_path, "m", "latest", {"gpu": "0"})
    assert found.changes is not None
    assert found.changes.recipe.device == "cpu"


def test_the_same_words_choose_devices_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    recipe = json.loads(run.layout.recipe.read_text())
    write_json(run.layout.recipe, {**recipe, "device": "cuda"})
    write_layer(run.layout.config, {**read_layer(run.layout.config), "gpu": "1"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(RunError, match="there is none here"):
        resolve_resume(tmp_path, "m", "latest")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"  # on a machine that has it, the run goes on on the same device
    found = resolve_resume(tmp_path, "m", "latest", {"gpu": "1"})
    assert found.changes is not None
    assert found.changes.recipe.device == "cpu"


def test_what_defaults_came_to_may_be_said_again(run: Run, tmp_path: Path) -> None:
    recipe = read_recipe(run.layout.recipe)
    said = {"learning_rate": recipe.learning_rate, "micro_batch_tokens": recipe.micro_batch_tokens}
    changes = resolve_resume(tmp_path, "m", "latest", said).changes
    assert changes is not None
    assert (changes.notes, changes.recipe) == ([], recipe)


def test_a_micro_batch_budget_that_is_asked_for_replaces_what_memory_has_made_of_it(run: Run, tmp_path: Path) -> None:
    asked = read_recipe(run.layout.recipe).micro_batch_tokens
    write_budgets(run.layout.memory, [Budget(1, 16)])
    for checkpoint in list_checkpoints(run.layout.checkpoints):
        if checkpoint.step > 0:
            shutil.rmtree(checkpoint.root)
    same = resolve_resume(tmp_path, "m", "latest", {"micro_batch_tokens": 16})
    assert same.changes is not None
    assert same.changes.notes == []
    found = resolve_resume(tmp_path, "m", "latest", {"micro_batch_tokens": asked})
    assert found.changes is not None
    assert f"no longer promised: micro_batch_tokens 16 → {asked}" in found.changes.notes[0]
    begun = found.begin(tmp_path)
    state = train_rank(begun.root, 0, 1)
    assert state is not None
    assert (state.finished, state.micro_batch_tokens) == (True, asked)
    assert not [record for record in read_metrics(begun.layout.metrics) if record.get("event") == "out_of_memory"]


def test_a_run_that_another_command_trains_keeps_its_settings(run: Run, tmp_path: Path) -> None:
    found = resolve_resume(tmp_path, "m", "latest", {"max_failures": 7})
    before = run.layout.config.read_bytes(), run.layout.recipe.read_bytes()
    with FileLock(run.layout.driver_lock), pytest.raises(RunError, match="another process is training this run"):
        found.begin(tmp_path)
    assert (run.layout.config.read_bytes(), run.layout.recipe.read_bytes()) == before


def test_a_checkpoint_interval_may_change_without_changing_a_bit(trained: Run, run: Run, tmp_path: Path) -> None:
    shutil.rmtree(run.layout.checkpoints)
    run.layout.checkpoints.mkdir()
    begun = resolve_resume(tmp_path, "m", "latest", {"checkpoint_interval": 1}).begin(tmp_path)
    assert train_rank(begun.root, 0, 1) is not None
    assert [c.step for c in list_checkpoints(begun.layout.checkpoints)] == list(range(7))
    assert weights(begun) == weights(trained)
