"""Names of clips: their bytes and nothing else, hashed once."""

from __future__ import annotations

import io
import os
import shutil
import tarfile

import pytest

from speechde.media import content
from speechde.media.archives import list_members
from speechde.media.containers import locator, read_member
from speechde.media.content import content_keys


@pytest.fixture
def hashed(monkeypatch):
    """The files that were read."""
    read = []

    def counting(path, original=content.sha256_file):
        read.append(os.path.basename(path))
        return original(path)

    monkeypatch.setattr(content, "sha256_file", counting)
    return read


def write(path, data):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(0, 0))
    return str(path)


def write_tar(path, members):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    os.utime(path, ns=(0, 0))
    return str(path)


def test_a_file_is_its_bytes_whatever_its_name_and_dates(tmp_path, hashed):
    clips = [write(tmp_path / "a" / "1.wav", b"one"), write(tmp_path / "b" / "1.wav", b"two")]
    one, two = content_keys(clips, tmp_path / "cache")
    assert one != two and len(one) == 1
    moved = write(tmp_path / "c.wav", b"one")
    assert content_keys([moved], tmp_path / "cache") == [one]
    assert sorted(hashed) == ["1.wav", "1.wav", "c.wav"]


def test_a_second_call_reads_no_clip_until_one_is_replaced(tmp_path, hashed):
    clips = [write(tmp_path / f"{i}.wav", b"%d" % i) for i in range(3)]
    first = content_keys(clips, tmp_path / "cache")
    hashed.clear()
    assert content_keys(clips, tmp_path / "cache") == first and hashed == []
    write(tmp_path / "1.wav", b"9")  # size and date are those of before
    second = content_keys(clips, tmp_path / "cache")
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_member_is_its_containers_bytes_and_its_name(tmp_path, hashed, suffix):
    first, second = (write_tar(tmp_path / n / f"x{suffix}", {"a": b"%d" % i, "b": b"2"}) for i, n in enumerate("pq"))
    keys = content_keys([locator(first, "a"), locator(first, "b"), locator(second, "a")], tmp_path / "cache")
    assert len({tuple(key) for key in keys}) == 3 and keys[0][0] == keys[1][0] and keys[0][1:] == ["a"]
    assert hashed == [f"x{suffix}"] * 2
    copy = shutil.copy(first, tmp_path / f"y{suffix}")
    assert content_keys([locator(copy, "a")], tmp_path / "cache") == keys[:1]
    hashed.clear()
    content_keys([locator(first, "b"), locator(second, "b")], tmp_path / "cache")
    assert hashed == []


def test_missing_files_and_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    clips = [write(tmp_path / "a.wav", b"one"), str(tmp_path / "none.wav"), str(tmp_path), "nul\0.wav"]
    keys = content_keys(clips, tmp_path / "file" / "cache")
    assert keys[0][0] and keys[1:] == [[""], [""], [""]]
    write(tmp_path / "none.wav", b"now")
    assert content_keys(clips, tmp_path / "cache")[1] == content_keys(clips[1:2], tmp_path / "cache")[0] != [""]


def test_an_archive_replaced_by_one_of_equal_size_and_date_is_listed_and_read_anew(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"a": b"1"})
    assert list_members(path, tmp_path) == {"a": 1} and read_member(f"{path}::a") == b"1"
    size = os.path.getsize(path)
    write_tar(tmp_path / "x.tar", {"b": b"2"})
    assert os.path.getsize(path) == size
    assert list_members(path, tmp_path) == {"b": 1} and read_member(f"{path}::b") == b"2"
