"""What a model was made from is checked as far as it is still there."""

import shutil
from pathlib import Path

import pytest
from training_runs import copy_run, new_run, write_dataset

from secauditai.export.lineage import check_lineage
from secauditai.export.verify import Verification
from secauditai.models.bundle import Bundle, open_bundle
from secauditai.runs import Run
from secauditai.training.finish import save_best
from secauditai.training.launch import launch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(write_dataset(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("workspace"), max_steps=2)
    launch(run, in_process=True)
    save_best(run)
    return run


def results(run: Run, bundle: Bundle) -> dict[str, str]:
    result = Verification()
    check_lineage(run, bundle, result)
    return {check["name"]: check["result"] for check in result.checks}


def test_the_chain_holds_breaks_or_is_gone(saved: Run, tmp_path: Path) -> None:
    run, bundle = copy_run(saved, tmp_path), open_bundle(saved.layout.bundle)
    assert results(run, bundle) == {"samples and splits": "ok", "configuration": "ok", "checkpoint": "ok"}
    with run.layout.config.open("a") as file:
        file.write("# changed\n")
    best = run.layout.checkpoints / f"checkpoint_{bundle.card.provenance['checkpoint_step']}"
    (best / "state.json").write_text("{}")
    assert results(run, bundle) == {"samples and splits": "ok", "configuration": "failed", "checkpoint": "failed"}
    shutil.rmtree(best)
    run.update(dataset=str(tmp_path / "nowhere"))
    assert results(run, bundle) == {
        "samples and splits": "skipped",
        "configuration": "failed",
        "checkpoint": "skipped",
    }


def test_another_split_of_the_same_samples_is_told(saved: Run, tmp_path: Path) -> None:
    from secauditai.data.dataset import open_dataset
    from secauditai.data.prepare import copy_dataset
    from secauditai.data.split import SplitPlan, split_dataset

    run = copy_run(saved, tmp_path)
    other = split_dataset(copy_dataset(open_dataset(Path(str(run.info.dataset))), tmp_path / "d"), SplitPlan(seed=99))
    unsplit = copy_dataset(open_dataset(Path(str(run.info.dataset))), tmp_path / "unsplit")
    for dataset in (other.dataset, unsplit):
        run.update(dataset=str(dataset.root))
        assert results(run, open_bundle(saved.layout.bundle))["samples and splits"] == "failed"
