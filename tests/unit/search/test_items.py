"""What arguments name, one by one; the commands' tests use them together."""

from __future__ import annotations

import io
import os

import pytest

from speechde.errors import DataError
from speechde.search.items import AUDIO, SPEECH, TEXT, Item, collect, looks_like_file
from speechde.types import Dropped


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips/deep").mkdir(parents=True)
    for name in ("b.ogg", "a.WAV", "deep/c.m4a", "notes.pdf", "[x].ogg"):
        (tmp_path / "clips" / name).touch()
    return tmp_path


def ids(*arguments, **options):
    return [item.id for item in collect(arguments, **options)[0]]


def test_folders_are_searched_for_audio_in_order():
    assert ids("clips") == ["clips/[x].ogg", "clips/a.WAV", "clips/b.ogg", "clips/deep/c.m4a"]
    (item,), dropped = collect(["clips/b.ogg"], "ro_ro")
    assert item == Item("clips/b.ogg", "ro_ro", None, os.path.abspath("clips/b.ogg")) and dropped == []


def test_patterns():
    assert ids("clips/**/*.*") == ["clips/[x].ogg", "clips/a.WAV", "clips/b.ogg", "clips/deep/c.m4a", "clips/notes.pdf"]
    assert ids("clips/[ab]*") == ["clips/a.WAV", "clips/b.ogg"]
    assert ids("clips/[x].ogg") == ["clips/[x].ogg"], "a file of that very name comes first"
    assert ids("cl*") == ids("clips")


def test_what_is_named_twice_is_taken_once():
    assert ids("clips/b.ogg", "clips", "clips/*.ogg") == [
        "clips/b.ogg",
        "clips/[x].ogg",
        "clips/a.WAV",
        "clips/deep/c.m4a",
    ]


@pytest.mark.parametrize(
    "text", ["un autobuz", "?", "a/b or c/d", "Why [not]?", "x" * 100_000, "Ã©tÃ©", "AC/DC", "km/h", "et/ou/ni"]
)
def test_texts(text):
    (item,), _ = collect([text])
    assert (item.id, item.text, item.kind) == ("argument 1", text, "text")


@pytest.mark.parametrize(
    "name",
    [
        "a.ogg",
        "my clip.FLAC",
        "AC/DC.mp3",
        "texts.txt",
        "m.tsv",
        "m.parquet",
        "clips/none",
        "/no/clip",
        "./clip",
        "../clip",
        "clips2/",
        "*.ogg",
        "no/such/*",
    ],
)
def test_files_that_are_not_there(name):
    assert looks_like_file(name)
    with pytest.raises(DataError, match=r"does not exist|matches no file"):
        collect([name])


def test_what_a_query_is_can_be_said():
    for text in ("clips/b.ogg", "none.ogg", "-", "clips"):
        (item,), _ = collect([text], only=TEXT)
        assert (item.kind, item.text) == ("text", text)
    assert ids("clips/b.ogg", "clips/d*", only=SPEECH) == ["clips/b.ogg", "clips/deep/c.m4a"]
    with pytest.raises(DataError, match="AC/DC names no file"):
        collect(["AC/DC"], only=SPEECH)


def test_what_a_folder_passes_over_is_listed(folder, another_user):
    (folder / "clips/linked").symlink_to(folder / "clips/deep")
    (folder / "clips/z.ogg").symlink_to("clips/b.ogg")
    (folder / "clips/to a file.ogg").symlink_to(folder / "clips/b.ogg")
    (folder / "clips/deep/more.pdf").touch()
    (folder / "clips/README").touch()
    os.mkfifo(folder / "clips/pipe.wav")
    (folder / "clips/closed").mkdir(mode=0)
    with another_user():
        items, dropped = collect(["clips"])
    names = ["[x].ogg", "a.WAV", "b.ogg", "deep/c.m4a", "to a file.ogg"]
    assert [item.id for item in items] == [f"clips/{name}" for name in names]
    assert {item.id.removeprefix("clips/"): item.reason for item in dropped} == {
        "linked": "linked folder", "z.ogg": "dangling link", "pipe.wav": "not a file", "closed": "unreadable folder",
        "**/*.pdf": "not a suffix of audio or pictures", "**/*": "not a suffix of audio or pictures"}  # fmt: skip
    assert dropped[-1].detail == "2 files, the first: clips/notes.pdf"
    assert ids("clips/linked") == ["clips/linked/c.m4a"], "a link that is named is followed"
    assert collect(["clips/*.ogg"])[1] == [Dropped("clips/z.ogg", "dangling link")]


def test_a_name_that_is_not_utf_8(folder):
    os.rename(b"clips/b.ogg", b"clips/b\xff.ogg")
    items, _ = collect(["clips"])
    found = items[2]
    assert found.id == r"clips/b\xff.ogg" and os.path.exists(found.audio)


def test_texts_in_utf_16(folder):
    (folder / "t.txt").write_text("un\ndoi\n", "utf-16")
    assert [item.text for item in collect(["t.txt"])[0]] == ["un", "doi"]
    (folder / "t.txt").write_text("un\ndoi\n", "utf-16-le")
    with pytest.raises(DataError, match=r"nothing to embed in t.txt \(t.txt:1: NUL character\)"):
        collect(["t.txt"])


def test_lines_that_are_no_text():
    lines = io.BytesIO(b"\xef\xbb\xbfone\r\n\xff\n\n  \nfive")
    items, dropped = collect(["-"], stdin=lines)
    assert [(item.id, item.text) for item in items] == [("stdin:1", "one"), ("stdin:5", "five")]
    assert [(each.id, each.reason) for each in dropped] == [
        ("stdin:2", "not UTF-8"), ("stdin:3", "empty text"), ("stdin:4", "empty text")]  # fmt: skip
    assert collect(["\udcff", "b"])[1] == [Dropped("argument 1", "not UTF-8", dropped[0].detail)]


@pytest.mark.parametrize("arguments", [[""], ["empty.txt"], []])
def test_nothing(arguments, folder):
    (folder / "empty.txt").touch()
    with pytest.raises(DataError, match="nothing to embed"):
        collect(arguments)


def test_a_folder_without_audio(folder):
    (folder / "none").mkdir()
    with pytest.raises(DataError, match=f"none holds no audio file or picture; files end in {AUDIO[0]}"):
        collect(["none"])
