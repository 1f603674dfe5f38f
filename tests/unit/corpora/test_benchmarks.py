"""SIB-200, XQuAD and BANKING77: tiny replicas, and the real files where SPEECHDE_PUBLIC names their folder."""

from __future__ import annotations

import csv
import gzip
import os
from hashlib import sha256
from pathlib import Path

import pytest

from speechde.corpora import benchmarks, public
from speechde.errors import AssetError, ConfigError
from speechde.languages import LANGUAGES

REAL = os.environ.get("SPEECHDE_PUBLIC")
real_files = pytest.mark.skipif(not REAL, reason="set SPEECHDE_PUBLIC to a folder with sib200/, xquad/ and banking77/")


def test_sentences_are_aligned_by_their_number(public_folder, tmp_path):
    read = benchmarks.read_sib200(public_folder, tmp_path, ["ro_ro", "en_us"], "--folder")
    assert read["en_us"] == {2: 'A "cup".', 5: "The cup.", 7: "A ship.", 9: "A cat."}
    assert list(read["ro_ro"]) == [2, 5, 7, 9] and read["ro_ro"][9] == "O pisică."
    with pytest.raises(ConfigError, match="'de_de' is not known; allowed: en_us, ro_ro, zu_za"):
        benchmarks.read_sib200(public_folder, tmp_path, ["de_de"], "--folder")


def test_questions_point_at_their_paragraphs(public_folder, tmp_path):
    read = benchmarks.read_xquad(public_folder, tmp_path, benchmarks.xquad_languages(), "--folder")
    assert list(read) == ["en_us", "ro_ro"]
    assert read["ro_ro"].texts == ("Leii rag.", "Pisicile torc.") and read["ro_ro"].titles == ("Big Cats", "Big Cats")
    assert [(q.id, q.paragraph) for q in read["en_us"].questions] == [("1", 0), ("2", 0), ("3", 1)]
    assert read["en_us"].questions[2].text == "Who purrs?"
    with pytest.raises(ConfigError, match="XQuAD language: 'zu_za'"):
        benchmarks.read_xquad(public_folder, tmp_path, ["zu_za"], "--folder")


def test_intents_are_words(public_folder, tmp_path):
    read = benchmarks.read_banking77(public_folder, tmp_path, "--folder")
    assert read.names == ("card arrival", "lost card")
    assert read.test == (("Where is it?", "card arrival"), ("Lost, I am.", "lost card"))
    assert len(read.examples) == 3


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("sib200/ro_ro.tsv", "index_id\ttext\n1\ta\n", lambda *a: benchmarks.read_sib200(*a[:2], ["ro_ro"], a[2])),
        ("xquad/xquad.ro.json", '{"data": [{}]}', lambda *a: benchmarks.read_xquad(*a[:2], ["ro_ro"], a[2])),
        ("banking77/test.csv", "text,category\na,other\n", benchmarks.read_banking77),
        ("banking77/test.csv", "a,b\nc,d\n", benchmarks.read_banking77),
        ("banking77/categories.json", "[", benchmarks.read_banking77),
    ],
)
def test_a_pinned_file_of_another_layout(public_folder, tmp_path, name, content, read):
    for each in public.pinned():
        path = tmp_path / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if each == name else (public_folder / each).read_bytes())
    public.pinned()[name] = public.Pinned("us/repo", "0abc", name, "CC0-1.0", sha256(content.encode()).hexdigest())
    with pytest.raises(AssetError, match="again"):
        read(tmp_path, tmp_path, "--folder")


def test_tables_of_a_folder_become_one(tmp_path, monkeypatch):
    """As SIB-200 is published: a table for each split."""
    host = tmp_path / "host/us/repo/0abc/data/ron"
    host.mkdir(parents=True)
    for split, row in (("train", "1\ta\tUna."), ("dev", "2\ta\tDouă."), ("test", "3\ta\tTrei.")):
        (host / f"{split}.tsv").write_text(f"index_id\tcategory\ttext\n{row}\n", encoding="utf-8")
    whole = "index_id\tcategory\ttext\tsplit\n1\ta\tUna.\ttrain\n2\ta\tDouă.\tdev\n3\ta\tTrei.\ttest\n"
    entry = public.Pinned("us/repo", "0abc", "data/ron/", "CC0-1.0", sha256(whole.encode()).hexdigest())
    monkeypatch.setattr(public, "HOST", (tmp_path / "host").as_uri())
    monkeypatch.setattr(public, "pinned", lambda: {"sib200/ro_ro.tsv": entry})
    found = public.find_files(["sib200/ro_ro.tsv"], None, tmp_path / "cache")["sib200/ro_ro.tsv"]
    assert found.read_text(encoding="utf-8") == whole
    (host / "dev.tsv").write_text("index_id\tcategory\ttext\n2\ta\tPatru.\n", encoding="utf-8")
    with pytest.raises(AssetError, match="expected"):
        public.find_files(["sib200/ro_ro.tsv"], None, tmp_path / "other")
    (host / "dev.tsv").unlink()
    with pytest.raises(AssetError, match="could not be fetched"):
        public.find_files(["sib200/ro_ro.tsv"], None, tmp_path / "other")


@real_files
def test_the_real_sentences(tmp_path):
    assert benchmarks.sib200_languages() == tuple(sorted(LANGUAGES))
    read = benchmarks.read_sib200(REAL, tmp_path, benchmarks.sib200_languages(), "--folder")
    assert {len(own) for own in read.values()} == {1004} and len({tuple(own) for own in read.values()}) == 1
    assert read["en_us"][1239].startswith('"She’s very cute and sings quite well, too," he said')
    path = Path(REAL) / "sib200/en_us.tsv.gz"
    if path.is_file():  # quoting as another reader has it
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = {int(row["index_id"]): row["text"] for row in csv.DictReader(file, delimiter="\t")}
        assert {number: " ".join(text.split()) for number, text in rows.items()} == read["en_us"]


@real_files
def test_the_real_questions(tmp_path):
    read = benchmarks.read_xquad(REAL, tmp_path, benchmarks.xquad_languages(), "--folder")
    assert len(read) == 6 and {(len(own.texts), len(own.questions)) for own in read.values()} == {(240, 1190)}
    intents = benchmarks.read_banking77(REAL, tmp_path, "--folder")
    assert (len(intents.names), len(intents.test), len(intents.examples)) == (77, 3080, 10003)
