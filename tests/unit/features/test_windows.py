"""Windows of long clips: cut, encoded in bounded batches, joined in order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechde.errors import ConfigError
from speechde.features.windows import FORCED, WINDOWS_AT_ONCE, encode_in_windows, fast_dtype, layer_number


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


@pytest.mark.parametrize("fast", [True, False])
def test_the_number_format_follows_the_processor_unless_it_is_forced(monkeypatch, fast):
    for owner, name in ((torch.cuda, "is_available"), (torch.cpu, "_is_avx512_bf16_supported"),
                        (torch.cpu, "_is_amx_tile_supported")):  # fmt: skip
        monkeypatch.setattr(owner, name, lambda: fast)
    monkeypatch.delenv(FORCED, raising=False)
    assert fast_dtype() == (torch.bfloat16 if fast else torch.float32)
    for value, expected in (("1", torch.bfloat16), ("0", torch.float32)):
        monkeypatch.setenv(FORCED, value)
        assert fast_dtype() == expected
    monkeypatch.setenv(FORCED, "yes")
    with pytest.raises(ConfigError, match=r"SPEECHDE_BFLOAT16: 'yes' is not known; allowed: 0, 1"):
        fast_dtype()
