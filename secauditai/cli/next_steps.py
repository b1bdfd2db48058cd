"""What a user would do next with a training: the hint at the end of several commands."""

from secauditai.runs import RUNNING, Run, RunInfo


def after_training(info: RunInfo) -> list[str]:
    """The words of the command after a training whose model is registered."""
    data = info.dataset or "DATA"
    if info.kind == "base":
        return ["train", "finetune", "--model", info.name, "--data", data]
    return ["train", "evaluate", "--model", info.name, "--test-data", data]


def after_run(run: Run) -> list[str] | None:
    """The words of the command for a run as it stands; None when it goes on, or came to nothing that could go on."""
    info = run.info
    if info.model_version is not None:
        return after_training(info)
    if (info.status == RUNNING and not info.process_is_gone()) or not run.layout.recipe.exists():
        return None
    return ["train", "resume", "--model", info.name]
