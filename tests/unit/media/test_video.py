"""Films made here, a grey level a second, become pictures with their times and their sound."""

from __future__ import annotations

import io
import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from speechde.errors import AssetError, ConfigError
from speechde.media import video
from speechde.media.video import MAX_FRAMES, VideoError, as_pictures, read_frames, read_sound, time_stamp, upright
from speechde.types import SAMPLE_RATE, Image, Item, Text, Video

av = pytest.importorskip("av")

SHAPE = (48, 64)


def level(second):
    return 20 + 7 * (int(second) % 30)


def film(path, seconds, rate=4, codec="libx264", sound=False, gop=None):
    """A film of one grey level a second, and with ``sound`` a tone of 440 Hz."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *SHAPE, "yuv420p"
        stream.gop_size = gop or 2 * rate
        if sound:
            track = container.add_stream("aac", rate=44_100, layout="mono")
        for number in range(round(seconds * rate)):
            grey = np.full((*SHAPE, 3), level(number / rate), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * 44_100)) / 44_100)
            for start in range(0, len(wave), 1024):
                block = av.AudioFrame.from_ndarray(wave[None, start : start + 1024].astype(np.float32), "fltp", "mono")
                block.sample_rate, block.pts, block.time_base = 44_100, start, Fraction(1, 44_100)
                container.mux(track.encode(block))
            container.mux(track.encode(None))
    return path


def reason(content, read=read_frames):
    with pytest.raises(VideoError) as caught:
        read(content)
    assert caught.value.reason in video.REASONS
    return caught.value.reason


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx")]
)
def test_a_frame_a_second(tmp_path, suffix, codec):
    found = read_frames(film(tmp_path / f"a.{suffix}", 5.5, codec=codec))
    assert [at for at, _ in found] == [0, 1, 2, 3, 4, 5]
    for at, frame in found:
        assert frame.shape == (*SHAPE, 3) and frame.dtype == np.uint8
        assert np.abs(frame.astype(int) - level(at)).max() < 6


def test_a_film_of_ten_minutes_has_32_frames_spread_evenly(tmp_path):
    found = read_frames(film(tmp_path / "long.mp4", 600, rate=2))
    assert len(found) == MAX_FRAMES and np.allclose(np.diff([at for at, _ in found]), 600 / MAX_FRAMES)
    for at, frame in found:
        first = np.ceil(at * 2) / 2  # the first frame at or after it
        assert np.abs(frame.astype(int) - level(first)).max() < 6


@pytest.mark.parametrize("gop", [1, 7, 1000])
def test_looking_for_key_frames_gives_what_decoding_everything_does(tmp_path, monkeypatch, gop):
    path = film(tmp_path / "a.mkv", 90, rate=5, gop=gop)
    found = read_frames(path)
    packets = video._packets
    monkeypatch.setattr(video, "_packets", lambda *given: (*packets(*given)[:2], []))
    every = read_frames(path)
    assert [at for at, _ in found] == [at for at, _ in every]
    for (_, one), (_, other) in zip(found, every, strict=True):
        assert np.array_equal(one, other)


def test_an_item_of_parts(tmp_path):
    path = film(tmp_path / "a.mp4", 2.5, sound=True)
    item = Item(Text("what happens?"), Video(path), id="7", lang="ro_ro", meaning="m", title="t")
    seen = as_pictures(item)
    assert seen.make_up == ("text", *("text", "image") * 3)
    assert [part.content for part in seen.parts if isinstance(part, Text)] == ["what happens?", "0:00", "0:01", "0:02"]
    assert (seen.id, seen.lang, seen.meaning, seen.title) == ("7", "ro_ro", "m", "t")
    assert all(part.content.shape == (*SHAPE, 3) for part in seen.parts if isinstance(part, Image))
    heard = as_pictures(item, sound=True)
    assert heard.make_up == (*seen.make_up, "speech") and heard.parts[-1].sampling_rate == SAMPLE_RATE
    wave = heard.parts[-1].content
    assert wave.dtype == np.float32 and abs(len(wave) / SAMPLE_RATE - 2.5) < 0.1
    spectrum = np.abs(np.fft.rfft(wave[: SAMPLE_RATE * 2]))
    assert abs(spectrum.argmax() / 2 - 440) < 2
    assert [at for at, _ in read_frames(path, 2)] == [0, 1.25] and len(as_pictures(item, frames=1).parts) == 3
    with pytest.raises(ConfigError, match="frames=0: a film has at least 1"):
        as_pictures(item, frames=0)
    without = Item(Text("a"))
    assert as_pictures(without).parts == without.parts


def test_every_kind_of_source(tmp_path):
    path = film(tmp_path / "a.mp4", 1.5)
    data = path.read_bytes()
    first = read_frames(str(path))
    for source in (path, data, io.BytesIO(data)):
        assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(read_frames(source), first, strict=True))
    wrong = path.rename(tmp_path / "a.txt")
    assert len(read_frames(wrong)) == len(first)  # the content decides


def test_what_is_no_film(tmp_path):
    assert reason(tmp_path / "none.mp4") == "missing file"
    assert reason(b"") == "empty"
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert reason(tmp_path / "empty.mp4") == "empty"
    assert reason(b"no film at all" * 50) == "unreadable"
    assert reason(str(tmp_path)) == "unreadable"
    listing = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{film(tmp_path / 'b.ts', 1)}\n#EXT-X-ENDLIST\n"
    assert reason(listing.encode()) == "unreadable"  # would open other files
    silent = film(tmp_path / "silent.mp4", 1)
    assert reason(silent, read_sound) == "no sound"


def test_sound_alone_is_no_film(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=16_000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.full((1, 1024), 0.1, np.float32), "fltp", "mono")
        block.sample_rate = 16_000
        container.mux(track.encode(block))
        container.mux(track.encode(None))
    assert reason(path) == "no picture"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_film_that_is_cut_short(tmp_path, suffix):
    path = film(tmp_path / f"a.{suffix}", 20, codec="mpeg4")
    data = path.read_bytes()
    for share in (0.01, 0.3, 0.6):
        assert reason(data[: int(len(data) * share)]) == "unreadable"


def test_random_damage_is_an_error_of_the_film_or_a_film(tmp_path):
    rng = np.random.default_rng(0)
    data = film(tmp_path / "a.mkv", 3).read_bytes()
    for _ in range(30):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 6):
            damaged[place] = rng.integers(256)
        try:
            assert read_frames(bytes(damaged))
        except VideoError as error:
            assert error.reason in video.REASONS


def test_frames_are_made_small_and_turned(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_SIDE", 32)
    assert read_frames(film(tmp_path / "a.mp4", 1))[0][1].shape == (24, 32, 3)
    corner = np.zeros((2, 3, 3), np.uint8)
    corner[0, 0] = 255
    assert upright(corner, -90).shape == (3, 2, 3) and upright(corner, -90)[0, 1].all()  # a telephone held upright
    assert upright(corner, 180)[1, 2].all() and np.array_equal(upright(corner, 0), corner)
    monkeypatch.setattr(video, "MAX_PIXELS", 1000)
    assert reason(tmp_path / "a.mp4") == "too large"
    monkeypatch.setattr(video, "MAX_SECONDS", 0.5)
    monkeypatch.setattr(video, "MAX_PIXELS", 10_000)
    assert reason(tmp_path / "a.mp4") == "too long"


def test_time_stamps():
    assert [time_stamp(at) for at in (0, 3, 59.99, 60, 754.2, 3661)] == [
        "0:00",
        "0:03",
        "0:59",
        "1:00",
        "12:34",
        "1:01:01",
    ]


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AssetError, match=r"to read films: .*video"):
        read_frames(b"any")


def test_a_real_film():
    folder = os.environ.get("SPEECHDE_PUBLIC")
    path = Path(folder or "") / "video" / "flipping_a_pancake.mkv"
    if not folder or not path.is_file():
        pytest.skip("set SPEECHDE_PUBLIC to a folder with video/flipping_a_pancake.mkv")
    item = as_pictures(Item(Video(path)), sound=True)
    assert item.make_up == (*("text", "image") * 11, "speech")
    assert {part.content.shape for part in item.parts if isinstance(part, Image)} == {(240, 426, 3)}
    assert len(item.parts[-1].content) / SAMPLE_RATE == pytest.approx(10.4, abs=0.1)
