"""Vectors made by Ray actors are those made in this process, in one file; a job that was stopped goes on."""

from __future__ import annotations

import os
import sys
from functools import partial

import numpy as np
import pytest
import soundfile

from speechde import SpeechTextEncoder
from speechde.errors import ConfigError, SpeechdeError
from speechde.search import embed as module
from speechde.search import ray_embed
from speechde.search.embed import embed_items
from speechde.search.items import Item
from speechde.search.ray_embed import Opening, make_with_ray
from speechde.search.vectors import read_vectors
from speechde.types import SAMPLE_RATE

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def items(tmp_path, make_tone, monkeypatch):
    """Clips by relative paths, one of them bad, and texts, in parts of two."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "PART", 2)
    out = []
    for n in range(3):
        soundfile.write(f"{n}.wav", make_tone(0.3 + n / 10, 200 * (n + 1)), SAMPLE_RATE)
        out += [Item(f"c{n}", "ro_ro", None, f"{n}.wav"), Item(f"t{n}", None, f"text {n}", None)]
    (tmp_path / "1.wav").write_bytes(b"no")
    return out


@pytest.fixture
def folder(tiny_model):
    return tiny_model("continuous")


@pytest.fixture
def encoder(folder):
    return SpeechTextEncoder.from_pretrained(folder, device="cpu")


def making(folder, encoder, workers=1, **options):
    return partial(make_with_ray, Opening(str(folder), encoder.fingerprint, "cpu", **options), workers)


def test_the_file_is_that_of_this_process(items, folder, encoder, tmp_path):
    ray = pytest.importorskip("ray")
    whole = embed_items(encoder, items, tmp_path / "here.parquet", model="m")
    out = tmp_path / "ray.parquet"
    embed_items(encoder, items, out, model="m", shard=(2, 3))  # one of three parts is there, as after a stop
    report = embed_items(encoder, items, out, model="m", make=making(folder, encoder, min(2, os.cpu_count())))
    assert (report.vectors, report.reused, report.dropped) == (5, 2, whole.dropped)
    here, there = (read_vectors([tmp_path / f"{name}.parquet"]) for name in ("here", "ray"))
    np.testing.assert_allclose(there.vectors, here.vectors, atol=1e-5)  # with another number of threads
    assert there.rows.equals(here.rows) and there.fingerprint == here.fingerprint
    assert not (tmp_path / "ray.parquet.parts").exists() and not ray.is_initialized()
    assert embed_items(encoder, items, out, model="m", make=None).reused == 6


def test_another_model_on_a_worker_is_refused_and_what_is_done_stays(items, folder, encoder, tmp_path):
    pytest.importorskip("ray")
    other = partial(make_with_ray, Opening(str(folder), "another", "cpu"), 1)
    out = tmp_path / "v.parquet"
    embed_items(encoder, items, out, model="m", shard=(1, 3))
    with pytest.raises(SpeechdeError, match=r"a Ray worker failed \(.*and another on the driver"):
        embed_items(encoder, items, out, model="m", make=other)
    assert embed_items(encoder, items, out, model="m").reused == 2


def test_without_ray(items, folder, encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--ray needs Ray: .*\[ray\]"):
        embed_items(encoder, items, tmp_path / "v.parquet", model="m", make=making(folder, encoder))


def test_an_actor_makes_the_parts_that_it_is_given(items, folder, encoder, tmp_path, monkeypatch):
    """Without Ray: what a worker does with a row, from another working directory."""
    rows = []
    monkeypatch.setattr(
        ray_embed,
        "in_actors",
        lambda actor, arguments, given, *_: (
            rows.append((arguments, given))
            or iter(actor(*arguments)({name: [row[name]] for name in row})["done"][0] for row in given)
        ),
    )
    report = embed_items(encoder, items, tmp_path / "v.parquet", model="m", make=making(folder, encoder))
    embed_items(encoder, items, tmp_path / "w.parquet", model="m")
    ours, plain = (read_vectors([tmp_path / name]) for name in ("v.parquet", "w.parquet"))
    np.testing.assert_array_equal(ours.vectors, plain.vectors)
    assert report.vectors == 5 and len(rows[0][1]) == 3 and ours.rows.equals(plain.rows)
