import json
from dataclasses import replace

import pytest
import soundfile

from speechde.corpora.statistics import corpus_statistics, durations, format_statistics
from speechde.types import Corpus, Dropped, Utterance


@pytest.fixture
def corpus():
    rows = [
        ("a", "fr_fr", "un ours", "train", False),
        ("b", "fr_fr", "un ours", "train", True),
        ("c", "fr_fr", "un loup", "test", False),
        ("d", "ro_ro", "un urs", "test", False),
    ]
    utterances = [
        Utterance(id=i, lang=lang, text=text, audio="", sentence_id=text, split=split, synthetic=synthetic)
        for i, lang, text, split, synthetic in rows
    ]
    dropped = [Dropped("x", "missing file"), Dropped("y", "missing file"), Dropped("z", "duplicate id")]
    return Corpus("mini", utterances, ("fr_fr",), ("ro_ro",), dropped, "CC0")


def test_counts(corpus):
    stats = corpus_statistics(corpus)
    train = {"clips": 2, "sentences": 1, "transcripts": 1, "duplicates": 1, "synthetic": 1, "hours": None}
    assert stats["languages"]["fr_fr"]["train"] == train
    assert stats["languages"]["fr_fr"]["role"] == "seen"
    assert stats["languages"]["ro_ro"]["role"] == "zero_shot"
    assert stats["splits"]["test"]["clips"] == 2
    total = {"clips": 4, "sentences": 3, "transcripts": 3, "duplicates": 1, "synthetic": 1, "hours": None}
    assert stats["total"] == total
    assert stats["dropped"] == {"missing file": 2, "duplicate id": 1}
    assert stats["noted"] == {}
    assert json.loads(json.dumps(stats)) == stats


def test_notes_are_not_losses(corpus):
    corpus.noted = [Dropped("a", "no translation")]
    corpus.zero_shot, corpus.proxy = (), ("ro_ro",)
    stats = corpus_statistics(corpus)
    assert stats["dropped"] == {"missing file": 2, "duplicate id": 1} and stats["noted"] == {"no translation": 1}
    assert stats["languages"]["ro_ro"]["role"] == "proxy"
    *_, dropped, noted = format_statistics(stats).splitlines()
    assert dropped == "dropped: missing file: 2, duplicate id: 1" and noted == "used, but noted: no translation: 1"


def test_hours_only_where_every_duration_is_known(corpus):
    stats = corpus_statistics(corpus, {"a": 1800.0, "b": 1800.0, "d": 3600.0})
    assert stats["languages"]["fr_fr"]["train"]["hours"] == 1.0
    assert stats["languages"]["fr_fr"]["test"]["hours"] is None
    assert stats["languages"]["ro_ro"]["test"]["hours"] == 1.0
    assert stats["total"]["hours"] is None


def test_table_shows_counts_and_losses(corpus):
    seconds = dict.fromkeys("abcd", 900.0)
    lines = format_statistics(corpus_statistics(corpus, seconds)).splitlines()
    assert lines[0] == "mini (licence CC0)"
    rows = [line.split() for line in lines]
    assert ["fr_fr", "seen", "train", "2", "1", "1", "1", "1", "0.50"] in rows
    assert ["all", "all", "4", "3", "3", "1", "1", "1.00"] in rows
    assert not any(row[:1] == ["ro_ro"] and "train" in row for row in rows)
    assert lines[-1] == "dropped: missing file: 2, duplicate id: 1"


def test_durations_are_those_of_the_headers(corpus, make_wav, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"not audio")
    audio = {"a": make_wav("a.wav", 0.5), "b": make_wav("b.wav", 1.25), "c": tmp_path / "bad.wav", "d": "none.wav"}
    found = durations(replace(u, audio=str(audio[u.id])) for u in corpus.utterances)
    assert found == {"a": 0.5, "b": 1.25}


def test_the_length_of_a_clip_is_what_can_be_decoded(corpus, make_wav, tmp_path):
    samples, rate = soundfile.read(make_wav("a.wav", 1.5))
    names = dict(zip("abcd", ("unknown.flac", "joined.ogg", "bare.mp3", "rate.wav"), strict=True))
    for name in names.values():
        soundfile.write(tmp_path / name, samples, rate)
    flac, ogg, mp3, wav = (bytearray((tmp_path / name).read_bytes()) for name in names.values())
    flac[21] &= 0xF0  # the number of samples: unknown, which libsndfile calls 2^63 - 1
    flac[22:26] = bytes(4)
    wav[24:28] = (14_527_556).to_bytes(4, "little")  # the sampling rate
    bare = mp3[mp3.index(mp3[:2], 2) :]  # without the frame that states its length
    for name, data in zip(names.values(), (flac, ogg + ogg, bare, wav), strict=True):
        (tmp_path / name).write_bytes(data)
    found = durations(replace(u, audio=str(tmp_path / names[u.id])) for u in corpus.utterances)
    assert found == {"a": 1.5, "b": 3.0, "c": pytest.approx(1.5, abs=0.08)}


def test_empty_corpus():
    stats = corpus_statistics(Corpus("none", [], ("fr_fr",)))
    assert stats["total"]["clips"] == 0
    assert format_statistics(stats).endswith("dropped: nothing")
