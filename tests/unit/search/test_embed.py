"""Embedding many items: order, parts and units. The command's tests have the bad clips and the kills."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from speechde import SpeechTextEncoder
from speechde.errors import ConfigError, DataError
from speechde.search import embed as module
from speechde.search.embed import embed, embed_items, units_of
from speechde.search.items import Item
from speechde.search.vectors import read_vectors
from speechde.types import SAMPLE_RATE

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="session")
def encoders(tiny_model):
    return {kind: SpeechTextEncoder.from_pretrained(tiny_model(kind)) for kind in ("continuous", "discrete")}


@pytest.fixture
def items(tmp_path, make_tone):
    """Clips and texts in turn, the third a clip that is none."""
    out = []
    for n in range(3):
        path = tmp_path / f"{n}.wav"
        soundfile.write(path, make_tone(0.3 + n / 10, 200 * (n + 1)), SAMPLE_RATE)
        out += [Item(f"c{n}", "ro_ro", None, str(path)), Item(f"t{n}", None, f"text {n}", None)]
    (tmp_path / "1.wav").write_bytes(b"no")
    return out


def test_order_is_kept(encoders, items, monkeypatch):
    encoder = encoders["continuous"]
    made = embed(encoder, items)
    assert [item.id for item in made.items] == ["c0", "t0", "t1", "c2", "t2"]
    assert [(each.id, each.reason) for each in made.dropped] == [("c1", "unreadable")]
    assert made.seconds == [pytest.approx(0.3), None, None, pytest.approx(0.5), None]
    alone = [embed(encoder, [item]).vectors[0] for item in made.items]
    np.testing.assert_allclose(made.vectors, alone, atol=2e-6)
    monkeypatch.setattr(module, "BLOCK_SECONDS", 0.1)  # a clip at a time
    np.testing.assert_allclose(embed(encoder, items).vectors, made.vectors, atol=2e-6)


def test_parts_make_one_file(encoders, items, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 2)
    report = embed_items(encoders["continuous"], items, tmp_path / "v.parquet", model="m")
    assert (report.vectors, report.reused, report.dropped_counts()) == (5, 0, {"unreadable": 1})
    found = read_vectors([tmp_path / "v.parquet"])
    np.testing.assert_allclose(found.vectors, embed(encoders["continuous"], items).vectors, atol=2e-6)
    again = embed_items(encoders["continuous"], items, tmp_path / "v.parquet", model="m")
    assert (again.vectors, again.reused, again.dropped) == (5, 6, report.dropped)
    with pytest.raises(DataError, match="made from other inputs or another model"):
        embed_items(encoders["discrete"], items, tmp_path / "v.parquet", model="m")


def test_units(encoders, items, monkeypatch):
    clips = [item for item in items if item.audio]
    dropped = []
    monkeypatch.setattr(module, "BLOCK_SECONDS", 0.1)
    found = dict(units_of(encoders["discrete"], clips, dropped))
    assert list(found) == ["c0", "c2"] and [each.id for each in dropped] == ["c1"]
    np.testing.assert_array_equal(found["c2"], encoders["discrete"].units(clips[2].audio)[0])
    with pytest.raises(ConfigError, match="no units"):
        next(units_of(encoders["continuous"], clips, []))
    with pytest.raises(DataError, match="none of 1 inputs could be used"):
        next(units_of(encoders["discrete"], clips[1:2], []))
