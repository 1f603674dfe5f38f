"""Concepts become files of examples: who asks, who answers, in which languages and splits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from speechde.corpora.examples_file import read_examples
from speechde.corpora.pictures import TASKS, Concept, Pictures, check_apart, readable, write_tasks
from speechde.errors import DataError
from speechde.types import SPLITS, Corpus, Utterance


@pytest.fixture
def picture(tmp_path):
    def make(name, level):
        path = tmp_path / name
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(path)
        return str(path)

    return make


@pytest.fixture
def concepts(picture, make_wav):
    """One a split, with two pictures, two languages and two clips in each."""
    found = []
    for number, split in enumerate(SPLITS):
        pictures = tuple(picture(f"{split}{i}.png", 40 * number + i) for i in range(2))
        clips = tuple(
            (lang, str(make_wav(f"{split}-{lang}-{i}.wav", 0.3))) for lang in ("fr_fr", "ro_ro") for i in range(2)
        )
        texts = {"fr_fr": f"Chose {split}.", "ro_ro": f"Lucru {split}."}
        found.append(Concept(f"thing {split}", split, pictures, texts, clips))
    return found


def made_up(examples):
    return {(one.query.make_up, one.positive.make_up) for one in examples}


def test_every_way_to_ask_is_a_file_that_is_read_back(concepts, tmp_path):
    counts = write_tasks(Pictures("things", concepts, [], "CC0"), tmp_path / "out", ["fr_fr"])
    assert counts == {
        "image_to_text": {"train": 2, "dev": 2, "test": 4},  # each picture asks for each text
        "text_to_image": {"train": 2, "dev": 1, "test": 2},  # outside train one picture stands for a concept
        "speech_to_image": {"train": 2, "dev": 2, "test": 4},
        "image_speech_to_text": {"train": 2, "dev": 2, "test": 4},
    }
    files = {task: read_examples(tmp_path / "out" / f"{task}.jsonl") for task in TASKS}
    for task, file in files.items():
        assert not file.dropped and [file.splits.count(split) for split in SPLITS] == list(counts[task].values())
        assert {one.stratum for one in file.select("train")} | {one.stratum for one in file.select("dev")} == {"fr_fr"}
        assert {one.stratum for one in file.select("test")} == {"fr_fr", "ro_ro"}
        assert {one.query.meaning for one in file.select("test")} == {"thing test"}
        assert {one.positive.meaning for one in file.select("test")} == {"thing test"}
    assert made_up(files["image_to_text"]) == {(("image",), ("text",))}
    assert made_up(files["text_to_image"]) == {(("text",), ("image",))}
    assert made_up(files["speech_to_image"]) == {(("speech",), ("image",))}
    assert made_up(files["image_speech_to_text"]) == {(("image", "speech"), ("text",))}
    assert len({one.positive.id for one in files["speech_to_image"].select("train")}) == 2  # clips take turns
    assert len({one.positive.id for one in files["speech_to_image"].select("test")}) == 1
    assert {one.positive.lang for one in files["image_speech_to_text"].select("test")} == {"fr_fr", "ro_ro"}


def test_without_speech_there_are_two_files(concepts, tmp_path):
    silent = [Concept(one.id, one.split, one.pictures, one.texts) for one in concepts]
    assert set(write_tasks(Pictures("things", silent, [], ""), tmp_path, ["fr_fr"])) == {
        "image_to_text",
        "text_to_image",
    }
    with pytest.raises(DataError, match="things has no concept with a picture in dev"):
        write_tasks(Pictures("things", [silent[0], silent[2]], [], ""), tmp_path, ["fr_fr"])


def test_copies_and_what_is_no_picture_are_left_out(picture, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    names = [("a", picture("a.png", 1)), ("a", picture("a2.png", 1)), ("a", picture("a3.png", 2)),
             ("b", picture("b.png", 3)), ("c", picture("c.png", 3)), ("c", picture("c2.png", 4)),
             ("d", str(tmp_path / "bad.png"))]  # fmt: skip
    found, dropped = readable(names)
    assert {concept: [name[len(str(tmp_path)) + 1 :] for name in some] for concept, some in found.items()} == {
        "a": ["a.png", "a3.png"],
        "c": ["c2.png"],
    }
    assert [(one.id[len(str(tmp_path)) + 1 :], one.reason) for one in dropped] == [
        ("bad.png", "unreadable"),
        ("a2.png", "copied picture"),
        ("b.png", "copied picture of several concepts"),
        ("c.png", "copied picture of several concepts"),
    ]


def test_what_is_in_two_splits_is_refused(concepts, picture):
    check_apart(concepts)
    train, dev, test = concepts
    for other, what in [
        (Concept("thing train", "test", dev.pictures, {}), "concept"),
        (Concept("x", "test", train.pictures, {}), "picture"),
        (Concept("x", "test", dev.pictures, {"fr_fr": "CHOSE, train"}), "text"),
        (Concept("x", "test", (picture("x.png", 250),), {}, train.clips), "clip"),
    ]:
        with pytest.raises(DataError, match=f"^{what} .* is in train and in test"):
            check_apart([train, other])
    check_apart([train, Concept("x", "test", test.pictures, {"ro_ro": "Chose train."})])  # another language
    (lang, clip), *_ = train.clips
    spoken = Corpus("talk", [Utterance("u", lang, "a", clip, "s", "dev")], (lang,))
    with pytest.raises(DataError, match="is in dev of talk and in train here"):
        check_apart(concepts, spoken)
