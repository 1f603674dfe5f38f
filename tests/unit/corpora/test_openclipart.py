"""Titles and keywords inside drawings, which of them say what is drawn, and the drawings as pictures that are kept."""

from __future__ import annotations

from collections import Counter
from zlib import crc32

import pytest

from speechde.corpora import openclipart
from speechde.corpora.openclipart import DRAWINGS, find_drawings, read_openclipart
from speechde.errors import AssetError, DataError
from speechde.media.image import read_image

SVG = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:cc="http://web.resource.org/cc/" width="9" height="9"
xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<metadata><rdf:RDF><cc:Work><dc:title>{title}</dc:title><dc:creator><cc:Agent><dc:title>Ann</dc:title></cc:Agent>
</dc:creator><dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject><dc:language>{lang}</dc:language></cc:Work></rdf:RDF>
</metadata><circle r="5" fill="#{colour:06x}"/></svg>"""


def drawing(title, *keywords, lang="en", colour=None):
    bag = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
    colour = crc32(title.encode()) % (1 << 24) if colour is None else colour
    return SVG.format(title=title, keywords=bag, lang=lang, colour=colour)


FILES = {
    "animals/tiger_02.svg": drawing("Big_Tiger 02", "cat", "hash", "", "big_cat"),
    "animals/tiger.svg": drawing("big tiger", colour=77),
    "animals/swan.svg": drawing("Cigno", "bird", lang="it-IT"),
    "animals/none.svg": drawing(" "),
    "animals/number.svg": drawing("42"),
    "animals/short.svg": drawing("Mr"),
    "animals/author.svg": drawing("Clipart by Nicu - piggybank"),
    "animals/all.svg": drawing("Everything", lang="All"),
    "animals/held.svg": drawing("A Dog"),
    "animals/held_word.svg": drawing("Bella", "dog", "mammal"),
    "animals/copy.svg": drawing("Zebra", colour=5),
    "animals/copy2.svg": drawing("Horse", colour=5),
    "animals/broken.svg": "<svg><metadata>",
    "animals/wrong.svg": drawing("Nothing to see").replace("<circle", "<circle <"),
    **{f"icons/{number}.svg": drawing("Lemon theme", colour=number) for number in range(10)},
}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "svg"
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    return root


@pytest.fixture
def one_split(monkeypatch):
    monkeypatch.setattr(openclipart.stamps, "assign_split", lambda key, seed, fractions: "train")


def test_titles_that_say_what_is_drawn(folder, tmp_path, one_split):
    found, dropped = read_openclipart(folder, tmp_path, ["dog", "a dog"])
    texts = {one.positive.parts[0].content: one for one in found["image_to_text"]["train"]}
    assert set(texts) == {"Big Tiger", "Big Tiger: cat, big cat", "big tiger", "Cigno", "Cigno: bird"}
    assert texts["Cigno"].stratum == "it_it" and texts["Big Tiger"].stratum == "en_us"
    assert texts["Big Tiger"].query.meaning == texts["big tiger"].query.meaning != texts["Cigno"].query.meaning
    assert {one.query.make_up + one.positive.make_up for one in found["text_to_image"]["train"]} == {("text", "image")}
    assert not found["speech_to_image"]["train"]
    assert Counter(one.reason for one in dropped) == {
        "title of a collection": 10, "no title": 2, "no word in its title": 1, "title of its author": 1,
        "unknown language": 1, "named as a stamp of dev or test": 2, "unreadable": 2,
        "copied picture of several concepts": 2,  # the same drawing under two titles
    }  # fmt: skip


def test_keywords_are_for_training_alone(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(openclipart.stamps, "assign_split", lambda key, seed, fractions: "test")
    found, _ = read_openclipart(folder, tmp_path)
    assert not found["image_to_text"]["train"]
    assert {one.positive.parts[0].content for one in found["image_to_text"]["test"]} >= {"Cigno", "A Dog", "Bella"}
    assert not any(":" in one.positive.parts[0].content for one in found["image_to_text"]["test"])


def test_they_are_drawn_once(folder, tmp_path, one_split, monkeypatch):
    first, dropped = read_openclipart(folder, tmp_path)
    picture = first["image_to_text"]["train"][0].query.parts[0].content
    assert picture.endswith(".png") and read_image(picture).shape == (512, 512, 3)
    monkeypatch.setattr(openclipart, "_draw", lambda *_: pytest.fail("drawn again"))
    again, dropped_again = read_openclipart(folder, tmp_path)
    assert dropped_again == dropped
    assert [one.query.parts[0].content for one in again["image_to_text"]["train"]] == [
        one.query.parts[0].content for one in first["image_to_text"]["train"]
    ]


def test_the_package(tmp_path, make_deb):
    name = f"./{DRAWINGS}/animals/swan.svg"
    deb = make_deb(tmp_path / "a.deb", {name: FILES["animals/swan.svg"].encode(), "./usr/share/other.txt": b"x"})
    root = find_drawings(deb, tmp_path / "cache", sha256=None)
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["swan.svg"]
    with pytest.raises(AssetError, match="has sha256"):
        find_drawings(deb, tmp_path / "other")


def test_nothing_is_left(tmp_path):
    (tmp_path / "svg").mkdir()
    (tmp_path / "svg/a.svg").write_text(drawing("42"), "utf-8")
    with pytest.raises(DataError, match="no drawing with a title that can be used"):
        read_openclipart(tmp_path / "svg", tmp_path)
