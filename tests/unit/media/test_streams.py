"""What is decoded decides: files that are cut short, joined, damaged, or whose headers promise something else."""

from __future__ import annotations

import io
import random
import resource
import struct

import numpy as np
import pytest
import soundfile

from speechde.media import audio
from speechde.media.audio import REASONS, AudioError, check_waveform, duration, load_audio
from speechde.media.streams import split_streams
from speechde.types import SAMPLE_RATE

SECONDS = 1.5
SIZED = ["WAV", "WAVEX", "RIFX", "AIFF", "AU", "W64", "RF64", "CAF", "NIST", "SVX"]
COMPRESSED = ["FLAC", "OGG", "OPUS", "MP3"]


def speech_like(seconds=SECONDS, rate=SAMPLE_RATE):
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 300 * time) + 0.03 * rng.standard_normal(len(time))).astype(np.float32)


def encoded(kind, seconds=SECONDS, rate=SAMPLE_RATE, **options):
    options |= {"RIFX": {"endian": "BIG"}, "OPUS": {"subtype": "OPUS"}}.get(kind, {})
    buffer = io.BytesIO()
    kind = {"RIFX": "WAV", "OPUS": "OGG"}.get(kind, kind)
    soundfile.write(buffer, speech_like(seconds, rate), rate, format=kind, **options)
    return buffer.getvalue()


def without_xing(data):
    """An MP3 without the frame that states its length."""
    assert data[13:17] in (b"Xing", b"Info")  # behind the header and the side information of a mono frame at 16 kHz
    return data[data.index(data[:2], 2) :]


def of_unknown_length(flac):
    """The FLAC with 0 in the 36 bits of STREAMINFO that state the number of samples."""
    out = bytearray(flac)
    out[21] &= 0xF0
    out[22:26] = bytes(4)
    return bytes(out)


def refused(data, reason="unreadable"):
    with pytest.raises(AudioError) as caught:
        load_audio(data)
    assert caught.value.reason == reason, caught.value
    return str(caught.value)


def seconds_of(data):
    return len(load_audio(data)) / SAMPLE_RATE


@pytest.mark.parametrize("kind", SIZED + COMPRESSED)
def test_a_whole_file_is_read_and_half_of_it_is_not(kind):
    data = encoded(kind)
    assert seconds_of(data) == pytest.approx(SECONDS, abs=1e-3)
    for share in (0.5, 0.9, 0.99):
        refused(data[: int(share * len(data))])


@pytest.mark.parametrize(("kind", "at", "order"), [("WAV", 40, "little"), ("AU", 8, "big"), ("RF64", 28, "little")])
def test_samples_beyond_those_that_the_header_states_are_damage(kind, at, order):
    data = bytearray(encoded(kind))
    width = 8 if kind == "RF64" else 4
    stated = int.from_bytes(data[at : at + width], order)
    assert stated == 2 * SECONDS * SAMPLE_RATE
    data[at : at + width] = (stated // 3).to_bytes(width, order)
    assert "is damaged" in refused(bytes(data))


def test_chunks_behind_the_samples_are_no_damage():
    for odd in (b"", b"\0"):  # a writer may leave out the byte that makes a size even
        data = encoded("WAV", subtype="PCM_U8")[:-1]
        data = data[:40] + (len(data) - 44).to_bytes(4, "little") + data[44:] + odd + b"LIST" + bytes([4, 0, 0, 0]) * 2
        assert len(load_audio(data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:])) == SECONDS * SAMPLE_RATE - 1


@pytest.mark.parametrize("kind", ["VOC", "PVF", "IRCAM", "MAT5"])
def test_formats_whose_end_nobody_states_are_not_read(kind):
    assert "allowed: WAV" in refused(encoded(kind))


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
def test_mp3_without_a_xing_header_is_read_to_its_end(mode, tmp_path):
    data = without_xing(encoded("MP3", 4.0, bitrate_mode=mode, compression_level=0.5))
    assert seconds_of(data) == pytest.approx(4.0, abs=0.08)  # with the encoder's padding
    (tmp_path / "a.mp3").write_bytes(data)
    assert duration(str(tmp_path / "a.mp3")) == pytest.approx(seconds_of(data), abs=1e-3)


def test_mp3_without_a_xing_header_that_ends_within_a_frame_is_cut_short():
    assert "last frame is not whole" in refused(without_xing(encoded("MP3"))[:-10])


def test_mp3_with_a_xing_header_that_promises_too_little_is_read_to_its_end():
    data = bytearray(encoded("MP3", 4.0))
    data[21:25] = (20).to_bytes(4, "big")  # frames: behind the mark and the flags
    assert seconds_of(bytes(data)) == pytest.approx(4.0, abs=0.08)


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), bytes(500), b"APETAGEX" + bytes(60)])
def test_tags_and_padding_around_an_mp3_are_no_damage(tail):
    data = encoded("MP3")
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 1, 0]) + bytes(128)
    np.testing.assert_array_equal(load_audio(tag + data + tail), load_audio(data))


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "FLAC", "OGG", "OPUS", "MP3"])
def test_joined_files_are_read_to_their_end(kind):
    first, second = encoded(kind, 1.0), encoded(kind, 2.0, 48_000 if kind == "OPUS" else 24_000)
    joined = load_audio(first + second)
    np.testing.assert_array_equal(joined, np.concatenate([load_audio(first), load_audio(second)]))
    assert len(joined) == pytest.approx(3 * SAMPLE_RATE, abs=2)
    refused(first + second[: len(second) // 2])


def test_joined_mp3_without_xing_headers():
    part = without_xing(encoded("MP3", 1.0))
    assert seconds_of(part + b"TAG" + bytes(125) + part) == pytest.approx(2 * seconds_of(part), abs=1e-3)


def test_lost_pages_and_frames_are_damage():
    ogg = encoded("OGG", 20.0)
    pages = [at for at in range(len(ogg)) if ogg.startswith(b"OggS", at)]
    assert "pages before" in refused(ogg[: pages[-2]] + ogg[pages[-1] :])
    changed = bytearray(ogg)
    changed[(pages[-2] + pages[-1]) // 2] ^= 1
    assert "checksum" in refused(bytes(changed))
    mp3 = encoded("MP3", 4.0)
    refused(mp3[:4000] + bytes(500) + mp3[4500:])


@pytest.mark.parametrize("kind", COMPRESSED)
def test_blocks_are_joined_without_a_seam(kind, monkeypatch):
    data = encoded(kind, 4.0)
    whole = load_audio(data)
    monkeypatch.setattr(audio, "_BLOCK", 1000)
    np.testing.assert_array_equal(load_audio(data), whole)


def test_flac_of_unknown_length(tmp_path):
    data = of_unknown_length(encoded("FLAC", 20.0))
    assert seconds_of(data) == 20.0
    (tmp_path / "a.flac").write_bytes(data)
    assert duration(str(tmp_path / "a.flac")) == 20.0
    refused(data[: len(data) // 2])


@pytest.mark.parametrize("rate", [11_127, 47_999, 96_001])
def test_odd_rates_cost_what_others_do(rate):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    waveform = load_audio(encoded("WAV", 2.0, rate, subtype="FLOAT"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; it was 3.6 GB and more
    assert len(waveform) == 2 * SAMPLE_RATE
    expected = 0.3 * np.sin(2 * np.pi * 300 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
    assert np.abs(waveform - expected)[500:-500].max() < 0.2
    peak = np.abs(np.fft.rfft(waveform)).argmax() / 2
    assert peak == 300


@pytest.mark.parametrize("rate", [7, 14_527_556])
def test_an_impossible_rate_is_refused(rate, tmp_path):
    data = bytearray(encoded("WAV"))
    data[24:28] = struct.pack("<I", rate)
    assert f"{rate} Hz is not possible" in refused(bytes(data))
    (tmp_path / "a.wav").write_bytes(data)
    assert duration(str(tmp_path / "a.wav")) is None


def test_no_more_is_decoded_than_asked_for():
    hour = encoded_silence(3600)
    assert len(hour) < 2**21
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AudioError, match="more than 240 s") as caught:
        load_audio(hour, 240)
    assert caught.value.reason == "too long"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100_000  # kB, of 230 MB


def encoded_silence(seconds):
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        for _ in range(seconds // 60):
            file.write(np.zeros(60 * SAMPLE_RATE, np.int16))
    return buffer.getvalue()


def test_a_float_file_in_the_range_of_16_bit_integers_is_refused():
    buffer = io.BytesIO()
    soundfile.write(buffer, 32_768 * speech_like(), SAMPLE_RATE, format="WAV", subtype="FLOAT")
    assert "divide" in refused(buffer.getvalue(), "out of range")
    buffer = io.BytesIO()
    soundfile.write(buffer, 4 * speech_like(), SAMPLE_RATE, format="WAV", subtype="FLOAT")  # overshoot
    assert np.abs(load_audio(buffer.getvalue())).max() > 1


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "FLAC", "OGG", "MP3"])
def test_a_mutated_file_is_read_or_refused_and_nothing_reaches_the_screen(kind, capfd):
    data, rng = encoded(kind), random.Random(0)
    read = 0
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 3, 10))):
            changed[rng.randrange(rng.choice((64, len(data))))] = rng.randrange(256)
        try:
            check_waveform(load_audio(bytes(changed), 240))
            read += 1
        except AudioError as error:
            assert error.reason in REASONS
    assert read < 60 and (read or kind == "OGG")  # where a checksum is on all bytes
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_streams_are_the_files_that_were_joined():
    parts = [encoded("OGG", 1.0), encoded("OGG", 2.0)]
    assert split_streams(b"".join(parts)) == parts
