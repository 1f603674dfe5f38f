"""Whisper transcripts: independent of what shares a batch, whole clips, cached, resumed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from speechde.conditions import parse
from speechde.errors import AssetError
from speechde.evaluation import transcripts
from speechde.evaluation.transcripts import Transcriber, transcribe_clips
from speechde.media.audio import load_audio
from speechde.media.degradations import degrade
from speechde.types import Utterance


@pytest.fixture(scope="module")
def transcriber(tiny_asr):
    return Transcriber(tiny_asr, torch.float32)


@pytest.fixture
def spoken(make_wav):
    """Six French clips of different lengths and their seconds."""
    lengths = {f"fr{i}": 0.2 + 0.05 * i for i in range(6)}
    paths = {id_: make_wav(f"{id_}.wav", seconds, 110 * (i + 1), i) for i, (id_, seconds) in enumerate(lengths.items())}
    return [Utterance(id_, "fr_fr", id_, str(path), id_, "test") for id_, path in paths.items()], lengths


def test_a_batch_changes_nothing(transcriber, make_tone):
    clips = [make_tone(0.2 + 0.1 * i, 110 * (i + 1), i) for i in range(4)]
    together = transcriber.transcribe(clips, "ro_ro")
    assert len(set(together)) > 1, "the model says the same of every clip"
    alone = [transcriber.transcribe([clip], "ro_ro")[0] for clip in clips]
    assert together == alone


def test_the_language_is_given_where_whisper_has_it(transcriber, make_tone):
    assert [transcriber.language(lang) for lang in ("fr_fr", "ro_ro", "wo_sn", "cmn_hans_cn")] == [
        "<|fr|>", "<|ro|>", None, None]  # fmt: skip
    clip = make_tone(0.5)
    assert len({transcriber.transcribe([clip], lang)[0] for lang in ("fr_fr", "ro_ro")}) == 2
    assert transcriber.transcribe([clip], "wo_sn")[0] in {
        transcriber.transcribe([clip], lang)[0] for lang in ("fr_fr", "ro_ro")
    }


def test_a_clip_beyond_the_window_is_read_to_its_end(transcriber, make_tone):
    assert transcriber.window == 30 * 2 * 160
    clip = make_tone(1.0, 300)
    parts = [clip[: transcriber.window], clip[transcriber.window :]]
    expected = [transcriber._windows([part], "<|fr|>")[0] for part in parts]
    assert transcriber.transcribe([clip, parts[0]], "fr_fr") == [" ".join(expected), expected[0]]


def test_transcripts_are_cached_and_a_stopped_run_goes_on(transcriber, spoken, tmp_path, monkeypatch):
    utterances, lengths = spoken
    monkeypatch.setattr(transcripts, "BATCH", 2)
    seen = []
    original = transcriber.transcribe

    def count(waveforms, lang):
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.extend(waveforms)
        return original(waveforms, lang)

    monkeypatch.setattr(transcriber, "transcribe", count)
    with pytest.raises(KeyboardInterrupt):
        transcribe_clips(utterances, lengths, transcriber, tmp_path)
    (path,) = (tmp_path / "transcripts").glob("*/fr_fr.json")
    assert len(json.loads(path.read_text())) == 4
    monkeypatch.setattr(transcriber, "transcribe", original)
    done = transcribe_clips(utterances, lengths, transcriber, tmp_path)
    assert done.seconds > 0 and done.detected == []
    monkeypatch.setattr(transcriber, "transcribe", None)
    assert transcribe_clips(utterances, lengths, transcriber, tmp_path).texts == done.texts
    assert done.texts == {u.id: original([load_audio(u.audio)], "fr_fr")[0] for u in utterances}


def test_a_clip_that_changed_is_heard_again(transcriber, spoken, make_wav, tmp_path):
    utterances, lengths = spoken
    transcribe_clips(utterances, lengths, transcriber, tmp_path)
    make_wav("fr0.wav", 0.4, 900)
    transcribe_clips(utterances, lengths, transcriber, tmp_path)
    (path,) = (tmp_path / "transcripts").glob("*/fr_fr.json")
    assert len(json.loads(path.read_text())) == len(utterances) + 1


def test_transcripts_under_a_condition_are_of_what_is_heard_and_kept_apart(transcriber, spoken, tmp_path, monkeypatch):
    utterances, lengths = spoken
    clean = transcribe_clips(utterances, lengths, transcriber, tmp_path).texts
    noisy = transcribe_clips(utterances, lengths, transcriber, tmp_path, parse("snr0")).texts
    assert noisy != clean and len(list((tmp_path / "transcripts").glob("*/fr_fr.json"))) == 2
    for u in utterances:
        waveform = degrade(load_audio(u.audio), parse("snr0"), u.id)
        assert noisy[u.id] == transcriber.transcribe([waveform], "fr_fr")[0]
    renamed = [replace(u, id=f"{u.id}-b") for u in utterances[:1]]  # noise is of the id: other noise, another name
    transcribe_clips(renamed, {u.id: 1.0 for u in renamed}, transcriber, tmp_path, parse("snr0"))
    monkeypatch.setattr(transcriber, "transcribe", None)
    assert transcribe_clips(utterances, lengths, transcriber, tmp_path, parse("snr0")).texts == noisy
    assert transcribe_clips(utterances, lengths, transcriber, tmp_path).texts == clean
    sizes = [len(json.loads(path.read_text())) for path in (tmp_path / "transcripts").glob("*/fr_fr.json")]
    assert sorted(sizes) == [len(utterances), len(utterances) + 1]


def test_an_encoder_alone_cannot_transcribe(tiny_whisper):
    with pytest.raises(AssetError, match="whole Whisper model"):
        Transcriber(tiny_whisper)
