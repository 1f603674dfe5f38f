"""Patches of pictures in the store: made once, found by what made them, and the same as without a store."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from speechde.errors import DataError
from speechde.features import pictures as features
from speechde.features.pictures import extract_patches, patches_in_memory
from speechde.features.store import FeatureStore, Piece
from speechde.features.vision import VisionEncoder
from speechde.media import image
from speechde.media.image import read_image


class Counting:
    """An encoder that counts the pictures it was given."""

    def __init__(self, encoder):
        self.inner, self.dim, self.given = encoder, encoder.dim, 0

    def describe(self):
        return self.inner.describe()

    def prepare(self, picture):
        return self.inner.prepare(picture)

    def encode(self, prepared):
        self.given += len(prepared)
        return self.inner.encode(prepared)


@pytest.fixture
def encoder(tiny_vision):
    return Counting(VisionEncoder(tiny_vision))


@pytest.fixture
def pictures(tmp_path):
    """Paths of five pictures of several sizes."""
    draw, paths = np.random.default_rng(0), []
    for n in range(5):
        paths.append(str(tmp_path / f"{n}.png"))
        Image.fromarray(draw.integers(0, 256, (20 + n, 30, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def test_a_store_equals_encoding_at_once_and_is_made_once(pictures, encoder, tmp_path):
    store = extract_patches([*pictures, pictures[0]], encoder, tmp_path / "cache")
    assert store.ids == pictures and encoder.given == 5 and store.speed is None
    expected = patches_in_memory([read_image(path) for path in pictures], encoder.inner)
    for path, tokens in zip(pictures, expected, strict=True):
        assert store[path].dtype == np.float16
        np.testing.assert_array_equal(store[path], tokens)
    again = extract_patches(pictures, encoder, tmp_path / "cache")
    assert again.key == store.key and encoder.given == 5
    np.testing.assert_array_equal(again.sample(7, 0), store.sample(7, 0))


def test_pieces_and_chunks_do_not_change_the_patches(pictures, encoder, tmp_path, monkeypatch):
    whole = extract_patches(pictures, encoder, tmp_path / "a")
    monkeypatch.setattr(features, "PIECE", 3)
    monkeypatch.setattr(features, "CHUNK", 2)
    cut = extract_patches(pictures, encoder, tmp_path / "b")
    assert len(cut.pieces) == 2 and cut.ids == whole.ids
    for path in pictures:
        np.testing.assert_allclose(cut[path], whole[path], atol=2e-3)


def test_chunks_are_kept_until_their_piece_is_whole(pictures, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 2)
    real, done = encoder.encode, []

    def fail_at_third(prepared):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(len(prepared))
        return real(prepared)

    encoder.encode = fail_at_third
    with pytest.raises(KeyboardInterrupt):
        extract_patches(pictures, encoder, tmp_path / "cache")
    encoder.encode = real
    store = extract_patches(pictures, encoder, tmp_path / "cache")
    assert encoder.given == 5 and store.ids == pictures
    assert [path.name for path in (tmp_path / "cache/patches").iterdir()] == [store.pieces[0].key]


def test_a_picture_is_its_bytes(pictures, encoder, tmp_path):
    first = extract_patches(pictures, encoder, tmp_path / "cache")
    shutil.copy(pictures[1], pictures[0])
    second = extract_patches(pictures, encoder, tmp_path / "cache")
    assert first.key != second.key
    np.testing.assert_array_equal(second[pictures[0]], second[pictures[1]])


@pytest.mark.parametrize("module", [features, image])
def test_another_version_of_the_code_makes_new_patches(pictures, encoder, tmp_path, monkeypatch, module):
    first = extract_patches(pictures, encoder, tmp_path / "cache")
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert extract_patches(pictures, encoder, tmp_path / "cache").key != first.key and encoder.given == 10


def test_bad_pictures_are_left_out_with_their_reason(pictures, encoder, tmp_path):
    bad = {name: str(tmp_path / name) for name in ("empty.png", "text.png", "cut.png", "one.png", "gone.png")}
    for name, data in (("empty.png", b""), ("text.png", b"no picture")):
        (tmp_path / name).write_bytes(data)
    data = open(pictures[0], "rb").read()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    store = extract_patches([*bad.values(), *pictures], encoder, tmp_path / "cache")
    assert store.ids == pictures
    reasons = dict(zip(bad.values(), ["empty", "unreadable", "unreadable", "too small", "missing file"], strict=True))
    assert {dropped.id: dropped.reason for dropped in store.dropped} == reasons
    with pytest.raises(DataError, match=r"none of 5 pictures could be used \(.*empty\.png: empty .*check their paths"):
        extract_patches(list(bad.values()), encoder, tmp_path / "cache")
    assert not any(set(bad.values()) >= set(Piece(f).ids) for f in (tmp_path / "cache/patches").iterdir())


def test_stores_of_clips_and_pictures_are_read_as_one(pictures, encoder, tmp_path):
    patches = extract_patches(pictures, encoder, tmp_path / "cache")
    Piece.write(tmp_path / "clip", [np.ones((3, 2), np.float16)],
                {"ids": ["clip"], "seconds": [1.0], "dropped": [], "times_real_time": 2.0})  # fmt: skip
    both = FeatureStore.merge([FeatureStore.open([tmp_path / "clip"]), patches])
    assert both["clip"].shape == (3, 2) and both[pictures[0]].shape == (4, 16)
    assert both.speed == 2.0
