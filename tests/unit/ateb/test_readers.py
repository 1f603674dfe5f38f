"""The layout of each set, on tiny replicas; and the real files where SPEECHDE_PUBLIC names their folder."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from speechde.corpora.ateb import choices, labels, preferences
from speechde.corpora.ateb.sets import SETS, is_public, licences_of, read_set
from speechde.errors import AssetError, ConfigError, DataError

REAL = os.environ.get("SPEECHDE_PUBLIC")
real_files = pytest.mark.skipif(not REAL, reason="set SPEECHDE_PUBLIC to a folder with ateb/")


@pytest.fixture
def write(tmp_path):
    """``write(name, rows)`` → a file of JSON Lines, of one JSON list (``.json``) or of CSV."""

    def make(name, rows):
        path = tmp_path / name
        if name.endswith(".csv"):
            out = io.StringIO()
            table = csv.DictWriter(out, rows[0])
            table.writeheader()
            table.writerows(rows)
            text = out.getvalue()
        elif name.endswith(".json"):
            text = json.dumps(rows)
        else:
            text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
        return path

    return make


def asked(rows):
    """(fields, right answer, all answers) of each row."""
    return [(dict(row.fields), row.answers[row.right], set(row.answers)) for row in rows]


@pytest.mark.parametrize(
    ("read", "name", "record", "fields", "right"),
    [
        (labels.esnli, "a.csv",
         {"pairID": "1", "gold_label": "neutral", "Sentence1": "A man,\nhere.", "Sentence2": "He eats.",
          "Explanation_1": "Why."},
         {"premise": "A man, here.", "hypothesis": "He eats."}, "neutral"),
        (labels.vitaminc, "a.jsonl",
         {"unique_id": "1_1", "case_id": "1", "label": "NOT ENOUGH INFO", "claim": "C.", "evidence": "E."},
         {"evidence": "E.", "claim": "C."}, "NOT ENOUGH INFO"),
        (labels.dialfact, "a.jsonl",
         {"context": ["Hi.", "Yes?"], "response": "R.", "evidence_list": [["T", "u", "E."], "F."],
          "response_label": "supports"},
         {"evidence": "E. F.", "context": "Hi. Yes?", "response": "R."}, "SUPPORTS"),
        (labels.dialfact, "a.jsonl",
         {"context": [], "response": "R.", "evidence_list": [], "response_label": "NOT ENOUGH INFO"},
         {"response": "R."}, "NOT ENOUGH INFO"),
        (labels.beavertails, "a.jsonl", {"prompt": "P", "response": "R", "category": {"x": False}, "is_safe": False},
         {"prompt": "P", "response": "R"}, "Unsafe"),
        (preferences.shp, "a.jsonl",
         {"post_id": "x", "history": "H", "human_ref_A": "A", "human_ref_B": "B", "labels": 0},
         {"post": "H"}, "B"),
        (choices.hellaswag, "a.jsonl", {"ctx": "C", "endings": ["a", "b", "c", "d"], "label": "2", "source_id": "s"},
         {"context": "C"}, "c"),
        (choices.winogrande, "a.jsonl",
         {"qID": "3-1", "sentence": "S _.", "option1": "a", "option2": "b", "answer": "2"}, {"question": "S _."}, "b"),
        (choices.arc, "a.jsonl",
         {"id": "1", "answerKey": "B",
          "question": {"stem": "S", "choices": [{"text": "a", "label": "A"}, {"text": "b", "label": "B"}]}},
         {"question": "S"}, "b"),
    ],
)  # fmt: skip
def test_a_row_of_each_layout(write, read, name, record, fields, right):
    path = write(name, [record])
    (row,), dropped = read(path)
    assert (dict(row.fields), row.answers[row.right], dropped) == (fields, right, [])
    assert row.id == f"{path.name}:0"


def test_labels_beside_the_rows(write, tmp_path):
    rows = [{"goal": f"G{n}", "sol1": "a", "sol2": "b"} for n in range(3)]
    (tmp_path / "train-labels.lst").write_text("1\n0\n")
    found, dropped = choices.piqa(write("train.jsonl", rows))
    assert [row.answers[row.right] for row in found] == ["b", "a"]
    assert [(each.id, each.reason) for each in dropped] == [("train.jsonl:2", "malformed row")]
    rows = [{"story_id": "1", "obs1": "A.", "obs2": "B.", "hyp1": "x", "hyp2": "y"}]
    (tmp_path / "dev-labels.lst").write_text("2\n")
    (row,), _ = choices.alphanli(write("dev.jsonl", rows))
    assert dict(row.fields) == {"before": "A.", "after": "B."} and row.answers[row.right] == "y"


def test_an_input_may_be_empty(write):
    rows = [
        {"instruction": "Do.", "input": text, "output_1": "a", "output_2": "b", "preference": 2} for text in ("", "I.")
    ]
    found, _ = preferences.alpacafarm(write("a.json", rows))
    assert [len(row.fields) for row in found] == [1, 2] and found[0].answers[found[0].right] == "b"


CHOOSE = "Please choose the correct answer to the question: "


@pytest.mark.parametrize(
    ("instruction", "answer", "found"),
    [
        (f"{CHOOSE}Is Answer2: odd?\n\nAnswer1: a b Answer2: c\n\nAnswer format: answer1/answer2", "answer2",
         ("a b", "c")),
        ("Please choose the correct solution to the question: Q\n\nSolution1: a\nb \n\nSolution2: c\n\n"
         "Answer format: solution1/solution2", "solution1", ("a b", "c")),
        ("Please choose the correct answer to fill in the blank to complete the given sentence: S _.\n\nOption1: a "
         "Option2: b Answer format: option1/option2", "option2", ("a", "b")),
        (f"{CHOOSE}Q\n\nAnswer1: a Answer2: b Answer2: c\n\nAnswer format: answer1/answer2", "answer1",
         "choices that are not those of the format"),
        (f"{CHOOSE}Q\n\nAnswer1: a Answer2: b\n\nAnswer format: answer1/answer2", "answer3",
         "choices that are not those of the format"),
        (f"{CHOOSE}Q\n\nAnswer1: a Answer2: \n\nAnswer format: answer1/answer2", "answer1",
         "an empty choice"),
        (f"{CHOOSE}Q\n\nAnswer1: a Answer2: A!\n\nAnswer format: answer1/answer2", "answer1", "two answers are one"),
        ("Choose: Q", "answer1", "another instruction"),
    ],
)  # fmt: skip
def test_choices_inside_an_instruction(write, instruction, answer, found):
    rows, dropped = choices.instructions(write("a.json", [{"instruction": instruction, "answer": answer}]))
    if isinstance(found, str):
        assert [each.reason for each in dropped] == [found] and not rows
    else:
        (row,) = rows
        assert row.answers == found and f"{row.right + 1}" == answer[-1]


def test_what_is_no_row_is_named_by_its_place_alone(ateb_folder):
    rows, dropped = labels.creak(ateb_folder / "ateb/creak/train.json")
    assert [(each.id, each.reason, each.detail) for each in dropped] == [
        ("train.json:43", "malformed row", ""), ("train.json:44", "malformed line", ""),
    ]  # fmt: skip
    assert rows[0].explanation == "Everybody saw number 0." and rows[0].group == rows[1].group
    rows, dropped = labels.begin(ateb_folder / "ateb/begin/begin_test_wow.tsv")
    assert [each.reason for each in dropped] == ["another label", "malformed row"]
    assert dict(rows[0].fields)["knowledge"] == 'It is "fact 100".'
    _, dropped = preferences.hh(ateb_folder / "ateb/hh_harmless/test.jsonl")
    assert [each.reason for each in dropped] == ["malformed row"]
    rows, dropped = labels.diasafety(ateb_folder / "ateb/diasafety/train.json")
    assert [each.reason for each in dropped] == ["no response"]
    assert not any("MARKED" in f"{each.id}{each.reason}{each.detail}" for each in dropped)


@pytest.mark.parametrize("text", ["\ufffd", "\x07"])
def test_a_text_that_was_decoded_wrongly(write, text):
    rows = [{"context": "c", "response": f"r{text}", "label": "Safe"}]
    found, dropped = labels.diasafety(write("a.json", rows))
    assert not found and dropped[0].reason == "invalid text"


def test_languages_that_fleurs_has_not(ateb_folder):
    rows, _ = choices.xcopa(ateb_folder / "ateb/xcopa/test.qu.jsonl")
    assert {(row.part, row.lang) for row in rows} == {("qu", None)}
    rows, _ = choices.xcopa(ateb_folder / "ateb/xcopa/test.zh.jsonl")
    assert {(row.part, row.lang) for row in rows} == {("cmn_hans_cn", "cmn_hans_cn")}
    assert dict(rows[0].fields)["question"] == "What was the cause?" and rows[1].answers[rows[1].right] == "zh two 101."


@pytest.mark.parametrize("name", [name for name in SETS if is_public(name)])
def test_every_public_set_is_read(ateb_folder, tmp_path, name):
    rows = read_set(name, ateb_folder, tmp_path / "cache")
    assert all(rows.splits.values()) and licences_of(name)


def test_what_a_user_brings(tmp_path, ateb_folder):
    with pytest.raises(ConfigError, match=r"ATEB set: 'crak' is not known.*Did you mean 'creak'"):
        read_set("crak", None, tmp_path)
    with pytest.raises(AssetError, match=r"ateb/vitaminc/train\.jsonl is not fetched; .* set data\.public=FOLDER"):
        read_set("vitaminc", None, tmp_path)
    with pytest.raises(AssetError, match=r"holds no ateb/vitaminc/train\.jsonl"):
        read_set("vitaminc", ateb_folder, tmp_path)
    for split, start in (("train", 0), ("dev", 10), ("test", 20)):
        path = ateb_folder / f"ateb/vitaminc/{split}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        rows = [{"case_id": n, "label": "REFUTES", "claim": f"C{n}", "evidence": "E"} for n in range(start, start + 4)]
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert {split: len(rows) for split, rows in read_set("vitaminc", ateb_folder, tmp_path).splits.items()} == {
        "train": 4, "dev": 4, "test": 4,
    }  # fmt: skip
    path.write_bytes(gzip.compress(b'{"claim": "SECRET"}\n'))
    with pytest.raises(DataError, match=r"test\.jsonl\.gz has no usable row \(no evidence: 1\)") as error:
        read_set("vitaminc", ateb_folder, tmp_path)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("content", ["{}", "[", '{"a": 1}'])
def test_a_file_of_another_layout(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(AssetError, match="get it again"):
        labels.diasafety(path)
    path.write_text("a\tb\n")
    with pytest.raises(AssetError, match="no column begin_label"):
        labels.begin(path)


COUNTS = {  # of train, dev and test; docs/ateb.md has them too
    "creak": (9214, 958, 1371), "creak_contrast": (9214, 958, 498), "fever_symmetric": (634, 68, 711),
    "begin": (1925, 371, 1728), "diasafety": (7172, 975, 1085), "xstest": (215, 40, 195),
    "hh_harmless": (1151, 228, 920), "llmbar": (424, 30, 418), "llmbar_cases": (424, 30, 313),
    "arc_challenge": (997, 112, 1170), "openbookqa": (4379, 492, 500), "piqa": (888, 165, 767),
    "social_i_qa": (954, 195, 776), "winogrande": (602, 121, 544), "xcopa": (990, 110, 5500),
}  # fmt: skip


def test_the_page_has_the_counts():
    page = (Path(__file__).resolve().parents[3] / "docs/ateb.md").read_text("utf-8")
    assert {name for name in SETS if is_public(name)} == COUNTS.keys()
    for name, counts in COUNTS.items():
        shown = f"{counts[2]:,}" if name in ("creak_contrast", "llmbar_cases") else " / ".join(f"{n:,}" for n in counts)
        assert f"`{name}`" in page and shown in page, name
    assert all(f"`{name}`" in page for name in SETS)


@real_files
@pytest.mark.parametrize("name", COUNTS)
def test_the_real_files(tmp_path, name):
    """Test rows are what everybody compares on: a change of them is a change of the benchmark."""
    rows = read_set(name, REAL, tmp_path)
    counts = tuple(len(rows.splits[split]) for split in ("train", "dev", "test"))
    assert counts == COUNTS[name]
    inputs = {split: {row.asked for row in own} for split, own in rows.splits.items()}
    assert not inputs["test"] & (inputs["train"] | inputs["dev"]) and not inputs["dev"] & inputs["train"]
    ids = Counter(row.id for own in rows.splits.values() for row in own)
    assert max(ids.values()) == 1
    families = {split: {row.group for row in own if row.group} for split, own in rows.splits.items()}
    assert not families["test"] & (families["train"] | families["dev"])
    assert len(rows.dropped) < (0.22 if name == "diasafety" else 0.03) * sum(counts)
