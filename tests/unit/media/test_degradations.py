"""What a clip sounds like under a condition: the asked level, the asked band, and the same whatever is beside it."""

from __future__ import annotations

import numpy as np
import pytest

from speechde.conditions import CLEAN, parse
from speechde.media.audio import add_noise
from speechde.media.degradations import band_pass, degrade, describe, generator
from speechde.types import SAMPLE_RATE

CHANGING = ["snr10", "ssn10", "telephone", "speed0.8"]


def power(waveform):
    return float(np.mean(np.square(waveform, dtype=np.float64)))


def decibels(ratio):
    return 10 * np.log10(ratio)


def share_between(waveform, low, high):
    """Share of the power within a band, in Hz."""
    spectrum = np.abs(np.fft.rfft(waveform.astype(np.float64))) ** 2
    hertz = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)
    return spectrum[(hertz >= low) & (hertz < high)].sum() / spectrum.sum()


@pytest.mark.parametrize("kind", ["snr", "ssn"])
@pytest.mark.parametrize("level", [-5.0, 0.0, 20.0])
def test_the_ratio_of_noise_is_the_one_that_is_asked_for(make_tone, kind, level):
    clip = make_tone(2.0)
    noisy = degrade(clip, parse(f"{kind}{level:g}"), "a")
    assert noisy.dtype == np.float32 and noisy.shape == clip.shape
    added = noisy.astype(np.float64) - clip
    assert decibels(power(clip) / power(added)) == pytest.approx(level, abs=0.1)


def test_white_noise_is_as_loud_everywhere_and_shaped_noise_where_the_clip_is(make_tone):
    clip = make_tone(2.0, frequency=500.0)  # partials at 500, 1000 and 1500 Hz, and a little noise
    added = {kind: degrade(clip, parse(f"{kind}0"), "a") - clip for kind in ("snr", "ssn")}
    assert share_between(added["snr"], 0, 2000) == pytest.approx(0.25, abs=0.02)
    assert share_between(added["ssn"], 0, 2000) == pytest.approx(share_between(clip, 0, 2000), abs=0.02)
    assert abs(np.corrcoef(added["ssn"], clip)[0, 1]) < 0.2  # of its spectrum, and not the clip itself


def test_a_telephone_lets_300_to_3400_hertz_through():
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tones = {hertz: np.sin(2 * np.pi * hertz * time).astype(np.float32) for hertz in (100, 350, 1000, 3350, 3450, 6000)}
    loss = {h: decibels(power(tone) / max(power(degrade(tone, parse("telephone"), "a")), 1e-20))
            for h, tone in tones.items()}  # fmt: skip
    assert all(abs(loss[hertz]) < 0.1 for hertz in (350, 1000, 3350))
    assert all(loss[hertz] > 40 for hertz in (100, 3450, 6000))
    both = degrade(sum(tones.values()), parse("telephone"), "a")
    np.testing.assert_allclose(both, tones[350] + tones[1000] + tones[3350], atol=1e-4)


def test_a_telephone_hears_clips_of_any_length():
    for samples in (1600, 1601, 16_001):
        clip = np.random.default_rng(0).normal(size=samples).astype(np.float32)
        heard = band_pass(clip, 300, 3400)
        assert heard.shape == clip.shape and share_between(heard, 3500, 8001) < 1e-6


def test_speed_changes_the_length(make_tone):
    clip = make_tone(1.0)
    assert [len(degrade(clip, parse(name), "a")) for name in ("speed0.8", "speed1.25")] == [20_000, 12_800]


@pytest.mark.parametrize("name", CHANGING)
def test_a_clip_sounds_the_same_whatever_was_heard_before(make_tone, name):
    clips = {id_: make_tone(0.3, 200 + 50 * n, n) for n, id_ in enumerate("abc")}
    forth = {id_: degrade(clip, parse(name), id_) for id_, clip in clips.items()}
    np.random.default_rng(0).normal(size=9)
    back = {id_: degrade(clips[id_], parse(name), id_) for id_ in reversed(clips)}
    for id_, clip in clips.items():
        np.testing.assert_array_equal(forth[id_], back[id_])
        assert not np.array_equal(forth[id_], clip)


def test_noise_is_of_the_clip_s_own_and_equal_at_every_level(make_tone):
    clip = make_tone(0.3)
    one, other = (degrade(clip, parse("snr10"), id_) for id_ in "ab")
    assert not np.array_equal(one, other)
    louder = degrade(clip, parse("snr0"), "a")
    np.testing.assert_allclose(louder - clip, (one - clip) * 10**0.5, atol=1e-6)
    np.testing.assert_array_equal(one, add_noise(clip, 10.0, generator("a")))  # as a version of a training clip


def test_a_silent_clip_stays_silent():
    silent = np.zeros(1600, np.float32)
    for name in CHANGING:
        assert not degrade(silent, parse(name), "a").any()


def test_clean_is_the_clip_itself(make_tone):
    clip = make_tone(0.3)
    assert degrade(clip, CLEAN, "a") is clip and describe(CLEAN) == {}
    assert len({str(describe(parse(name))) for name in (*CHANGING, "snr10.5")}) == 5
