"""The data quality report: what it measures, that it hides secrets, and that it cannot be made to run code."""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import make_samples

from secauditai.config.settings import CleaningSettings
from secauditai.data.corpus import generate_corpus
from secauditai.data.findings import KINDS, Finding, count_findings
from secauditai.data.material import open_material
from secauditai.data.prepare import prepare
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.data.windows import Windowing
from secauditai.evaluation.leakage import random_split_leak
from secauditai.evaluation.masking import MASK, excerpt, mask_secrets
from secauditai.evaluation.noise import find_suspects
from secauditai.evaluation.quality import add_findings, draw_samples, measure_quality
from secauditai.evaluation.quality_report import render_quality_report

WINDOWING = Windowing(64, 8)
EVIL = "</pre><script>alert('x')</script>\n"


def write(path: Path, samples: Sequence[dict[str, Any]]) -> str:
    path.write_text(yaml.safe_dump({"samples": list(samples)}, sort_keys=False), encoding="utf-8")
    return str(path)


def page(spec: str, **settings: Any) -> tuple[dict[str, Any], str]:
    with open_material(spec, CleaningSettings(**settings)) as material:
        quality = measure_quality(material, WINDOWING)
        validation = add_findings(material, quality.noise)
    return quality.document, render_quality_report(quality.document, validation, spec)


# Leaks


def test_pairs_leak_when_split_at_random() -> None:
    clusters = [f"pair_{number // 2}" for number in range(1000)]
    found = random_split_leak(clusters, ["safe", "vulnerability"] * 500)
    assert found is not None
    assert found["test_samples"] == 100
    assert found["leaked"] == pytest.approx(0.8, abs=0.05)
    assert found["opposite"] == found["leaked"]
    assert found["lowest"] <= found["leaked"] <= found["highest"]
    assert found == random_split_leak(clusters, ["safe", "vulnerability"] * 500)


def test_samples_that_stand_alone_do_not_leak() -> None:
    found = random_split_leak([str(number) for number in range(100)], ["safe"] * 100)
    assert found is not None
    assert (found["leaked"], found["opposite"]) == (0, 0)
    assert random_split_leak(["a", "b"], ["safe", "safe"]) is None


@pytest.mark.slow
def test_a_split_dataset_is_reported_with_its_splits(tmp_path: Path) -> None:
    spec = write(tmp_path / "s.yaml", make_samples(30))
    prepared = prepare(spec, tmp_path / "d", CleaningSettings(near_duplicates=False))
    split_dataset(prepared.dataset, SplitPlan())
    document, text = page(str(tmp_path / "d"))
    assert document["leaks"] == {"checked": True, "findings": 0, "samples": 0, "examples": []}
    assert [row["samples"] for row in document["splits"]] == [48, 6, 6]
    assert document["random_split"]["leaked"] >= 0.5
    assert "not looked for" in text  # near duplicates


# Doubtful labels


def test_flipped_labels_are_found_more_often_than_by_chance() -> None:
    corpus = generate_corpus(800)
    flipped = set(random.Random(1).sample([sample.id for sample in corpus], len(corpus) // 20))
    other = {"safe": "vulnerability", "vulnerability": "safe"}
    labels = [other[sample.label] if sample.id in flipped else sample.label for sample in corpus]
    ids, codes, groups = zip(*((s.id, s.code, s.group) for s in corpus), strict=True)
    noise = find_suspects(ids, codes, labels, groups)
    hits = sum(suspect.id in flipped for suspect in noise.suspects)
    assert noise.roc_auc is not None
    assert noise.roc_auc > 0.6
    assert hits / len(noise.suspects) > 2 * len(flipped) / len(corpus)
    assert hits / len(flipped) > 0.25
    assert [s.probability for s in noise.suspects] == sorted(s.probability for s in noise.suspects)
    shuffled = list(zip(ids, codes, labels, groups, strict=True))
    random.Random(2).shuffle(shuffled)
    assert find_suspects(*zip(*shuffled, strict=True)) == noise


@pytest.mark.parametrize(
    ("labels", "clusters", "reason"),
    [
        (["safe"] * 20, range(20), "same label"),
        (["safe", "vulnerability"] * 10, [0] * 20, "clusters"),
        (["safe", "vulnerability"] * 10, range(20), "no two samples"),
    ],
)
def test_labels_that_cannot_be_doubted(labels: list[str], clusters: Sequence[int], reason: str) -> None:
    ids = [str(number) for number in range(20)]
    codes = [f"word{number}" for number in range(20)]
    noise = find_suspects(ids, codes, labels, [str(cluster) for cluster in clusters])
    assert (noise.scored, noise.suspects) == (0, [])
    assert reason in noise.reason


def test_of_much_data_a_part_is_drawn_whatever_its_order(tmp_path: Path) -> None:
    samples = make_samples(30)
    drawn = []
    for name, some in (("a", samples), ("b", samples[::-1])):
        with open_material(write(tmp_path / f"{name}.yaml", some)) as material:
            drawn.append(draw_samples(material, 10))
    assert drawn[0] == drawn[1]
    assert len(drawn[0].tokens) == 10
    assert drawn[0].total == 60


# Duplicates, conflicts, lengths


@pytest.mark.slow
def test_what_is_wrong_is_counted_and_shown(tmp_path: Path) -> None:
    samples = make_samples(20)
    samples.append({**samples[0], "id": "again"})
    samples.append({"id": "no_code", "label": "safe"})
    samples += [{"id": f"c{label}", "code": "same(code)", "label": label} for label in ("safe", "vulnerability")]
    samples.append({"id": "long", "code": "x = 1\n" * 200, "label": "safe"})
    spec = write(tmp_path / "s.yaml", samples)
    document, text = page(spec)
    assert (document["read"], document["kept"], document["rejected"]) == (45, 41, 3)
    assert document["read"] == document["kept"] + document["rejected"] + document["duplicates"]["merged"]
    assert document["duplicates"]["merged_examples"][0]["into"] == "again"
    assert document["duplicates"]["conflicts"] == 2
    assert document["duplicates"]["conflict_examples"][0]["code"] == "same(code)\n"
    assert document["refused"]["reasons"] == {"conflict": 2, "no_code": 1}
    assert document["lengths"]["over_max_length"] == 1
    assert document["lengths"]["most_windows"] == 11
    assert sum(document["lengths"]["tokens"]["counts"]) == 41
    assert {row["value"]: row["samples"] for row in document["languages"]} == {"python": 41}
    assert "s.yaml:" in text
    kept, text = page(spec, conflicts="keep")
    assert kept["duplicates"]["conflicts"] == 2
    assert "and no common group; it was kept" in text
    prepare(spec, tmp_path / "d", CleaningSettings(conflicts="keep", max_rejected=1))
    with open_material(str(tmp_path / "d")) as material:
        assert count_findings(material.validation.findings, "conflict") == 2


@pytest.mark.slow
def test_near_duplicates_are_shown(tmp_path: Path) -> None:
    body = "\n".join(f"call_{number}(argument_{number})" for number in range(30))
    samples = [{"id": f"s{n}", "code": f"{body}\nlast_{n}()", "label": ("safe", "vulnerability")[n]} for n in (0, 1)]
    document, _ = page(write(tmp_path / "s.yaml", samples))
    assert document["duplicates"]["near_clusters"] == 1
    assert document["duplicates"]["near_samples"] == 2
    assert [member["id"] for member in document["duplicates"]["near_examples"][0]["members"]] == ["s0", "s1"]


def test_data_of_which_nothing_is_kept_has_a_report(tmp_path: Path) -> None:
    document, text = page(write(tmp_path / "s.yaml", [{"id": "a", "label": "safe"}]))
    assert (document["read"], document["kept"], document["random_split"]) == (1, 0, None)
    assert document["vulnerable_share"] is None
    assert "Not looked for: all samples have the same label" in text


def test_kinds_of_findings() -> None:
    findings = [
        Finding("error", "f:1", "a", "no_code", ""),
        Finding("error", "f:2", "b", "conflict", ""),
        Finding("error", "d/test", "c", "leak", ""),
        Finding("warning", "f", "", "imbalance", ""),
    ]
    counts = {kind: count for kind in KINDS if (count := count_findings(findings, kind))}
    assert counts == {"error": 3, "leak": 1, "conflict": 1, "rejected": 2, "imbalance": 1}


# The page


@pytest.mark.slow
def test_everything_is_escaped_and_secrets_are_masked(tmp_path: Path) -> None:
    samples = make_samples(12)
    for sample in samples:
        sample["code"] = f"{EVIL}{sample['code']}password = 'correct horse battery'\n"
        sample["category"] = "<script>$x_{1"
        sample["id"] = f"<img src=x>{sample['id']}"
    samples.append({**samples[0], "id": "<b>copy</b>"})
    samples.append({"id": "<i>bad</i>", "label": "safe"})
    samples.append({"id": "odd", "code": "x()", "label": "pwd = 'correct horse'"})
    document, text = page(write(tmp_path / "<u>.yaml", samples))
    assert document["duplicates"]["near_clusters"] >= 1
    for tag in ("<script", "<img", "<b>copy", "<i>", "<u>"):
        assert tag not in text
    assert "&lt;script&gt;" in text
    assert "horse" not in text + repr(document)
    assert "password = &#39;cor…***&#39;" in text
    assert text.count("<svg") == 6


@pytest.mark.slow
def test_the_page_is_the_same_every_time(tmp_path: Path) -> None:
    spec = write(tmp_path / "s.yaml", make_samples(20))
    assert page(spec) == page(spec)


# Masking

CODED = "AKIA" + "ABCDEFGHIJKLMNOP"
SECRETS = {
    f"key = get('{CODED}')": "key = get('AKI…***')",
    "ghp_" + "a1B2" * 9: "ghp…***",
    "xoxb-" + "1234567890-abcdef": "xox…***",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl": "eyJ…***",
    'password = "correct horse"': 'password = "cor…***"',
    'String dbPassword = "hunter2";': 'String dbPassword = "…***";',
    'char secret_key[] = "0123456789abcdef";': 'char secret_key[] = "012…***";',
    'api_key: str = "0123456789abcdef"': 'api_key: str = "012…***"',
    "{'token': 'abcdefghijkl'}": "{'token': 'abc…***'}",
    "query(\"password = 'abcdefghijkl'\")": "query(\"password = 'abc…***'\")",
    "setPassword('a\\'bcdefghijklm')": "setPassword('a\\'…***')",
    "postgres://user:pa55word@host/db": "postgres://user:…***@host/db",
    "'Server=h;Password=abcdefghijkl;'": "'Server=h;Password=abc…***;'",
    "Authorization: Bearer abcdefghijklmnop": "Authorization: Bearer abc…***",
    "card 4111 1111 1111 1111.": "card 411…***.",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEabcdefgh\n-----END RSA PRIVATE KEY-----": (
        "-----BEGIN RSA PRIVATE KEY-----MII…***-----END RSA PRIVATE KEY-----"
    ),
    "-----BEGIN PRIVATE KEY-----\nMIIEabcdefgh": "-----BEGIN PRIVATE KEY-----MII…***",
}
HARMLESS = [
    "password = input('Password: ')",
    "query('SELECT * FROM users WHERE password = ?')",
    "f(\"user='%s' password='%s'\")",
    "token = tokens[4111111111111112]",
    "if (password == null) return;",
    "http://host:8080/path?x=1",
    'password = ""',
    "x = 1234567890123",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_masked(text: str) -> None:
    assert mask_secrets(text) == SECRETS[text]


@pytest.mark.parametrize("text", HARMLESS)
def test_code_without_secrets_is_left_alone(text: str) -> None:
    assert mask_secrets(text) == text


def test_masking_is_done_before_cutting() -> None:
    shown = excerpt("x" * 90 + " " + CODED, 100)
    assert CODED[4:] not in shown
    assert MASK in shown
    assert excerpt("short", 100) == "short"
    assert excerpt("y" * 200, 100) == "y" * 100 + "\n…"


@pytest.mark.parametrize(
    "text", ["password" * 500, "a://" * 1500, "4 " * 3000, "eyJ" * 2000, "'" * 6000, "-----BEGIN " * 500]
)
def test_masking_takes_no_longer_for_strange_text(text: str) -> None:
    started = time.monotonic()
    mask_secrets(text)
    assert time.monotonic() - started < 1
