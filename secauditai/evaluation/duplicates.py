"""What a quality report says about repeated code: merged duplicates, near-duplicate clusters, and conflicts."""

from collections import Counter, defaultdict
from typing import Any

from secauditai.data.clean import Rejection
from secauditai.data.findings import Finding
from secauditai.data.material import Material
from secauditai.evaluation.masking import excerpt

SHOWN = 3
"""Examples of each kind."""
SHOWN_MEMBERS = 2
CHARACTERS = 600
"""Of code per example."""


def describe_duplicates(material: Material) -> dict[str, Any]:
    """Counts of merged duplicates, near-duplicate clusters and conflicts, with a few examples of each."""
    columns = material.columns("id", "label", "group", "cluster").to_pydict()
    near = _near_clusters(columns)
    sizes = Counter(columns["cluster"])
    examples = sorted(near, key=lambda name: (-len(near[name]), name))[:SHOWN]
    label_of = dict(zip(columns["id"], columns["label"], strict=True))
    conflicts = _conflicts(material)
    merges = material.merged[:SHOWN]
    wanted = [member for name in examples for member in near[name]]
    wanted += [merge.into for merge in merges] + [item["id"] for item in conflicts if item["id"]]
    codes = {name: excerpt(code, CHARACTERS) for name, code in material.codes(wanted)}
    refused = material.refused_code(item["where"] for item in conflicts)
    for item in conflicts:
        code = refused.get((item["where"], item["id"])) if item["refused"] else None
        item["code"] = codes.get(item["id"]) if not item["refused"] else code and excerpt(code, CHARACTERS)
    return {
        "merged": len(material.merged),
        "merged_examples": [
            {"id": merge.id, "into": merge.into, "where": merge.where, "code": codes.get(merge.into)}
            for merge in merges
        ],
        "near_checked": material.dataset is not None and material.dataset.similarity is not None,
        "similarity": material.dataset.similarity if material.dataset is not None else None,
        "clusters": len(sizes),
        "largest_cluster": max(sizes.values(), default=0),
        "near_clusters": len(near),
        "near_samples": sum(sizes[name] for name in near),
        "near_examples": [
            {
                "cluster": name,
                "samples": sizes[name],
                "members": [{"id": m, "label": label_of[m], "code": codes[m]} for m in near[name]],
            }
            for name in examples
        ],
        "conflicts": sum(finding.reason == "conflict" for finding in material.validation.findings)
        or sum(item.reason == "conflict" for item in material.rejected),
        "conflict_examples": conflicts,
    }


def _near_clusters(columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Clusters that hold near duplicates no group joins, each with a few members of different groups."""
    members: dict[str, dict[str, str]] = defaultdict(dict)
    for name, group, cluster in zip(columns["id"], columns["group"], columns["cluster"], strict=True):
        members[cluster].setdefault(group or f"\0{name}", name)
    return {cluster: list(found.values())[:SHOWN_MEMBERS] for cluster, found in members.items() if len(found) > 1}


def _conflicts(material: Material) -> list[dict[str, Any]]:
    """Conflicts to show: those just found, or those that `prepare` refused."""
    found: list[Finding | Rejection] = [item for item in material.validation.findings if item.reason == "conflict"]
    refused = [item for item in material.rejected if item.reason == "conflict"]
    places = {item.where for item in refused}
    return [
        {"id": item.id, "where": item.where, "message": item.message, "refused": item.where in places}
        for item in (found or refused)[:SHOWN]
    ]
