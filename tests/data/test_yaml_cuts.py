from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from secauditai.config.settings import CleaningSettings
from secauditai.data.parse import Chunk, parse_all, plan_chunks
from secauditai.data.readers import Source
from secauditai.data.readers.yaml_cuts import Piece, cut_yaml
from secauditai.data.readers.yaml_events import NotCut, read_yaml_piece, read_yaml_samples
from secauditai.data.tasks import Runner
from secauditai.errors import DataError
from secauditai.progress import silent

TEXTS = st.text(st.sampled_from(list("ab-: \n#'\"|>[]{}&*!%,?é")), max_size=24)
SAMPLES = st.lists(
    st.fixed_dictionaries(
        {"id": TEXTS, "code": TEXTS},
        optional={"label": TEXTS, "metadata": st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS, max_size=2), max_size=2)},
    ),
    max_size=8,
)


def read_cut(path: Path, size: int) -> list[tuple[int, object]] | None:
    """What the pieces say; None when the file must be read as one."""
    try:
        return [sample for piece in cut_yaml(path, size) or [_whole()] for sample in read_yaml_piece(path, piece)]
    except NotCut:
        return None


def _whole() -> Piece:
    raise NotCut


@given(
    SAMPLES,
    st.integers(1, 60),
    st.sampled_from(["block", "quoted", "any", "flow"]),
    st.sampled_from(["", "\n", "# c\n"]),
)
def test_pieces_say_what_the_whole_says_or_are_not_used(
    tmp_path_factory: pytest.TempPathFactory, samples: list[object], size: int, style: str, before: str
) -> None:
    options = {"block": {"default_style": "|"}, "quoted": {"default_style": '"'}, "flow": {"default_flow_style": True}}
    path = tmp_path_factory.mktemp("c") / "s.yaml"
    text = before + yaml.safe_dump({"samples": samples}, allow_unicode=True, width=20, **options.get(style, {}))
    path.write_text(text, encoding="utf-8")
    found = read_cut(path, size)
    assert found is None or found == list(read_yaml_samples(path))


@given(st.data())
def test_mutated_files_are_never_misread(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    text = "".join(f"  - id: s{n}\n    code: |\n      x = {n}\n    label: safe\n" for n in range(6))
    text = "samples:\n" + text
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        piece = data.draw(
            st.sampled_from(["'", '"', "[", "]", "{", "&a ", "*a", "\n---\n", "\nother:\n", "  - id: q\n", "#", "\t"])
        )
        text = text[:at] + piece + text[at + data.draw(st.integers(0, 2)) :]
    path = tmp_path_factory.mktemp("m") / "s.yaml"
    path.write_text(text, encoding="utf-8")
    found = read_cut(path, data.draw(st.integers(1, 80)))
    if found is not None:
        assert found == list(read_yaml_samples(path))


def test_a_plain_file_is_cut_at_its_samples(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("# head\nsamples:\n" + "".join(f"- id: s{n}\n  code: |\n    x = {n}\n\n    y\n" for n in range(50)))
    pieces = cut_yaml(path, 100)
    assert len(pieces) > 10
    assert [sample for piece in pieces for sample in read_yaml_piece(path, piece)] == list(read_yaml_samples(path))


QUOTED_SAMPLE = 'samples:\n  - id: a\n    code: "first\n  - id: not_a_sample\n    code: x"\n    label: safe\n  - id: b\n    code: y\n'


@pytest.mark.parametrize(
    "text",
    [
        QUOTED_SAMPLE,
        "samples:\n  - &a {id: a, code: x}\n  - id: b\n    code: y\n  - *a\n  - id: c\n",
        "samples:\n  - id: a\n    code: x\n  - id: b\n    code: y\nothers:\n  - id: c\n  - id: d\n",
        "samples:\n  - id: a\n    code: x\n  - id: b\n---\nsamples:\n  - id: c\n  - id: d\n",
        "samples:\n  - id: a\n    code: {x:\n  - 1}\n  - id: b\n",
        "x: 1\nother:\n  - id: a\n    b: 1\nsamples:\n  - id: b\n    c: 1\n  - id: c\n",
    ],
)
def test_what_could_be_cut_wrongly_is_read_as_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    whole: object
    try:
        whole = list(read_yaml_samples(path))
    except DataError:
        whole = None
    for size in range(1, len(text)):
        found = read_cut(path, size)
        assert found is None or found == whole


def test_a_file_that_cannot_be_cut_is_streamed_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text(
        "samples:\n" + "".join(f"  - {{id: a{n}, code: 'x {n}', label: safe}}\n" for n in range(9))
    )
    (tmp_path / "b.yaml").write_text(QUOTED_SAMPLE.replace("code: y", "code: y\n    label: safe"))
    (tmp_path / "c.yaml").write_text("samples:\n  - {id: c, code: z z, label: safe}\n")
    files = sorted(tmp_path.glob("*.yaml"))
    plans = {path.name: plan_chunks(path, "auto", 30) for path in files}
    assert {name: len(chunks) > 1 for name, chunks in plans.items()} == {
        "a.yaml": True,
        "b.yaml": True,
        "c.yaml": False,
    }
    monkeypatch.setattr("secauditai.data.parse.plan_chunks", lambda path, _layout, **_: plans[path.name])
    source = Source("files", files)
    cut = tmp_path / "cut"
    cut.mkdir()
    keys = parse_all(source, cut, CleaningSettings(), Runner(), silent)
    assert keys.column("id").to_pylist() == [*(f"a{n}" for n in range(9)), "a", "b", "c"]
    whole = {path.name: [Chunk(str(path), str(path))] for path in files}
    monkeypatch.setattr("secauditai.data.parse.plan_chunks", lambda path, _layout, **_: whole[path.name])
    one = tmp_path / "one"
    one.mkdir()
    again = parse_all(source, one, CleaningSettings(), Runner(), silent)
    columns = [name for name in keys.column_names if name not in ("part", "row")]
    assert keys.select(columns) == again.select(columns)
