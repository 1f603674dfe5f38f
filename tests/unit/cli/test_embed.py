"""``speechde embed``: every form of input, bad ones too; a job that is stopped and goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from speechde import SpeechTextEncoder, api
from speechde.checkpoint import reader
from speechde.search import embed as module
from speechde.search import vectors as files
from speechde.search.vectors import read_vectors
from speechde.types import SAMPLE_RATE


@pytest.fixture(scope="session")
def encoder(models):
    return SpeechTextEncoder.from_pretrained(models.continuous)


@pytest.fixture
def folder(tmp_path, make_tone):
    """Four clips of different length and pitch, one of them in a folder below."""
    (tmp_path / "clips/more").mkdir(parents=True)
    for n, name in enumerate(("a", "b", "c", "more/d")):
        soundfile.write(tmp_path / f"clips/{name}.wav", make_tone(0.3 + n / 10, 150 * (n + 1)), SAMPLE_RATE)
    return tmp_path / "clips"


@pytest.fixture
def embed(run, models, tmp_path):
    def call(*arguments, out="out.parquet", **options):
        return run("embed", "--model", models.continuous, "--out", tmp_path / out, *arguments, **options)

    return call


def rows(path):
    return pq.read_table(path).drop_columns("embedding").to_pylist()


def test_vectors_are_those_of_the_library(embed, folder, encoder, tmp_path):
    done = embed(folder, "un texte", "--language", "fr")
    assert done.code == 0 and done.out.endswith("out.parquet: 5 vectors, 0 inputs left out\n"), done.err
    found = read_vectors([tmp_path / "out.parquet"])
    clips = [str(folder / name) for name in ("a.wav", "b.wav", "c.wav", "more/d.wav")]
    expected = [*encoder.encode_speech(clips, "fr"), encoder.encode_text("un texte", "fr")]
    np.testing.assert_allclose(found.vectors, expected, atol=2e-6)
    assert found.fingerprint == encoder.fingerprint
    assert rows(tmp_path / "out.parquet")[3:] == [
        {"id": clips[3], "kind": "speech", "language": "fr_fr", "text": None, "audio": clips[3], "image": None,
         "seconds": pytest.approx(0.6)},
        {"id": "argument 2", "kind": "text", "language": "fr_fr", "text": "un texte", "audio": None, "image": None,
         "seconds": None},
    ]  # fmt: skip


def test_every_form_of_input(embed, folder, tmp_path):
    (tmp_path / "lines.txt").write_bytes("\ufeffpremier\r\n\n troisième \n".encode())
    table = "id\tlang\ttext\taudio\nm1\tro\tun autobuz\tclips/a.wav\nm2\txx\tb\tclips/b.wav\n"
    (tmp_path / "corpus.tsv").write_text(table, "utf-8")
    done = embed(folder / "more", str(folder / "[ab].wav"), tmp_path / "lines.txt", tmp_path / "corpus.tsv", "-",
                 folder / "a.wav", "--json", stdin="ligne\nÃ©tÃ©\n".encode() + b"\xff\n")  # fmt: skip
    assert done.code == 0, done.err
    found = {row["id"].removeprefix(f"{tmp_path}/"): row for row in rows(tmp_path / "out.parquet")}
    assert list(found) == ["clips/more/d.wav", "clips/a.wav", "clips/b.wav", "lines.txt:1", "lines.txt:3", "m1",
                           "stdin:1", "stdin:2"]  # fmt: skip
    assert [found[id_]["text"] for id_ in ("lines.txt:1", "lines.txt:3", "m1", "stdin:2")] == [
        "premier", " troisième ", "un autobuz", "Ã©tÃ©"]  # fmt: skip
    assert (found["m1"]["kind"], found["m1"]["language"]) == ("speech", "ro_ro")
    assert done.json["vectors"] == 8
    assert done.json["dropped_counts"] == {"empty text": 1, "unknown language": 1, "not UTF-8": 1}
    assert "left out: stdin:3: not UTF-8" in done.err


def test_texts_of_a_manifest(embed, folder, tmp_path, encoder):
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"id": "m1", "lang": "ro", "text": "un autobuz", "audio": "clips/a.wav"}), "utf-8")
    assert embed(path, "--texts").code == 0
    found = read_vectors([tmp_path / "out.parquet"])
    np.testing.assert_allclose(found.vectors[0], encoder.encode_text("un autobuz", "ro"), atol=2e-6)
    assert found.rows["kind"].to_pylist() == ["text"]


def test_bad_clips_are_listed_and_left_out(embed, folder, tmp_path, make_tone, monkeypatch):
    """Every kind of bad clip beside good ones; what is odd but usable has its vector."""
    monkeypatch.setattr(reader, "MAX_SECONDS", 1.0)
    good = make_tone(0.5)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "noise.ogg").write_bytes(b"not audio at all")
    (bad / "empty.wav").write_bytes(b"")
    soundfile.write(bad / "no samples.wav", good[:0], SAMPLE_RATE)
    soundfile.write(bad / "silent.wav", 0 * good, SAMPLE_RATE)
    soundfile.write(bad / "short.wav", good[: SAMPLE_RATE // 20], SAMPLE_RATE)
    soundfile.write(bad / "nan.wav", np.full(SAMPLE_RATE, np.nan, np.float32), SAMPLE_RATE, subtype="FLOAT")
    (bad / "cut.wav").write_bytes((folder / "a.wav").read_bytes()[:-100])
    soundfile.write(bad / "twelve.wav", np.tile(good[:, None], 12), 44_100)
    soundfile.write(bad / "low rate.wav", good[::2], 8000)
    soundfile.write(bad / "long.wav", make_tone(2.5), SAMPLE_RATE)
    done = embed(bad, "--json")
    assert done.code == 0
    assert {item["id"].split("/")[-1]: item["reason"] for item in done.json["dropped"]} == {
        "noise.ogg": "unreadable", "empty.wav": "empty", "no samples.wav": "empty", "silent.wav": "silent",
        "short.wav": "too short", "nan.wav": "not finite", "cut.wav": "unreadable"}  # fmt: skip
    assert [row["id"].split("/")[-1] for row in rows(tmp_path / "out.parquet")] == [
        "long.wav", "low rate.wav", "twelve.wav"]  # fmt: skip
    assert f"{bad / 'long.wav'} of 2 s is embedded in 3 parts" in done.err
    assert [item["detail"] for item in done.json["noted"]] == ["2 s"]
    assert "silent.wav: silent" in done.err


def test_odd_clips_are_read_or_left_out_and_the_good_ones_kept(embed, tmp_path, make_tone):
    (tmp_path / "clips").mkdir()
    tone, clips = make_tone(0.5), tmp_path / "clips"
    soundfile.write(clips / "good.wav", tone, SAMPLE_RATE)
    soundfile.write(clips / "odd.wav", tone, 11_127)
    soundfile.write(clips / "loud.wav", 32_768 * tone, SAMPLE_RATE, "FLOAT")
    soundfile.write(clips / "joined.mp3", tone, SAMPLE_RATE)
    joined = (clips / "joined.mp3").read_bytes()
    (clips / "joined.mp3").write_bytes(2 * joined)
    (clips / "half.mp3").write_bytes(joined[: len(joined) // 2])
    done = embed(str(clips), "--json")
    reasons = {item["id"].split("/")[-1]: item["reason"] for item in done.json["dropped"]}
    assert done.code == 0 and reasons == {"half.mp3": "unreadable", "loud.wav": "out of range"}
    assert "divide" in done.err and "cut short" in done.err and "half.mp3" in done.err
    seconds = {row["audio"].split("/")[-1]: row["seconds"] for row in rows(tmp_path / "out.parquet")}
    assert seconds == {"good.wav": 0.5, "joined.mp3": 1.0, "odd.wav": pytest.approx(8000 / 11_127, abs=1e-3)}


def test_a_clip_of_forty_minutes(embed, tmp_path, encoder, monkeypatch):
    """At the real limits: eleven parts, embedded by a stand-in, because what is tested is that nothing is cut."""
    seconds = []

    def items(self, waveforms):
        seconds.extend(len(waveform) / SAMPLE_RATE for waveform in waveforms)
        return [np.ones((2, 16), np.float16) for _ in waveforms]

    monkeypatch.setattr(api.SpeechTextEncoder, "speech_items", items)
    low = np.sin(np.arange(2401 * 1000) / 5).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", low, 1000, subtype="PCM_16")
    done = embed(tmp_path / "long.wav")
    assert done.code == 0 and "of 2401 s is embedded in 11 parts" in done.err
    assert len(seconds) == 11 and sum(seconds) == pytest.approx(2401)
    assert rows(tmp_path / "out.parquet")[0]["seconds"] == pytest.approx(2401)


def test_a_text_of_100_000_characters(embed, tmp_path):
    done = embed("-", stdin=b"word " * 20_000)
    assert done.code == 0 and "1 of 1 texts were cut at 128 tokens" in done.err
    assert np.isfinite(read_vectors([tmp_path / "out.parquet"]).vectors).all()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.ogg"], 1, "none.ogg does not exist"),
        (["clips/*.flac"], 1, "matches no file"),
        (["a", "--language", "klingon"], 2, "'klingon' is not known"),
        (["a", "--model", "no/such/model"], 1, "neither a folder nor a hub id"),
        (["a", "--model", "{}"], 1, "not a trained model"),
        (["a", "--shard", "0/4"], 2, "--shard 0/4 is no share"),
        (["a", "--out", "x.npy"], 2, "ends in .parquet"),
        (["a", "--device", "tpu9"], 2, "'tpu9' cannot be used here"),
        (["a", "--dtype", "float8"], 2, "allowed: bfloat16, float16, float32"),
        (["{}"], 1, "holds no audio file"),
        ([""], 1, "nothing to embed in an empty argument"),
        (["a", "--frobnicate"], 2, "No such option"),
        ([], 2, "Missing argument"),
    ],
)
def test_bad_arguments(embed, tmp_path, arguments, code, message):
    (tmp_path / "nothing").mkdir()
    done = embed(*(argument.format(tmp_path / "nothing") for argument in arguments))
    assert done.code == code and message in done.err and "Traceback" not in done.err
    assert done.out == "" and [path.name for path in tmp_path.iterdir()] == ["nothing"]


def test_all_bad_is_an_error(embed, tmp_path):
    (tmp_path / "a.ogg").write_bytes(b"no")
    (tmp_path / "b.ogg").write_bytes(b"")
    done = embed(tmp_path)
    assert done.code == 1 and "none of 2 inputs could be used (unreadable: 1, empty: 1)" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ogg", "b.ogg"]


def test_two_items_of_one_id(embed, folder, tmp_path):
    for name, text in (("a", "x"), ("b", "y")):
        row = {"id": "m1", "lang": "ro", "text": text, "audio": "clips/a.wav"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row), "utf-8")
    done = embed(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert done.code == 1 and "two inputs have the id 'm1'" in done.err


def test_an_existing_file_is_kept(embed, folder, tmp_path, monkeypatch):
    assert embed(folder).code == 0
    before = (tmp_path / "out.parquet").stat().st_mtime_ns
    monkeypatch.setattr(module, "embed_blocks", None)  # a finished job embeds nothing
    again = embed(folder)
    assert again.code == 0 and "4 vectors" in again.out
    monkeypatch.undo()
    other = embed("a text")
    assert other.code == 1 and "made from other inputs" in other.err
    assert (tmp_path / "out.parquet").stat().st_mtime_ns == before
    assert embed("a text", "--overwrite").code == 0 and len(rows(tmp_path / "out.parquet")) == 1


def test_killed_and_resumed(embed, folder, tmp_path, monkeypatch):
    """SIGKILL while the second part is written; the same command goes on, to the file of an uninterrupted one."""
    monkeypatch.setattr(module, "PART", 2)
    with monkeypatch.context() as patched:
        write, written = pq.write_table, []

        def dying(table, path):
            write(table, path)
            written.append(path)
            if len(written) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        patched.setattr(files.pq, "write_table", dying)
        if not (child := os.fork()):  # a process of its own, which has loaded everything already
            signal.alarm(60)
            embed(folder)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "out.parquet").exists()
    assert len(list((tmp_path / "out.parquet.parts").iterdir())) == 2, "a whole part and a half-written one"
    encoded, real = [], module.embed_blocks
    monkeypatch.setattr(
        module, "embed_blocks", lambda e, items, *rest: encoded.append(len(items)) or real(e, items, *rest)
    )
    done = embed(folder, "--json")
    assert encoded == [2] and done.json["reused"] == 2 and "2 of 4 items are there" in done.err
    assert embed(folder, out="whole.parquet").code == 0
    whole, resumed = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "out"))
    assert resumed.equals(whole) and not (tmp_path / "out.parquet.parts").exists()


def test_a_changed_clip_is_embedded_again(embed, folder, tmp_path, monkeypatch, make_tone):
    monkeypatch.setattr(module, "PART", 2)
    embed(folder, "--shard", "1/2")
    soundfile.write(folder / "a.wav", make_tone(0.9, 700), SAMPLE_RATE)
    assert embed(folder).code == 0
    shutil.move(tmp_path / "out.parquet", tmp_path / "first.parquet")
    assert embed(folder).code == 0
    np.testing.assert_array_equal(*(read_vectors([tmp_path / f"{n}.parquet"]).vectors for n in ("first", "out")))


def test_shards_make_the_same_file(embed, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 1)
    assert embed(folder, out="whole.parquet").code == 0
    for shard in ("1/2", "2/2"):
        done = embed(folder, "--shard", shard)
        assert done.code == 0 and f"share {shard}: 2 vectors" in done.out
        assert not (tmp_path / "out.parquet").exists()
    monkeypatch.setattr(module, "embed_blocks", None)  # nothing is left to embed
    assert embed(folder).code == 0
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))


def test_a_full_disk(embed, folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.pq, "write_table", full)
    done = embed(folder)
    assert done.code == 1 and done.err.endswith("error: the disk is full\n")
    assert not (tmp_path / "out.parquet").exists() and list((tmp_path / "out.parquet.parts").iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr(files.pq.ParquetWriter, "write_table", full)
    assert embed(folder).code == 1 and not (tmp_path / "out.parquet").exists()
    monkeypatch.undo()
    assert embed(folder).code == 0 and len(rows(tmp_path / "out.parquet")) == 4


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(embed, folder, tmp_path, monkeypatch, sent, code):
    """A real signal while the second part is written: no traceback, no temporary file, nothing half-written."""
    monkeypatch.setattr(module, "PART", 1)
    write = pq.write_table

    def interrupted(table, path):
        write(table, path)
        if len(list(path.parent.iterdir())) == 2:
            signal.raise_signal(sent)

    monkeypatch.setattr(files.pq, "write_table", interrupted)
    done = embed(folder)
    assert done.code == code and "Traceback" not in done.err
    assert done.err.endswith("interrupted\n") == (sent == signal.SIGINT)
    (part,) = (tmp_path / "out.parquet.parts").iterdir()
    assert not part.name.startswith(".tmp") and not (tmp_path / "out.parquet").exists()


def test_a_name_that_is_not_utf_8(embed, folder, tmp_path):
    for name in (b"\xff.wav", b"\xfe.wav"):
        shutil.copy(folder / "a.wav", os.fsencode(folder) + b"/" + name)
    with open(os.fsencode(folder) + b"/\xfe.wav", "wb") as file:
        file.write(b"no")
    done = embed(folder, "--json")
    assert done.code == 0, done.err
    clean = str(folder) + r"/\xff.wav"
    assert rows(tmp_path / "out.parquet")[-1]["id"] == rows(tmp_path / "out.parquet")[-1]["audio"] == clean
    assert [item["id"] for item in done.json["dropped"]] == [str(folder) + r"/\xfe.wav"]


def test_a_changed_clip_with_colons_in_its_name(embed, folder, tmp_path, monkeypatch, make_tone):
    shutil.move(folder / "a.wav", folder / "a::b.wav")
    monkeypatch.setattr(module, "PART", 1)
    embed(folder / "a::b.wav", "x", "--shard", "1/2")
    soundfile.write(folder / "a::b.wav", make_tone(0.9, 700), SAMPLE_RATE)
    assert embed(folder / "a::b.wav", "x").code == 0
    assert rows(tmp_path / "out.parquet")[0]["seconds"] == pytest.approx(0.9)


def test_a_file_of_vectors_is_no_manifest(embed, tmp_path):
    assert embed("a text").code == 0
    done = embed(tmp_path / "out.parquet", out="again.parquet")
    assert done.code == 1 and "out.parquet holds vectors, not clips or texts" in done.err


def test_settings_that_are_none(embed, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/speechde.json").write_text("[1]", "utf-8")
    done = embed("a", "--model", tmp_path / "m")
    assert done.code == 1 and "speechde.json is damaged" in done.err
