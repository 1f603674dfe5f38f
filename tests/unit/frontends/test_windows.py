"""Windows of long clips: cut, encoded in bounded batches, joined in order."""

from __future__ import annotations

import numpy as np
import pytest

from speechde.errors import ConfigError
from speechde.frontends.windows import WINDOWS_AT_ONCE, encode_in_windows, layer_number


def samples(length, start=0):
    return np.arange(start, start + length, dtype=np.float32)


def test_clips_come_back_whole_and_in_order():
    clips = [samples(5), samples(23, 100), samples(1, 200), samples(10, 300)]
    for found, clip in zip(encode_in_windows(clips, 10, 10, 1, list), clips, strict=True):
        assert np.array_equal(found, clip)


def test_overlapping_windows_repeat_samples_and_leave_out_less_than_a_frame():
    seen = []
    encode_in_windows([samples(32)], 12, 10, 4, lambda batch: seen.extend(batch) or batch)
    assert [(w[0], w[-1]) for w in seen] == [(0, 11), (10, 21), (20, 31)]  # 30 and 31 are no frame of their own
    seen.clear()
    encode_in_windows([samples(34), samples(2)], 12, 10, 4, lambda batch: seen.extend(batch) or batch)
    assert [len(w) for w in seen] == [12, 12, 12, 4, 2]  # a clip shorter than a frame stays


def test_the_audio_of_one_pass_is_bounded():
    sizes = []

    def encode(batch):
        sizes.append(len(batch) * max(len(w) for w in batch))
        return batch

    clips = [samples(3)] * 100 + [samples(1000)] + [samples(10)] * 9
    out = encode_in_windows(clips, 10, 10, 1, encode)
    assert max(sizes) <= WINDOWS_AT_ONCE * 10 and len(sizes) < 45
    assert [len(o) for o in out] == [len(c) for c in clips]


def test_layer_number():
    assert [layer_number(n, 3, "x") for n in (1, 3, -1, -3)] == [1, 3, 3, 1]
    for layer in (0, 4, -4):
        with pytest.raises(ConfigError, match=rf"frontend\.layer={layer} is not possible: x has 3 layers; use 1 to 3"):
            layer_number(layer, 3, "x")
