"""``speechde pictures``: files of examples and a record of what was left out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from speechde.corpora import emoji, stamps, synthetic
from speechde.corpora.examples_file import read_examples
from speechde.corpora.pictures import Concept, Pictures
from speechde.types import Dropped

STAMPS = Path("usr/share/tuxpaint/stamps")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """60 unpacked stamps in Catalan and Greek, the last without a picture that can be read."""
    for i in range(60):
        folder = tmp_path / "root" / STAMPS
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.txt").write_text(f"Thing {i}.\nca.utf8=Cosa {i}.\nel.utf8=Πράγμα {i}.\n", "utf-8")
        for locale in ("ca", "el"):
            (folder / f"{i}_desc_{locale}.ogg").write_bytes(f"{i} {locale}".encode())
        file = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(file, "PNG")
        (folder / f"{i}.png").write_bytes(file.getvalue()[: None if i < 59 else 20])
    monkeypatch.setattr(stamps, "find_archive", lambda archive, cache: archive)
    for module in ("stamps", "stamp_pictures"):
        monkeypatch.setattr(f"speechde.corpora.{module}.unpack", lambda archive, root: tmp_path / "root")
    return tmp_path


def test_stamps(run, package):
    done = run("pictures", "stamps", "--out", package / "out", "--json")
    assert "left out: 59.png: unreadable" not in done.err and "59.png: unreadable" in done.err
    assert done.json["dropped"] == {"unreadable": 1} and sum(done.json["concepts"].values()) == 59
    record = json.loads((package / "out" / "pictures.json").read_text("utf-8"))
    assert record["left_out"][0]["reason"] == "unreadable" and record["licence"] == "GPL-2"
    heard = read_examples(package / "out" / "speech_to_image.jsonl")
    assert {one.stratum for one in heard.select("train")} == {"ca_es"}
    assert {one.stratum for one in heard.select("test")} == {"ca_es", "el_gr"}
    done = run("pictures", "stamps", "--out", package / "out")
    assert [line.split("\t")[1:] for line in done.out.splitlines()[:2]] == [
        ["train", "dev", "test"],
        [str(count) for count in record["concepts"].values()],
    ]
    assert done.out.endswith("left out: unreadable: 1\n")


def test_emoji(run, package, monkeypatch):
    picture = str(package / "root" / STAMPS / "1.png")
    concepts = [Concept(split, split, (picture,), {"ca_es": f"nom {split}", "el_gr": f"όνομα {split}"})
                for split in ("train", "dev", "test")]  # fmt: skip
    asked = {}

    def read(font, names, cache, held_out):
        asked["held_out"] = held_out
        return Pictures("emoji", concepts, [Dropped("🦊", "no picture in the font")], "OFL-1.1")

    monkeypatch.setattr(emoji, "find_font", lambda archive, cache: Path("font.ttf"))
    monkeypatch.setattr(synthetic, "find_texts", lambda archive, cache, langs: Path("names"))
    monkeypatch.setattr(emoji, "read_emoji", read)
    done = run("pictures", "emoji", "--out", package / "out", "--json")
    assert done.json["examples"]["text_to_image"] == {"train": 1, "dev": 1, "test": 2}
    assert "el_gr" not in done.json["trained"] and len(done.json["trained"]) > 80
    held_out = {u.text for u in stamps.read_stamps(package / "root").utterances if u.split != "train"}
    assert held_out and held_out <= set(asked["held_out"])


def test_your_own(run, tmp_path):
    for number in range(3):
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    rows = ["0.png\tfr\tun chat\ttrain", "1.png\tro\to vacă\ttrain", "2.png\tro\to pisică\ttest", "3.png\tro\tx\t"]
    table = tmp_path / "own.tsv"
    table.write_text("\n".join(["image\tlang\ttext\tsplit", *rows]) + "\n", "utf-8")
    done = run("pictures", "manifest", table, "--out", tmp_path / "out", "--json")
    assert done.json["trained"] == ["fr_fr", "ro_ro"] and done.json["dropped"] == {"missing file": 1}
    assert done.json["examples"] == {
        task: {"train": 2, "dev": 0, "test": 1} for task in ("image_to_text", "text_to_image")
    }
    record = json.loads((tmp_path / "out" / "pictures.json").read_text("utf-8"))
    assert record["left_out"][0]["id"].endswith("3.png")
    done = run("pictures", "manifest", table, "--out", tmp_path / "out")
    assert done.out.splitlines()[1].split("\t")[1:] == ["2", "0", "1"]
    assert done.out.endswith("left out: missing file: 1\n")
    record["examples"]["speech_to_image"] = {}  # an earlier table had recordings
    (tmp_path / "out" / "pictures.json").write_text(json.dumps(record), "utf-8")
    for name in ("speech_to_image", "mine"):
        (tmp_path / "out" / f"{name}.jsonl").write_text("{}", "utf-8")
    assert run("pictures", "manifest", table, "--out", tmp_path / "out").code == 0
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept == {"image_to_text.jsonl", "text_to_image.jsonl", "mine.jsonl", "pictures.json"}
    (tmp_path / "out" / "pictures.json").write_text("[]", "utf-8")
    assert run("pictures", "manifest", table, "--out", tmp_path / "out").code == 0


def test_nothing_to_read(run, tmp_path):
    done = run("pictures", "stamps", "--out", tmp_path, "--archive", tmp_path / "none.deb")
    assert done.code == 1 and "none.deb is not a file" in done.err
