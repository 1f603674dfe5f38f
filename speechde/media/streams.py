"""The bytes of an audio file, checked for being whole and cut into the streams that libsndfile decodes to their end.

libsndfile believes headers. It returns what is left of a WAV, AIFF, AU, W64 or Ogg file that was cut short, stops after
the first of several joined files, and takes the length of an MP3 of variable rate from the rate of its first frame. A
clip that lost its end no longer matches its transcript, so the bytes themselves are walked here: the pages of Ogg (RFC
3533: every checksum and number, and an end-of-stream flag for each stream), the frames of MPEG audio (ISO 11172-3), and
the sizes that the other containers state. Formats that state no size at all are not read.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from speechde.errors import DataError

FORMATS = "WAV (also RIFX, RF64, W64), AIFF, AU, CAF, NIST SPHERE, FLAC, Ogg (Vorbis, Opus, FLAC) and MP3"
# RIFF writers that stream to a pipe leave a size at or near the 31- or 32-bit maximum, meaning "unknown".
_UNKNOWN = 0x7FFF_0000
_AU = (b".snd", b"dns.")  # either order of bytes
_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # the marker, and the header of the first metadata block
_NIST = {name: re.compile(rf"^{name} -i (\d+)", re.MULTILINE)
         for name in ("sample_count", "channel_count", "sample_n_bytes")}  # fmt: skip
_BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def split_streams(data: bytes) -> list[bytes]:
    """The streams of an audio file, one after another: nearly always one, several where files were joined.

    Raises:
        DataError: the file is cut short or damaged, or of none of ``FORMATS``; the message goes on from its name.
    """
    data = data[_id3_size(data) :]  # libsndfile passes over such a tag in any format
    for magic, split in _SPLITTERS.items():
        if data.startswith(magic):
            return split(data)
    if len(data) > 1 and data[0] == 0xFF and data[1] >= 0xE0:
        return _mpeg(data)
    raise DataError(f"is no audio file; allowed: {FORMATS}")


def is_compressed(head: bytes) -> bool:
    """Whether a file that begins with these 4 bytes has no header that states its whole length: Ogg and MP3."""
    return head[:4] == b"OggS" or head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0)


def _cut_short(detail: str) -> DataError:
    return DataError(f"is cut short ({detail}); fetch it again")


def _damaged(detail: str) -> DataError:
    return DataError(f"is damaged ({detail}); fetch it again")


def _id3_size(data: bytes, at: int = 0) -> int:
    """Bytes of the ID3v2 tag at a place, 0 where there is none."""
    if data[at : at + 3] != b"ID3" or len(data) < at + 10:
        return 0
    size = 0
    for byte in data[at + 6 : at + 10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if data[at + 5] & 0x10 else 0)


def _sized(data: bytes) -> list[bytes]:
    """Files whose header states how many bytes there are."""
    streams, start = [], 0
    while True:
        end = _stated_size(data[start:])
        # One byte of tolerance: some writers count the final padding byte without writing it.
        if end is not None and start + end > len(data) + 1:
            raise _cut_short(f"{len(data) - start} of {end} bytes")
        again = -1 if end is None else data.find(data[start : start + 4], start + end, start + end + 5)
        if again < 0:
            if data[:4] in _AU and end is not None and start + end + 1 < len(data):
                raise _damaged(f"{len(data) - start - end} bytes more than its header states")
            return [*streams, data[start:]]
        streams.append(data[start:again])
        start = again


def _stated_size(data: bytes) -> int | None:
    """How many bytes the header says that a file has, None where it does not know."""
    magic = data[:4]
    if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"):
        return _chunks_size(data, "big" if magic in (b"RIFX", b"FORM") else "little")
    if magic == b"riff":
        return int.from_bytes(data[16:24], "little")
    if magic == b"caff":
        return _caf_size(data)
    if magic in _AU:
        head, size = (int.from_bytes(data[at : at + 4], "big" if magic == b".snd" else "little") for at in (4, 8))
        return None if size >= _UNKNOWN else head + size
    if magic == b"NIST":
        head = data[:1024].decode("latin-1")
        found = [pattern.search(head) for pattern in _NIST.values()]
        if not all(found):
            raise _damaged("its header states no number of samples")
        samples, channels, width = (int(match[1]) for match in found)
        size = head.split("\n")[1].strip()
        return (int(size) if size.isdecimal() else 1024) + samples * channels * width
    return None


def _chunks_size(data: bytes, order: str) -> int | None:
    """Of a RIFF or IFF file: what it says of itself or of its samples, whichever is more."""
    whole, samples = int.from_bytes(data[4:8], order), None
    if data[12:16] == b"ds64":  # RF64: sizes of 64 bits, for those that the usual places cannot hold
        whole, samples = (int.from_bytes(data[at : at + 8], "little") for at in (20, 28))
    elif whole >= _UNKNOWN:
        whole = None
    size, at = None if whole is None else whole + 8, 12
    while at + 8 <= min(size or len(data), len(data)):
        at -= not _is_name(data[at : at + 4])  # some writers leave out the byte that makes sizes even
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], order)
        if not _is_name(name):
            if any(data[at + 1 : size]):
                raise _damaged(f"no chunk at byte {at + 1}")
            break
        if name in (b"data", b"SSND", b"BODY"):
            length = samples if samples is not None and length >= _UNKNOWN else length
            if length >= _UNKNOWN and samples is None:
                break
            size = max(size or 0, at + 8 + length)
        at += 8 + length + length % 2
    return size or None


def _is_name(chunk: bytes) -> bool:
    return chunk.isascii() and chunk.decode().isprintable()


def _caf_size(data: bytes) -> int | None:
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 12], "big", signed=True)
        if length < 0:  # unknown, which the samples may be
            return None
        at += 12 + length
    return at


def _flac(data: bytes) -> list[bytes]:
    starts = [match.start() for match in _FLAC.finditer(data)] or [0]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def _ogg(data: bytes) -> list[bytes]:
    starts: list[int] = []
    open_streams: dict[bytes, int] = {}  # serial number → number of the next page
    at, opening = 0, False
    while data[at : at + 4] == b"OggS":
        head = data[at : at + 27]
        table = data[at + 27 : at + 27 + head[26]] if len(head) == 27 else b""
        end = at + 27 + len(table) + sum(table)
        if len(head) < 27 or len(table) < head[26] or end > len(data):
            raise _cut_short("its last page is not whole")
        if int.from_bytes(head[22:26], "little") != _ogg_checksum(data[at : at + 22] + bytes(4) + data[at + 26 : end]):
            raise _damaged(f"the checksum of the page at byte {at} is wrong")
        serial, number = head[14:18], int.from_bytes(head[18:22], "little")
        if head[5] & 2:  # the first page of a stream
            if not opening:
                if open_streams:
                    raise _cut_short(f"the stream before byte {at} has no end")
                starts.append(at)
        elif open_streams.get(serial) != number:
            raise _damaged(f"pages before byte {at} are missing")
        opening = bool(head[5] & 2)
        open_streams[serial] = number + 1
        if head[5] & 4:  # the last page of it
            del open_streams[serial]
        at = end
    if open_streams:
        raise _cut_short("a stream has no end") if data.find(b"OggS", at) < 0 else _damaged(f"no page at byte {at}")
    if data.find(b"OggS", at) >= 0:
        raise _damaged(f"no page at byte {at}")
    return [data[a:b] for a, b in zip(starts, [*starts[1:], at], strict=True)]


def _ogg_checksum(page: bytes) -> int:
    # zlib has the same polynomial with the bits of each byte the other way round, and other ends.
    reversed_ = zlib.crc32(page.translate(_BITS_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int.from_bytes(reversed_.to_bytes(4, "little").translate(_BITS_REVERSED), "big")


_SPLITTERS: dict[bytes, Callable[[bytes], list[bytes]]] = {
    b"OggS": _ogg,
    b"fLaC": _flac,
    **dict.fromkeys((b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", *_AU, b"NIST", b"caff"), _sized),
}

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # by version
_KBITS = {  # by (version 1, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    **dict.fromkeys(((False, 2), (False, 3)), (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)),
}
_XING = (b"Xing", b"Info")
_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")
_INFO_KBITS = 9 << 12  # of the frame that states a length: 128 kbit/s, or 80 below 32 kHz; either has room for it


@dataclass(frozen=True)
class _Frame:
    """A frame of MPEG audio; ``kind`` is what does not change within a stream: version, layer, rate, mono or not."""

    word: int
    kind: tuple[int, int, int, bool]
    size: int  # bytes

    @classmethod
    def at(cls, data: bytes, place: int) -> _Frame | None:
        """The frame whose header is at ``place``, None where there is no such header."""
        word = int.from_bytes(data[place : place + 4], "big")
        version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
        kbits, rate = word >> 12 & 15, word >> 10 & 3
        if word >> 21 != 0x7FF or version == 1 or layer == 4 or kbits in (0, 15) or rate == 3:
            return None
        kind = (version, layer, _RATES[version][rate], word >> 6 & 3 == 3)
        bits, padding = 1000 * _KBITS[version == 3, layer][kbits], word >> 9 & 1
        if layer == 1:
            size = (12 * bits // kind[2] + padding) * 4
        else:
            size = (72 if layer == 3 and version != 3 else 144) * bits // kind[2] + padding
        return cls(word, kind, size)

    @property
    def info(self) -> int:
        """Where in the frame a statement of length would be: behind the side information."""
        version, _, _, mono = self.kind
        return 4 + ((17 if mono else 32) if version == 3 else (9 if mono else 17))


def _mpeg(data: bytes) -> list[bytes]:
    """Streams that each state their true number of frames, so that the decoder need not guess it."""
    return [_with_length(data, *stream) for stream in _mpeg_streams(data)]


def _mpeg_streams(data: bytes) -> Iterator[tuple[int, int, int, int | None]]:
    """``(start, end, frames, frames that it states or None)``; the frame that states them is not among them."""
    start, frames, stated, kind, at = 0, 0, None, None, 0
    found = False
    while at < len(data):
        frame = _Frame.at(data, at)
        if frame is None:
            tag = _tag_size(data, at)
            if not tag and _next_frame(data, at) is not None:
                raise _damaged(f"no frame at byte {at}")
            if not tag:
                break  # what follows the last frame, such as zeros
            if frames:
                yield start, at, frames, stated
            at, start, frames, stated, kind = at + tag, at + tag, 0, None, None
            continue
        if at + frame.size > len(data):
            raise _cut_short("its last frame is not whole")
        length, found = _stated_frames(data, at, frame), True
        if kind != frame.kind or length is not None:
            if frames:
                yield start, at, frames, stated
            start, frames, stated, kind = at, 0, length, frame.kind
        frames += length is None
        at += frame.size
    if frames:
        yield start, at, frames, stated
    elif not found:
        raise DataError(f"is no audio file; allowed: {FORMATS}")
    elif stated:
        raise _cut_short(f"0 of {stated} frames")


def _tag_size(data: bytes, at: int) -> int:
    """Bytes of the tag at a place: up to the next frame, or to the end; 0 where none is."""
    if not data.startswith(_TAGS, at):
        return 0
    following = _next_frame(data, at + max(1, _id3_size(data, at)))
    return (len(data) if following is None else following) - at


def _next_frame(data: bytes, at: int) -> int | None:
    """Where three frames of one kind follow each other, or the last ones of the file: no chance among other bytes."""
    while (at := data.find(b"\xff", at)) >= 0:
        place, kinds = at, set()
        for _ in range(3):
            frame = _Frame.at(data, place)
            if frame is None:
                break
            kinds.add(frame.kind)
            place += frame.size
        else:
            if len(kinds) == 1:
                return at
        at += 1
    return None


def _stated_frames(data: bytes, at: int, frame: _Frame) -> int | None:
    """What a frame without sound says of its stream: the number of frames, 0 unknown. None: an ordinary frame."""
    if frame.kind[1] != 3:
        return None
    place = at + frame.info
    if data[place : place + 4] in _XING:
        known = int.from_bytes(data[place + 4 : place + 8], "big") & 1
        return int.from_bytes(data[place + 8 : place + 12], "big") if known else 0
    if data[at + 36 : at + 40] == b"VBRI":
        return int.from_bytes(data[at + 50 : at + 54], "big")
    return None


def _with_length(data: bytes, start: int, end: int, frames: int, stated: int | None) -> bytes:
    """A stream whose first frame states its length, so that the decoder takes it for such a one."""
    if stated is not None and stated > frames + 1:  # + 1: some encoders count the frame that states it
        raise _cut_short(f"{frames} of {stated} frames")
    first = _Frame.at(data, start)
    if first.kind[1] != 3:
        return data[start:end]
    if (
        stated == frames and data[start + first.info : start + first.info + 4] in _XING
    ):  # its silence at the ends counts
        return data[start : start + 4] + bytes(first.info - 4) + data[start + first.info : end]
    if stated is not None:
        start += first.size
    head = first.word & ~(15 << 12 | 1 << 9) | _INFO_KBITS | 1 << 16  # no padding, no checksum
    frame = bytearray(_Frame.at(head.to_bytes(4, "big"), 0).size)
    frame[:4] = head.to_bytes(4, "big")
    frame[first.info : first.info + 12] = b"Info" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return bytes(frame) + data[start:end]
