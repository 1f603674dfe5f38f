"""``speechde negatives``: examples in, examples with hard negatives and their provenance out."""

from __future__ import annotations

import json
import shutil

import pytest

from speechde.cache import sha256_file
from speechde.checkpoint.folder import TrainedModel
from speechde.corpora.examples_file import read_examples
from speechde.corpora.manifest import write_manifest
from speechde.types import Utterance

TEXTS = ["un autobuz galben", "un autobuz verde", "o pisică", "o pisica", "două case"]


@pytest.fixture
def qa(tmp_path):
    rows = [{"query": f"unde este {text}?", "positive": text, "source": "web"} for text in TEXTS]
    rows += [{"query": "bad"}, {"query": "și asta?", "positive": "un test", "split": "test"}]
    path = tmp_path / "qa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def manifest(tmp_path, make_wav):
    clips = []
    for n, text in enumerate(TEXTS):
        wav = make_wav(f"{n}.wav", 0.4, 100.0 * (n + 1))
        clips.append(Utterance(str(n), "ro_ro", text, str(wav), "", "train"))
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    clips.append(Utterance("bad", "ro_ro", "un câine", str(tmp_path / "bad.wav"), "", "train"))
    return write_manifest(clips, tmp_path / "clips.jsonl")


def test_negatives_of_texts_by_a_model(run, models, qa, tmp_path):
    out = tmp_path / "out" / "hard.jsonl"
    (tmp_path / "judge.tsv").write_text("unde este o pisică?\tdouă case\t1\n", "utf-8")
    options = ["--ranking", "model", "--ranking", "characters", "--ranking", tmp_path / "judge.tsv"]
    done = run("negatives", qa, "-m", models.continuous, "-k", 3, "--count", 2, *options, "-o", out)
    assert done.code == 0 and f"{out}: 5 examples, 0 of them without a mined negative" in done.out
    assert "left out: line 6: missing field (positive)" in done.err
    whole = read_examples(out)
    examples = whole.select("train")
    held_out = whole.select("test")
    assert [(one.query.meaning, one.positive.meaning, one.negatives) for one in held_out] == [
        ("și asta?", "un test", ())
    ]
    assert [one.query.parts[0].content for one in examples] == [f"unde este {text}?" for text in TEXTS]
    assert set(examples.sources) == {"web"} and set(examples.splits) == {"train"} and not examples.dropped
    assert all(len(one.negatives) == 2 for one in examples), "and none of them is of the test split"
    assert not {"un test"} & {item.parts[0].content for one in examples for item in one.negatives}
    origin = json.loads((out.parent / "hard.jsonl.provenance.json").read_text("utf-8"))
    assert origin["model"] == TrainedModel.load(models.continuous).fingerprint
    assert origin["source"] == {"name": "qa.jsonl", "sha256": sha256_file(qa)}
    assert origin["file"] == {"name": "hard.jsonl", "sha256": sha256_file(out)}
    assert origin["settings"] == {"candidates": "nearest", "k": 3, "rank": 3, "count": 2,
                                  "rankings": ["model", "characters", "judge.tsv"]}  # fmt: skip
    assert origin["scores"] == [{"name": "judge.tsv", "sha256": sha256_file(tmp_path / "judge.tsv")}]
    assert origin["dropped"] == {"missing field": 1} and str(tmp_path) not in json.dumps(origin)
    assert run("negatives", qa, "-m", models.continuous, "-o", out).code == 1, "it is there"
    assert run("negatives", qa, "-m", models.continuous, "-o", out, "--overwrite").code == 0


def test_negatives_are_made_up_alike_and_labels_stay_shared(run, models, tmp_path):
    rows = [{"query": f"a {n}", "positive": {"parts": [f"text {n}"], "shared": True}} for n in range(4)]
    rows += [{"query": f"b {n}", "positive": {"parts": [f"title {n}", "body"]}} for n in range(4)]
    rows += [{"query": "c 0", "positive": "text", "negatives": [{"parts": ["x", "y"]}]}]
    rows += [{"query": "d 0", "positive": {"parts": ["text 0"], "shared": True}, "split": "test"}]
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for options in (["-m", models.continuous, "-k", 4, "--count", 3], ["--candidates", "minimal-pairs"]):
        out = tmp_path / f"{options[0]}.jsonl"
        assert run("negatives", tmp_path / "qa.jsonl", *options, "-o", out).code == 0
        found = read_examples(out)
        assert not found.dropped and len(found) == 10 and sum(one.shared for one in found) == 5
        for one in found.select("train"):
            kinds = {negative.make_up for negative in one.negatives}
            assert kinds <= {("text", "text") if one.query.meaning[0] in "bc" else ("text",)}
        assert sum(len(one.negatives) for one in found) > 4


def test_negatives_of_clips(run, models, manifest, tmp_path):
    """A clip that cannot be decoded is listed and left out; the file is read where it was written."""
    out = tmp_path / "hard.jsonl"
    done = run("negatives", manifest, "-m", models.continuous, "-k", 2, "-o", out)
    assert done.code == 0 and "left out: bad: cannot be embedded" in done.err
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row["query"]["parts"] for row in rows] == [[{"audio": f"{n}.wav"}] for n in range(5)]
    assert all(len(row["negatives"]) == 1 for row in rows)
    (tmp_path / "moved").mkdir()
    for name in ("hard.jsonl", *(f"{n}.wav" for n in range(5))):
        shutil.copy(tmp_path / name, tmp_path / "moved" / name)
    found = read_examples(tmp_path / "moved/hard.jsonl")
    assert [one.query.parts[0].content for one in found] == [str(tmp_path / f"moved/{n}.wav") for n in range(5)]
    assert [one.query.meaning for one in found] == TEXTS and set(found.strata) == {"ro_ro"}


def test_minimal_pairs_without_a_model(run, manifest, tmp_path):
    done = run("negatives", manifest, "--candidates", "minimal-pairs", "-o", tmp_path / "pairs.jsonl")
    assert done.code == 0 and "6 examples, 2 of them without a mined negative" in done.out
    found = {one.query.meaning: [n.parts[0].content for n in one.negatives] for one in
             read_examples(tmp_path / "pairs.jsonl")}  # fmt: skip
    assert found["un autobuz galben"] == ["un autobuz verde"] and found["o pisică"] == ["o pisica"]
    assert found["două case"] == []


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "--model is not given; only --candidates minimal-pairs"),
        (["--candidates", "minimal-pairs", "--ranking", "model"], 2, "--model is not given"),
        (["--candidates", "pairs"], 2, "candidates: 'pairs' is not known"),
        (["-m", "{m}", "--ranking", "none.tsv"], 1, "none.tsv does not exist"),
        (["-m", "{m}", "--rank", "30"], 2, "count=1, rank=30, k=20"),
        (["-m", "{m}", "--prompt", "qa"], 2, "--prompt: 'qa' is not known"),
        (["-m", "{m}", "-o", "x.tsv"], 2, "give a name that ends in .jsonl"),
    ],
)
def test_bad_arguments(run, models, qa, tmp_path, options, code, message):
    done = run("negatives", qa, "-o", tmp_path / "x.jsonl", *(each.format(m=models.continuous) for each in options))
    assert done.code == code and message in done.err and not (tmp_path / "x.jsonl").exists()


def test_no_example_to_train_on(run, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"query": "a", "positive": "b", "split": "test"}\n')
    done = run("negatives", tmp_path / "test.jsonl", "--candidates", "minimal-pairs", "-o", tmp_path / "x.jsonl")
    assert done.code == 1 and "has no example of the split train" in done.err
