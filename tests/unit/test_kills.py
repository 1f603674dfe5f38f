"""Encoding that is killed again and again, each time after a little work, comes to an end, and to the same bits."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from speechde import SpeechTextEncoder
from speechde.features import frames as features
from speechde.features import pieces
from speechde.features.encoders import WhisperFrames
from speechde.features.frames import extract_frames
from speechde.search import embed
from speechde.search.items import Item
from speechde.search.vectors import read_vectors
from speechde.types import SAMPLE_RATE, Utterance

KILLS = 5


@pytest.fixture
def clips(tmp_path, make_tone):
    out = []
    for n in range(24):
        path = tmp_path / f"{n:02d}.wav"
        soundfile.write(path, make_tone(0.2 + n % 5 / 10, 100.0 + 20 * n, n), SAMPLE_RATE)
        out.append(Utterance(path.stem, "fr_fr", "x", str(path), "x", "train"))
    return out


def killed(work, after: int, owner, name: str) -> None:
    """``work()`` in a process that kills itself when ``owner.name`` is called for the ``after``-th time."""
    if not (child := os.fork()):
        signal.alarm(60)
        real, calls = getattr(owner, name), []

        def count(*arguments, **options):
            calls.append(1)
            if len(calls) == after:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(owner, name, count)
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_frames(clips, tiny_whisper, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CHUNK_SECONDS", 1.0)  # seven chunks of a piece
    encoder, sizes = WhisperFrames(tiny_whisper), []
    for _ in range(KILLS):
        killed(lambda: extract_frames(clips, encoder, tmp_path / "cut", rate=50.0), 2, WhisperFrames, "encode")
        sizes.append(len(list((tmp_path / "cut/frames").glob("[!.]*"))))
    assert sizes == [1, 2, 3, 4, 5]
    encoded = []
    with monkeypatch.context() as patched:
        real = WhisperFrames.encode
        patched.setattr(WhisperFrames, "encode", lambda self, given: encoded.extend(given) or real(self, given))
        cut = extract_frames(clips, encoder, tmp_path / "cut", rate=50.0)
    whole = extract_frames(clips, encoder, tmp_path / "whole", rate=50.0)
    assert 0 < len(encoded) < len(clips) / 2 and cut.key == whole.key
    for clip in clips:
        np.testing.assert_array_equal(cut[clip.id], whole[clip.id])


def test_batches_of_a_slow_encoder(clips, tiny_whisper, tmp_path, monkeypatch):
    """One chunk, killed at each second batch: what took a while is kept within it."""
    monkeypatch.setattr(pieces, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(features, "BATCH_SECONDS", 2.0)
    clips.insert(3, replace(clips[0], id="gone", audio=str(tmp_path / "gone.wav")))
    encoder = WhisperFrames(tiny_whisper)

    def work(name="cut"):
        return extract_frames(clips, encoder, tmp_path / name, rate=50.0)

    for kill in range(KILLS):
        killed(work, 2, WhisperFrames, "encode")
        assert len(list((tmp_path / "cut/frames").glob("[!.]*"))) == kill + 1
    encoded = []
    with monkeypatch.context() as patched:
        real = WhisperFrames.encode
        patched.setattr(WhisperFrames, "encode", lambda self, given: encoded.extend(given) or real(self, given))
        cut = work()
    whole = work("whole")
    assert 0 < len(encoded) < len(clips) / 2 and cut.key == whole.key and cut.ids == whole.ids
    assert [dropped.id for dropped in cut.dropped] == ["gone"] and len(list((tmp_path / "cut/frames").iterdir())) == 1
    for id_ in cut.ids:
        np.testing.assert_array_equal(cut[id_], whole[id_])


def test_vectors(clips, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "BLOCK_SECONDS", 1.0)
    encoder = SpeechTextEncoder.from_pretrained(tiny_model("continuous"))
    items = [Item(clip.id, "fr_fr", None, clip.audio) for clip in clips]
    encoder.encode_speech(clips[0].audio)  # loads the speech encoder, which no child should do again

    def work(name="cut"):
        return embed.embed_items(encoder, items, tmp_path / f"{name}.parquet", model="m")

    for kill in range(KILLS):
        killed(work, 2, embed, "_write")
        assert len(list((tmp_path / "cut.parquet.parts").glob("[!.]*"))) == kill + 1
    report = work()
    assert report.vectors == len(clips) and len(clips) / 2 < report.reused < len(clips)
    work("whole")
    cut, whole = (read_vectors([tmp_path / f"{name}.parquet"]) for name in ("cut", "whole"))
    np.testing.assert_array_equal(cut.vectors, whole.vectors)
    assert cut.rows.equals(whole.rows) and not (tmp_path / "cut.parquet.parts").exists()
