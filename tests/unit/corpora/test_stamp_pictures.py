"""Pictures of stamps are linked with the texts and recordings beside them, in the split of the speech."""

from __future__ import annotations

import io
import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from speechde.corpora import stamp_pictures, stamps
from speechde.corpora.pictures import check_apart
from speechde.errors import DataError

FOLDER = "usr/share/tuxpaint/stamps"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="%d"/></svg>'


def png(level):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def stamp(name, english, french, **files):
    """Files of a stamp with a French recording; ``files``: content by suffix."""
    found = {f"{name}.txt": f"{english}\nfr.utf8={french}\nro.utf8=ro {french}".encode(),
             f"{name}_desc_fr.ogg": f"{name} fr".encode(), f"{name}_desc_ro.ogg": f"{name} ro".encode()}  # fmt: skip
    return found | {f"{name}.{suffix}": data for suffix, data in files.items()}


@pytest.fixture
def package(tmp_path, make_deb):
    """60 stamps with a PNG and what is unusual, in a .deb, unpacked for speech and for pictures."""
    files = {}
    for i in range(60):
        files |= stamp(f"n/{i}", f"Thing {i}.", f"Chose {i}.", png=png(i))
    files |= stamp("both", "A bear.", "Un ours.", png=png(100), svg=SVG % 3)
    files |= stamp("drawn", "A wolf.", "Un loup.", svg=SVG % 4)
    files |= stamp("bad", "A fox.", "Un renard.", png=b"no picture")
    files |= stamp("none", "A hen.", "Une poule.")
    files |= stamp("n/0b", "Thing 0.", "Autre chose 0.", png=png(101))  # a second stamp of a concept
    files |= {"n/1_mirror.png": png(102)}
    deb = make_deb(tmp_path / "stamps.deb", {f"./{FOLDER}/{name}": data for name, data in files.items()})
    return stamps.unpack(deb, tmp_path / "speech"), stamp_pictures.unpack(deb, tmp_path / "pictures")


def test_pictures_are_linked_and_split_as_the_speech(package):
    root, pictures = package
    assert {path.suffix for path in pictures.rglob("*.*")} == {".png", ".svg"}
    read = stamp_pictures.read_pictures(root, pictures)
    speech = stamps.read_stamps(root)
    check_apart(read.concepts, speech)
    splits = {u.sentence_id: u.split for u in speech.utterances}
    found = {concept.id: concept for concept in read.concepts}
    assert len(found) == 62 and {one.split for one in read.concepts} == {"train", "dev", "test"}
    assert all(found[name].split == splits[name] for name in found)
    assert [name.rsplit("/", 1)[1] for name in found["a bear"].pictures] == ["both.png"]
    assert [name.rsplit("/", 1)[1] for name in found["a wolf"].pictures] == ["drawn.svg"]
    assert found["a bear"].texts == {"fr_fr": "Un ours.", "ro_ro": "ro Un ours.", "en_us": "A bear."}
    assert [lang for lang, _ in found["a bear"].clips] == ["fr_fr", "ro_ro"]
    first = found["thing 0"]
    assert len(first.pictures) == 2 and len(first.clips) == 2 and first.texts["fr_fr"] == "Chose 0."
    assert Counter(one.reason for one in read.dropped) == {
        "second file of a stamp": 1,
        "picture without a text": 1,
        "unreadable": 1,
        "transcript is not the text of its concept": 2,
    }


def test_concepts_that_share_a_text_are_one_answer_outside_train(tmp_path, make_deb):
    files = {}
    for i in range(80):  # pairs share their French text
        files |= stamp(f"n/{i}", f"Thing {i}.", f"Chose {i // 2}.", png=png(i))
    deb = make_deb(tmp_path / "stamps.deb", {f"./{FOLDER}/{name}": data for name, data in files.items()})
    read = stamp_pictures.read_pictures(stamps.unpack(deb, tmp_path / "a"), stamp_pictures.unpack(deb, tmp_path / "b"))
    assert Counter(Counter((one.split, one.id) for one in read.concepts).values()).keys() == {1, 2}
    held_out = [one.id for one in read.concepts if one.split != "train"]
    assert len(held_out) == len(set(held_out))
    counts = Counter(one.reason for one in read.dropped)
    assert sum(count for reason, count in counts.items() if "shares a text" in reason) == len(held_out)


def test_without_a_picture(tmp_path, make_deb):
    files = stamp("none", "A hen.", "Une poule.") | {"other.png": png(1)}
    deb = make_deb(tmp_path / "stamps.deb", {f"./{FOLDER}/{name}": data for name, data in files.items()})
    with pytest.raises(DataError, match="holds no picture of a stamp"):
        stamp_pictures.read_pictures(stamps.unpack(deb, tmp_path / "a"), stamp_pictures.unpack(deb, tmp_path / "b"))


def test_real_pictures():
    root = os.environ.get("SPEECHDE_STAMPS")
    if not root or not os.path.isdir(f"{root}-pictures"):
        pytest.skip("set SPEECHDE_STAMPS to an unpacked tuxpaint-stamps-default, its pictures beside it (-pictures)")
    read = stamp_pictures.read_pictures(root, f"{root}-pictures")
    assert read.counts() == {"train": 453, "dev": 75, "test": 225}
    assert sum(len(one.pictures) for one in read.concepts) == 919
    assert Counter(one.reason for one in read.dropped) == {
        "second file of a stamp": 83,
        "shares a text with another concept of test": 17,
        "picture without a text": 11,
        "transcript is not the text of its concept": 6,
        "shares a text with another concept of dev": 4,
        "copied picture": 1,
    }
    check_apart(read.concepts, stamps.read_stamps(root))
