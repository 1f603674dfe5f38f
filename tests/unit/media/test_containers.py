import gzip
import io
import os
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from speechde.errors import ConfigError, DataError
from speechde.features import frames as features
from speechde.media import archives, audio, containers
from speechde.media.archives import index_archive
from speechde.media.containers import MissingMemberError, list_members, locator, read_member, split_locator
from speechde.types import Utterance


def clip(number):
    """Bytes that differ from clip to clip and do not compress."""
    return random.Random(number).randbytes(3000 + number)


def write_tar(path, members, special=()):
    """``members``: name -> bytes, in order; ``special`` are TarInfo objects that go last."""
    with tarfile.open(path, "w:gz" if str(path).endswith("gz") else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in special:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def clips(count, folder="test"):
    return {f"{folder}/{number}.wav": clip(number) for number in range(count)}


@pytest.fixture(params=[".tar", ".tar.gz", ".tgz"])
def suffix(request):
    return request.param


@pytest.fixture
def opened(monkeypatch):
    """Names of the compressed archives opened, once for each decompression pass."""
    names = []
    plain = gzip.open
    monkeypatch.setattr(archives.gzip, "open", lambda path, *rest: names.append(str(path)) or plain(path, *rest))
    return names


def wav(seconds=0.5):
    buffer = io.BytesIO()
    samples = 0.5 * np.sin(np.arange(round(16_000 * seconds)) / 5)
    soundfile.write(buffer, samples.astype(np.float32), 16_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("d/test.tar.gz::test/1.wav", ("d/test.tar.gz", "test/1.wav")),
        ("d/a.tar::1.wav", ("d/a.tar", "1.wav")),
        ("a.tgz::b.tar::c.wav", ("a.tgz", "b.tar::c.wav")),
        ("odd::name/a.parquet::audio/3", ("odd::name/a.parquet", "audio/3")),
        ("d/a.wav", None),
        ("d/a::b.wav", None),
        ("a.zip::b.wav", None),
        ("a.tar::", None),
        ("::a.wav", None),
        ("a.tar", None),
    ],
)
def test_split(text, parts):
    assert split_locator(text) == parts
    if parts:
        assert locator(*parts) == text


def test_a_file_of_that_name_is_a_plain_path(tmp_path):
    folder = tmp_path / "a.tar::b"
    assert split_locator(str(folder / "c.wav")) is not None
    folder.mkdir()
    (folder / "c.wav").write_bytes(wav())
    assert split_locator(str(folder / "c.wav")) is None
    assert audio.load_audio(str(folder / "c.wav")).size == 8000


@pytest.mark.parametrize("parts", [("a.zip", "b"), ("a.tar", ""), ("x.tar::y/a.tar", "b")])
def test_what_cannot_be_a_locator(parts):
    with pytest.raises(DataError, match="is no locator"):
        locator(*parts)


def test_members_are_listed_in_order_and_read(tmp_path, suffix):
    members = {"b.wav": clip(1), "a/long" + "g" * 150 + ".wav": clip(2), "é.wav": clip(3), "empty.wav": b""}
    archive = write_tar(tmp_path / f"x{suffix}", members)
    assert list(list_members(archive, tmp_path).items()) == [(name, len(data)) for name, data in members.items()]
    for name in reversed(members):
        assert read_member(locator(archive, name)) == members[name]


def test_names_may_begin_with_a_dot(tmp_path, suffix):
    archive = write_tar(tmp_path / f"x{suffix}", {"./test/1.wav": clip(1)})
    assert list(list_members(archive, tmp_path)) == ["test/1.wav"]
    assert read_member(f"{archive}::test/1.wav") == read_member(f"{archive}::./test/1.wav") == clip(1)


def test_a_list_is_kept_until_the_archive_changes(tmp_path, opened):
    archive = write_tar(tmp_path / "x.tar.gz", clips(3))
    first = list_members(archive, tmp_path / "cache")
    assert list_members(archive, tmp_path / "cache") == first
    assert len(opened) == 1
    write_tar(archive, clips(2))
    assert len(list_members(archive, tmp_path / "cache")) == 2
    for cached in (tmp_path / "cache").rglob("*.json"):
        cached.write_text("{")
    assert len(list_members(archive, tmp_path / "cache")) == 2


def test_reading_in_order_takes_one_pass(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(archives, "RECENT_BYTES", 20_000)  # about five clips
    members = clips(40)
    archive = write_tar(tmp_path / "x.tar.gz", members)
    for name, data in members.items():
        assert read_member(f"{archive}::{name}") == data
    assert len(opened) == 1
    with pytest.raises(MissingMemberError, match="has no member"):
        read_member(f"{archive}::test/99.wav")
    assert read_member(f"{archive}::test/38.wav") == members["test/38.wav"]  # still kept
    assert len(opened) == 1
    assert read_member(f"{archive}::test/0.wav") == members["test/0.wav"]
    assert len(opened) == 2


def test_subsets_and_small_steps_back_take_one_pass(tmp_path, opened):
    members = clips(30)
    archive = write_tar(tmp_path / "x.tar.gz", members)
    for number in (1, 0, 7, 5, 6, 20, 29, 28):
        assert read_member(f"{archive}::test/{number}.wav") == clip(number)
    assert len(opened) == 1


def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "RECENT_BYTES", 10_000)
    archive = write_tar(tmp_path / "x.tar.gz", {**clips(20), "big.wav": bytes(50_000), "last.wav": b"1"})
    reader = archives.CompressedTar(str(archive))
    assert reader.read("test/19.wav") == clip(19)
    assert 0 < sum(map(len, reader._pass._recent.values())) == reader._pass._recent_bytes <= 10_000
    assert reader.read("big.wav") == bytes(50_000)
    assert reader.read("last.wav") == b"1"


def test_threads_share_one_pass(tmp_path, suffix, opened):
    members = clips(300)
    archive = write_tar(tmp_path / f"x{suffix}", members)
    with ThreadPoolExecutor(2) as pool:
        read = list(pool.map(lambda name: read_member(f"{archive}::{name}"), members))
    assert read == list(members.values())
    assert len(opened) == (suffix != ".tar")


def test_many_archives_and_threads(tmp_path):
    archives_ = [write_tar(tmp_path / f"{i}{end}", clips(4)) for i in range(5) for end in (".tar", ".tar.gz")]
    wanted = [(archive, number) for number in (3, 0, 2, 1) for archive in archives_]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda item: read_member(f"{item[0]}::test/{item[1]}.wav"), wanted))
    assert read == [clip(number) for _, number in wanted]
    assert len(containers._readers) <= containers.MAX_OPEN


def test_a_replaced_archive_is_read_anew(tmp_path, suffix):
    archive = write_tar(tmp_path / f"x{suffix}", {"a.wav": b"old"})
    assert read_member(f"{archive}::a.wav") == b"old"
    write_tar(tmp_path / f"y{suffix}", {"a.wav": b"newer bytes"})
    os.replace(tmp_path / f"y{suffix}", archive)
    os.utime(archive, (1, 1))
    assert read_member(f"{archive}::a.wav") == b"newer bytes"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_process_has_its_own_stream(tmp_path):
    archive = write_tar(tmp_path / "x.tar.gz", clips(200))
    assert read_member(f"{archive}::test/0.wav") == clip(0)
    child = os.fork()
    if not child:
        good = all(read_member(f"{archive}::test/{number}.wav") == clip(number) for number in range(200))
        os._exit(0 if good else 1)
    assert read_member(f"{archive}::test/199.wav") == clip(199)
    assert os.waitpid(child, 0)[1] == 0


def special(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def test_traversal_links_and_devices_are_refused(tmp_path, suffix):
    odd = [
        special("../evil.wav", size=4),
        special("/abs.wav", size=4),
        special("a/../../evil.wav", size=4),
        special("sym.wav", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard.wav", tarfile.LNKTYPE, "test/0.wav"),
        special("null", tarfile.CHRTYPE),
        special("pipe", tarfile.FIFOTYPE),
        special("folder", tarfile.DIRTYPE),
        special("test/1.wav", size=5),
        special("ok.wav", size=2),
    ]
    archive = write_tar(tmp_path / f"x{suffix}", clips(2), odd)
    index = index_archive(archive, tmp_path / "cache")
    assert index.members == {"test/0.wav": 3000, "test/1.wav": 3001, "ok.wav": 2}
    assert index.damage == ""
    path = "a path that leaves the archive"
    assert index.refused == {
        "../evil.wav": path,
        "/abs.wav": path,
        "a/../../evil.wav": path,
        "sym.wav": "a link",
        "hard.wav": "a link",
        "null": "not a regular file",
        "pipe": "not a regular file",
        "test/1.wav": "a second file of this name, the first is used",
    }
    for name in ("../evil.wav", "/abs.wav", "a/../../evil.wav", "sym.wav", "hard.wav", "null"):
        with pytest.raises(DataError, match=r"leaves the archive|a link|not a regular file"):
            read_member(f"{archive}::{name}")
    assert read_member(f"{archive}::ok.wav") == b"xx"
    assert read_member(f"{archive}::test/1.wav") == clip(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["cache", archive.name])


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.99])
def test_members_before_a_cut_stay_usable(tmp_path, suffix, kept):
    members = clips(10)
    whole = write_tar(tmp_path / f"whole{suffix}", members)
    archive = tmp_path / f"cut{suffix}"
    data = whole.read_bytes()
    end = len(data) if suffix != ".tar" else 10 * 3584  # without the zeros that end a tar file
    archive.write_bytes(data[: int(kept * end)])
    index = index_archive(archive, tmp_path / "cache")
    assert "cut short" in index.damage
    count = len(index.members)
    assert 10 * kept - 2 <= count <= 10
    for name in index.members:
        assert read_member(f"{archive}::{name}") == members[name]
    if count < 10:
        with pytest.raises(DataError, match="damaged or cut short"):
            read_member(f"{archive}::test/9.wav")
        with pytest.raises(audio.AudioError, match="damaged or cut short") as caught:
            audio.load_audio(f"{archive}::test/9.wav")
        assert caught.value.reason == "unreadable"
        assert read_member(f"{archive}::test/0.wav") == members["test/0.wav"]


def test_a_damaged_header_is_not_the_end(tmp_path):
    archive = write_tar(tmp_path / "x.tar", clips(4))
    data = bytearray(archive.read_bytes())
    data[2 * 3584 + 3] ^= 1  # the name in the third header
    archive.write_bytes(data)
    index = index_archive(archive, tmp_path)
    assert list(index.members) == ["test/0.wav", "test/1.wav"]
    assert "bad checksum" in index.damage


def test_a_wrong_gzip_checksum_is_noticed(tmp_path):
    archive = write_tar(tmp_path / "x.tar.gz", clips(2))
    data = bytearray(archive.read_bytes())
    data[-7] ^= 1
    archive.write_bytes(data)
    index = index_archive(archive, tmp_path)
    assert len(index.members) == 2
    assert "CRC" in index.damage


def test_files_that_are_no_archives(tmp_path, suffix):
    archive = tmp_path / f"x{suffix}"
    archive.write_bytes(b"no archive at all, " * 100)
    with pytest.raises(DataError, match="damaged"):
        list_members(archive, tmp_path)
    with pytest.raises(DataError, match="damaged"):
        read_member(f"{archive}::a.wav")
    with pytest.raises(MissingMemberError, match="cannot be read"):
        read_member(f"{tmp_path}/none{suffix}::a.wav")
    with pytest.raises(MissingMemberError, match="cannot be read"):
        list_members(tmp_path / f"none{suffix}", tmp_path)
    with pytest.raises(DataError, match="is no archive that can be listed"):
        list_members(tmp_path / "x.parquet", tmp_path)
    with pytest.raises(DataError, match="is no locator"):
        read_member(str(tmp_path / "a.wav"))


def write_parquet(path, rows=25, group=10, struct=True):
    values = (
        [{"bytes": clip(row), "path": f"{row}.wav"} for row in range(rows)] if struct else list(map(clip, range(rows)))
    )
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
    table = pa.table({"audio": pa.array(values, kind), "other": pa.array([b"%d" % row for row in range(rows)])})
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_rows_decode_each_group_once(tmp_path, struct, monkeypatch):
    path = write_parquet(tmp_path / "x.parquet", struct=struct)
    groups = []
    plain = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, i, **kw: groups.append((i, kw["columns"])) or plain(self, i, **kw),
    )
    for row in (*range(9), 10, 9, *range(11, 19), 20, 19, *range(21, 25)):  # threads run ahead at the borders
        assert read_member(locator(path, str(row))) == clip(row)
    assert groups == [(0, ["audio"]), (1, ["audio"]), (2, ["audio"])]
    assert read_member(f"{path}::audio/7") == clip(7)
    assert read_member(f"{path}::other/24") == b"24"
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: read_member(f"{path}::{row}"), range(25))) == list(map(clip, range(25)))


def test_parquet_errors(tmp_path):
    path = write_parquet(tmp_path / "x.parquet")
    with pytest.raises(MissingMemberError, match="has no row 25; it has 25 rows"):
        read_member(f"{path}::25")
    with pytest.raises(DataError, match="is no row"):
        read_member(f"{path}::-1")
    with pytest.raises(ConfigError, match="'audi' is not known; allowed: audio, other"):
        read_member(f"{path}::audi/1")
    empty = pa.table({"audio": [{"bytes": None, "path": "a.wav"}], "text": ["a"]})
    pq.write_table(empty, tmp_path / "empty.parquet")
    for member in ("0", "text/0"):
        with pytest.raises(DataError, match="has no bytes"):
            read_member(f"{tmp_path}/empty.parquet::{member}")
    (tmp_path / "bad.parquet").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged or no Parquet file"):
        read_member(f"{tmp_path}/bad.parquet::0")


def test_load_audio_reads_locators(tmp_path, suffix):
    plain = tmp_path / "a.wav"
    plain.write_bytes(wav())
    archive = write_tar(tmp_path / f"x{suffix}", {"test/a.wav": wav(), "test/cut.wav": wav()[:-100], "empty.wav": b""})
    np.testing.assert_array_equal(audio.load_audio(f"{archive}::test/a.wav"), audio.load_audio(plain))
    for member, reason in (("no.wav", "missing file"), ("../a.wav", "unreadable"), ("test/cut.wav", "unreadable"),
                           ("empty.wav", "empty")):  # fmt: skip
        with pytest.raises(audio.AudioError) as caught:
            audio.load_audio(f"{archive}::{member}")
        assert caught.value.reason == reason
    with pytest.raises(audio.AudioError) as caught:
        audio.load_audio(f"{tmp_path}/none{suffix}::a.wav")
    assert caught.value.reason == "missing file"


class Samples:
    """An encoder whose frames are 100 samples long."""

    rate = 160.0
    dim = 100

    def describe(self):
        return {"name": "samples"}

    def encode(self, waveforms):
        return [w[: len(w) // 100 * 100].reshape(-1, 100).astype(np.float16) for w in waveforms]


def test_features_of_an_archive_are_those_of_its_files(tmp_path, opened):
    members = {f"{number}.wav": wav(0.2 + number / 100) for number in range(20)}
    archive = write_tar(tmp_path / "x.tar.gz", members)
    for name, data in members.items():
        (tmp_path / name).write_bytes(data)

    def store(place):
        utterances = [Utterance(name, "fr_fr", "a", place(name), name, "test") for name in members]
        return features.extract_frames(utterances, Samples(), tmp_path / "cache", rate=160.0)

    inside, outside = store(lambda name: locator(archive, name)), store(lambda name: str(tmp_path / name))
    assert len(opened) == 1
    for name in members:
        np.testing.assert_array_equal(inside[name], outside[name])
    assert store(lambda name: locator(archive, name)).key == inside.key
    write_tar(archive, {name: wav(0.3) for name in members})
    assert store(lambda name: locator(archive, name)).key != inside.key
