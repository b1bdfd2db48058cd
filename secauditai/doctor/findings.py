"""What a check found, and the checks that judge plain facts: they ask nobody and can be tested with any cluster."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from secauditai.cluster import Node
from secauditai.errors import PreflightError
from secauditai.storage import is_remote

Result = Literal["ok", "warning", "failed", "skipped"]
GIB = 2**30
ROUNDING = 2e-3
"""CPUs that shares of a CPU may be off by together: they are rounded to a thousandth."""
SHM_FLOOR = GIB
"""Ray keeps objects in /dev/shm; containers come with 64 MiB of it."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    check: str
    result: Result
    message: str
    hint: str | None = None

    def document(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class NodeFacts:
    """What a node told about itself; plain data, as it crosses processes."""

    node: str
    versions: Mapping[str, str]
    free_disk: Mapping[str, int]
    """Free bytes by directory."""
    free_memory: int
    shm: int | None
    """Bytes of /dev/shm; None where there is none."""
    reads_workspace: bool
    """Whether it sees the file that the driver wrote."""
    workspace_error: str | None = None
    tracking_error: str | None = None
    model_error: str | None = None


@dataclass(frozen=True)
class Worker:
    """What one training process takes, and how many there are to be."""

    count: int
    cpus: float
    gpus: float


def require(findings: Iterable[Finding]) -> None:
    """Stop before anything starts when a check failed.

    Raises:
        PreflightError: with a line for every failure.
    """
    failed = [finding for finding in findings if finding.result == "failed"]
    if failed:
        raise PreflightError([f"{item.check}: {item.message}. {item.hint or ''}".strip() for item in failed])


def report_silence(names: Sequence[str]) -> Finding:
    """Some nodes did not answer."""
    return Finding("nodes", "failed", f"no answer from {_some(names)}", "See `ray status` and the logs of Ray there.")


def check_head(nodes: Sequence[Node]) -> Finding:
    """The head node, whose loss ends every job, computes nothing where others can."""
    head = next((node for node in nodes if node.is_head), None)
    if head is None or head.cpus == 0:
        return Finding("head", "ok", "it computes nothing")
    if len(nodes) == 1:
        return Finding("head", "ok", "it is the only node")
    hint = "Start it with `ray start --head --num-cpus=0`, as the files in cluster/ do."
    return Finding("head", "warning", f"{head.name} offers {head.cpus:g} CPUs; only Ray jobs keep off it", hint)


def check_versions(mine: Mapping[str, str], nodes: Sequence[NodeFacts]) -> Finding:
    """Every node has the versions of this machine."""
    differences = [
        f"{facts.node} has {name} {facts.versions.get(name, 'missing')}, here it is {version}"
        for facts in nodes
        for name, version in mine.items()
        if facts.versions.get(name) != version
    ]
    if differences:
        hint = "Install the versions of constraints.txt on every node; the image of cluster/Dockerfile has them."
        return Finding("versions", "failed", _some(differences), hint)
    return Finding("versions", "ok", f"{len(mine)} versions are equal on {_nodes(nodes)}")


def check_storage(workspace: str, nodes: Sequence[NodeFacts], written: Iterable[str]) -> Finding:
    """Every node reads what this machine wrote into the workspace, and this machine what they wrote.

    Args:
        workspace: the workspace's directory or address.
        nodes: what the nodes said.
        written: nodes whose file arrived here.
    """
    arrived = set(written)
    problems = [f"{facts.node}: {facts.workspace_error}" for facts in nodes if facts.workspace_error]
    silent = [facts for facts in nodes if not facts.workspace_error]
    problems += [f"{facts.node} does not see what this machine wrote" for facts in silent if not facts.reads_workspace]
    problems += [f"what {facts.node} wrote is not here" for facts in silent if facts.node not in arrived]
    if problems and is_remote(workspace):
        hint = "Set AWS_ENDPOINT_URL and credentials where Ray is started, on every node."
        return Finding("storage", "failed", f"not every node can use {workspace}: {_some(problems)}", hint)
    if problems:
        hint = "Name a directory that all nodes share with --workspace or SECAUDITAI_WORKSPACE."
        return Finding("storage", "failed", f"{workspace} is not shared: {_some(problems)}", hint)
    return Finding("storage", "ok", f"{workspace} is written and read by {_nodes(nodes)}")


def check_disk(nodes: Sequence[NodeFacts], floor: int) -> Finding:
    """Every node has room for checkpoints and for Ray's own files."""
    low = [f"{f.node} has {_gib(free)} in {path}" for f in nodes for path, free in f.free_disk.items() if free < floor]
    if low:
        return Finding(
            "disk", "failed", f"less than {_gib(floor)} free: {_some(low)}", "`secauditai runs prune` helps."
        )
    least = min((free for facts in nodes for free in facts.free_disk.values()), default=0)
    return Finding("disk", "ok", f"at least {_gib(least)} free on {_nodes(nodes)}")


def check_memory(nodes: Sequence[NodeFacts], floor: int) -> Finding:
    """Every node has memory for a training process."""
    low = [f"{facts.node} has {_gib(facts.free_memory)}" for facts in nodes if facts.free_memory < floor]
    if low:
        hint = "Stop other work there, or take larger nodes."
        return Finding("memory", "failed", f"less than {_gib(floor)} free: {_some(low)}", hint)
    least = min((facts.free_memory for facts in nodes), default=0)
    return Finding("memory", "ok", f"at least {_gib(least)} free on {_nodes(nodes)}")


def check_shm(nodes: Sequence[NodeFacts]) -> Finding:
    """/dev/shm holds Ray's objects; a container's default is too small and makes Ray slow."""
    small = [
        f"{facts.node} has {_gib(facts.shm)}" for facts in nodes if facts.shm is not None and facts.shm < SHM_FLOOR
    ]
    if small:
        hint = "Start containers with --shm-size=4g, or mount a memory-backed emptyDir there."
        return Finding("shm", "warning", f"/dev/shm is small: {_some(small)}", hint)
    return Finding("shm", "ok", f"/dev/shm has at least {_gib(SHM_FLOOR)} on {_nodes(nodes)}")


def check_resources(worker: Worker, nodes: Sequence[Node]) -> Finding:
    """The workers fit on the nodes, each whole on one of them."""
    fitting = sum(_fit(worker, node) for node in nodes)
    each = f"{worker.cpus:g} CPUs" + (f" and {worker.gpus:g} GPUs" if worker.gpus else "")
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    there = f"{cpus:g} CPUs and {gpus:g} GPUs on {len(nodes)} node{'s' if len(nodes) > 1 else ''}"
    if fitting < worker.count:
        hint = "Lower --num-workers or --threads, add nodes, or let jobs/scale.py ask the autoscaler for them."
        message = f"{worker.count} workers of {each} are wanted, {fitting} fit: there are {there}"
        return Finding("resources", "failed", message, hint)
    return Finding("resources", "ok", f"{worker.count} workers of {each} fit: there are {there}")


def check_tracking(uri: str, error: str | None, nodes: Sequence[NodeFacts]) -> Finding:
    """MLflow and its artifact store answer here and on every node, and suit the number of nodes.

    Args:
        uri: the tracking URI, without credentials.
        error: why this machine cannot use it.
        nodes: what the nodes said.
    """
    if uri.startswith("sqlite") and len(nodes) > 1:
        hint = "Start a server (docs/clusters/services.md) and set MLFLOW_TRACKING_URI=http://…"
        return Finding("mlflow", "failed", f"{uri} is one machine's file, and there are {len(nodes)} nodes", hint)
    errors = [f"here: {error}"] if error else []
    errors += [f"{facts.node}: {facts.tracking_error}" for facts in nodes if facts.tracking_error and not error]
    if errors:
        hint = "See that the server is up, and MLFLOW_TRACKING_USERNAME and _PASSWORD are set where Ray was started."
        return Finding("mlflow", "failed", _some(errors), hint)
    return Finding("mlflow", "ok", f"{uri} and its artifact store answer on {_nodes(nodes)}")


def check_model(model: str, hub_id: str | None, nodes: Sequence[NodeFacts]) -> Finding:
    """A pretrained encoder is in every node's cache, or the hub answers."""
    if hub_id is None:
        return Finding("hub", "skipped", f"{model} needs nothing from the hub")
    errors = [f"{facts.node}: {facts.model_error}" for facts in nodes if facts.model_error]
    if errors:
        hint = "Point HF_HOME at a cache that all nodes share, where `hf download` has put it."
        return Finding("hub", "failed", _some(errors), hint)
    return Finding("hub", "ok", f"{hub_id} is cached or can be had on {_nodes(nodes)}")


def check_dashboard(url: str | None, *, loopback: bool, asks: bool | None) -> Finding:
    """Whoever reaches the dashboard's job API may run any code on the cluster.

    Args:
        url: where it listens; None without one.
        loopback: whether only this machine reaches it.
        asks: whether it refuses a request without token; None when it does not answer.
    """
    if url is None:
        return Finding("dashboard", "ok", "there is none")
    if asks:
        return Finding("dashboard", "ok", f"{url} asks for a token")
    if loopback:
        return Finding("dashboard", "ok", f"{url} is reached from its own machine only")
    if asks is None:
        return Finding("dashboard", "warning", f"{url} does not answer, so whether it asks for a token is unknown")
    hint = "Start Ray with RAY_AUTH_MODE=token, or with --dashboard-host 127.0.0.1."
    return Finding("dashboard", "failed", f"{url} is open to the network without a token: anybody may run code", hint)


def _fit(worker: Worker, node: Node) -> int:
    counts = [(node.cpus + ROUNDING) // worker.cpus] if worker.cpus else []
    counts += [node.gpus // worker.gpus] if worker.gpus else []
    return int(min(counts, default=worker.count))


def _nodes(nodes: Sequence[NodeFacts]) -> str:
    return nodes[0].node if len(nodes) == 1 else f"{len(nodes)} nodes"


def _some(problems: Sequence[str]) -> str:
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
