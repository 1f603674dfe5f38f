"""``speechde embed`` and ``speechde search`` on pictures, folders of mixed files, and models that do not see."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image as Pillow

from speechde import SpeechTextEncoder
from speechde.errors import ConfigError
from speechde.media.video import as_pictures
from speechde.search import embed as module
from speechde.search import vectors as files
from speechde.search.vectors import read_vectors
from speechde.types import SAMPLE_RATE, Image, Item, Video


@pytest.fixture
def sees(tiny_model):
    return tiny_model(sees=True)


@pytest.fixture
def album(tmp_path, make_tone):
    """Two clips, three pictures (one of them drawn), and a picture that cannot be read."""
    (tmp_path / "album").mkdir()
    for n, name in enumerate(("b", "d")):
        soundfile.write(tmp_path / f"album/{name}.wav", make_tone(0.4, 150 * (n + 1)), SAMPLE_RATE)
    rng = np.random.default_rng(0)
    for name in ("a.png", "c.JPG"):
        Pillow.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(tmp_path / "album" / name)
    (tmp_path / "album/e.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="5"/></svg>'
    )
    (tmp_path / "album/f.png").write_bytes(b"no picture")
    return tmp_path / "album"


def test_a_folder_of_clips_and_pictures(run, sees, album, tmp_path, monkeypatch):
    out = tmp_path / "out.parquet"
    done = run("embed", album, "un texte", "--model", sees, "--out", out)
    assert done.code == 0 and done.out.endswith("out.parquet: 6 vectors, 1 inputs left out\n"), done.err
    assert "f.png: unreadable" in done.err
    found, rows = read_vectors([out]), pq.read_table(out).drop_columns("embedding").to_pylist()
    assert [row["kind"] for row in rows] == ["image", "speech", "image", "speech", "image", "text"]
    assert [row["image"] is not None for row in rows] == [row["kind"] == "image" for row in rows]
    assert rows[0]["audio"] is None and rows[0]["seconds"] is None and rows[0]["image"] == str(album / "a.png")
    encoder = SpeechTextEncoder.from_pretrained(sees)
    expected = [
        encoder.embed(Item(Image(album / "a.png"))), encoder.encode_speech(str(album / "b.wav")),
        encoder.embed(Item(Image(album / "c.JPG"))), encoder.encode_speech(str(album / "d.wav")),
        encoder.embed(Item(Image(album / "e.svg"))), encoder.encode_text("un texte"),
    ]  # fmt: skip
    np.testing.assert_allclose(found.vectors, expected, atol=2e-6)
    monkeypatch.setattr(module, "BLOCK_PIXELS", 500)  # a picture a block
    again = tmp_path / "again.parquet"
    assert run("embed", album, "un texte", "--model", sees, "--out", again).code == 0
    np.testing.assert_allclose(read_vectors([again]).vectors, expected, atol=2e-6)


def test_another_content_is_another_job(run, sees, album, tmp_path):
    out = tmp_path / "out.parquet"
    given = ("embed", album / "a.png", "--model", sees, "--out", out)
    assert run(*given).code == 0 and run(*given).code == 0
    (album / "c.JPG").replace(album / "a.png")
    done = run(*given)
    assert done.code == 1 and "made from other inputs" in done.err


def test_a_model_that_does_not_see_leaves_pictures_out(run, models, album, tmp_path):
    done = run("embed", album, "--model", models.continuous, "--out", tmp_path / "out.parquet", "--json")
    assert done.json["vectors"] == 2 and done.json["dropped_counts"] == {module.BLIND: 4}
    alone = run("embed", album / "a.png", "--model", models.continuous, "--out", tmp_path / "alone.parquet")
    assert alone.code == 1 and "none of 1 inputs could be used (the model reads no pictures: 1)" in alone.err
    units = run("units", album, "--model", models.discrete)
    assert units.code == 0 and len(units.out.splitlines()) == 2 and "a.png: a picture has no units" in units.err


def test_search_by_picture(run, sees, album, tmp_path):
    out, index = tmp_path / "out.parquet", tmp_path / "out.index"
    run("embed", album, "--model", sees, "--out", out)
    run("index", "build", out, "--out", index)
    (found,) = run("search", index, album / "c.JPG", "-m", sees, "-k", "2", "--json").json
    assert (found["kind"], found["image"]) == ("image", str(album / "c.JPG"))
    assert found["hits"][0]["image"] == str(album / "c.JPG") and found["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    missing = run("search", index, "none.png", "-m", sees)
    assert missing.code == 1 and "none.png does not exist" in missing.err


def test_files_of_before_pictures_are_read_and_joined(run, models, album, tmp_path, monkeypatch):
    """Vectors and finished parts without the column."""
    out, old = tmp_path / "out.parquet", tmp_path / "old.parquet"
    run("embed", album / "b.wav", album / "d.wav", "--model", models.continuous, "--out", out)
    table = pq.read_table(out)
    pq.write_table(table.drop_columns("image"), old)
    assert np.array_equal(read_vectors([old, out]).vectors[:2], read_vectors([out]).vectors)
    joined = tmp_path / "joined.parquet"
    files.join([old, out], joined, files.read_header(out))
    assert pq.read_table(joined).schema.equals(table.schema) and len(pq.read_table(joined)) == 4
    assert run("index", "build", old, out, "--out", tmp_path / "i").code == 1  # ids are there twice
    assert run("index", "build", old, "--out", tmp_path / "i").code == 0
    run("embed", "un texte", "--model", models.continuous, "--out", tmp_path / "text.parquet")
    assert run("index", "add", tmp_path / "i", tmp_path / "text.parquet").code == 0


def test_a_film_is_embedded_as_pictures(sees, tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for level in (0, 80, 160):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    encoder, film = SpeechTextEncoder.from_pretrained(sees), Item(Video(path))
    assert np.isfinite(encoder.embed(as_pictures(film))).all()
    with pytest.raises(ConfigError, match=r"no frontend for video; .* make pictures of it \(media.video.as_pictures\)"):
        encoder.embed(film)
