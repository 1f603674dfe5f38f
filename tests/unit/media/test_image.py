"""Pictures of every kind become RGB, and what is none, or too much of one, is refused with a reason."""

from __future__ import annotations

import base64
import io
import struct
import sys
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from speechde.errors import AssetError, DataError
from speechde.media.content import content_keys
from speechde.media.image import MAX_PIXELS, REASONS, SVG_SIDE, ImageError, read_image

RED, BLUE = (200, 10, 20), (10, 20, 200)
HALVES = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect width="20" height="20" fill="blue"/></svg>'
)


def pixels(height=6, width=10):
    """Left half red, right half blue, so that a turned or mirrored picture shows."""
    array = np.empty((height, width, 3), np.uint8)
    array[:, : width // 2], array[:, width // 2 :] = RED, BLUE
    return array


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def reason(content):
    with pytest.raises(ImageError) as caught:
        read_image(content)
    assert caught.value.reason in REASONS
    return caught.value.reason


def header_of(width, height):
    """A PNG that states a size and ends after its first bytes of pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + ihdr + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_formats_without_loss_give_the_pixels(kind):
    assert np.array_equal(read_image(encoded(Image.fromarray(pixels()), kind)), pixels())


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})])
def test_formats_with_loss_come_near(kind, options):
    found = read_image(encoded(Image.fromarray(pixels(64, 96)), kind, **options))
    assert np.abs(found[:, [10, 80]].astype(int) - pixels(64, 96)[:, [10, 80]]).max() < 12


def test_every_kind_of_source_gives_one_picture(tmp_path):
    data, path = encoded(Image.fromarray(pixels())), tmp_path / "a.png"
    path.write_bytes(data)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(path, "x/a.png")
    sources = [str(path), path, data, io.BytesIO(data), pixels(), Image.fromarray(pixels()), Image.open(path),
               {"bytes": data, "path": None}, {"bytes": None, "path": str(path)},
               f"{tmp_path}/a.tar::x/a.png"]  # fmt: skip
    for source in sources:
        found = read_image(source)
        assert np.array_equal(found, pixels()) and found.dtype == np.uint8 and found.flags.writeable


def test_a_column_of_datasets_is_read_as_it_comes():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"picture": [Image.fromarray(pixels())]}).cast_column("picture", datasets.Image())
    assert np.array_equal(read_image(rows[0]["picture"]), pixels())
    assert np.array_equal(read_image(rows.cast_column("picture", datasets.Image(decode=False))[0]["picture"]), pixels())


def test_the_array_is_a_copy():
    given = pixels()
    read_image(given)[:] = 0
    assert np.array_equal(given, pixels())


def test_transparency_is_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (read_image(encoded(clear)) == 255).all()
    half = Image.new("LA", (4, 4), (0, 128))
    assert (read_image(encoded(half)) == 127).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, *RED])
    assert (read_image(encoded(palette)) == RED).all()
    assert (read_image(encoded(palette, transparency=1)) == 255).all()


@pytest.mark.parametrize(("orientation", "turned"), [(3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1))])
def test_exif_turns_the_picture(orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(read_image(encoded(Image.fromarray(pixels()), exif=exif)), turned(pixels()))


def test_sixteen_bits_and_cmyk():
    levels = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    found = read_image(encoded(Image.fromarray(levels)))
    assert np.array_equal(found, np.repeat((levels >> 8)[..., None], 3, 2))
    inks = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert (np.abs(read_image(encoded(inks, "TIFF")).astype(int) - (255, 0, 0)) < 2).all()
    assert reason(encoded(Image.new("F", (4, 4), 0.5), "TIFF")) == "unreadable"


def test_of_an_animation_the_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (read_image(data) == RED).all(), kind


def test_the_content_decides_and_not_the_name(tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(Image.fromarray(pixels())))
    assert np.array_equal(read_image(path), pixels())
    path.write_text(HALVES)
    assert read_image(path).shape == (SVG_SIDE // 2, SVG_SIDE, 3)


def test_what_is_no_picture(tmp_path):
    assert reason(tmp_path / "none.png") == "missing file"
    assert reason(str(tmp_path)) == "unreadable"
    assert reason(b"") == "empty"
    assert reason(b"no picture at all") == "unreadable"
    assert reason("a\0b.png") == "unreadable"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "unreadable"  # Ghostscript would run it
    for wrong in (3, None, ["a.png"], {"array": 1}):
        with pytest.raises(DataError, match="picture"):
            read_image(wrong)
    for array in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8)):
        assert reason(array) == "unreadable"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_file_that_is_cut_short(kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for share in (0.02, 0.3, 0.7, 0.95):
        assert reason(data[: int(len(data) * share)]) == "unreadable"


def test_a_late_picture_of_pil_that_is_cut_short():
    assert reason(Image.open(io.BytesIO(encoded(Image.fromarray(pixels(64, 64)))[:90]))) == "unreadable"


def test_too_many_pixels_are_refused_from_the_header(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("a pixel was decoded"))
    assert reason(header_of(50_000, 50_000)) == "too large"
    side = int(MAX_PIXELS**0.5)
    assert reason(header_of(side + 1, side + 1)) == "too large"
    assert reason(np.broadcast_to(np.uint8(0), (50_000, 50_000, 3))) == "too large"


def test_one_pixel_shows_nothing():
    assert reason(encoded(Image.new("RGB", (1, 1)))) == "too small"
    assert reason(encoded(Image.new("RGB", (1, 500)))) == "too small"
    assert read_image(encoded(Image.new("RGB", (2, 2)))).shape == (2, 2, 3)


def test_drawings():
    found = read_image(HALVES.encode())
    assert found.shape == (SVG_SIDE // 2, SVG_SIDE, 3)
    assert (found[:, 10] == (0, 0, 255)).all() and (found[:, -10] == 255).all()  # what is not drawn is white
    tall = HALVES.replace("40", "5").replace("<svg", '<?xml version="1.0" encoding="latin-1"?><!-- é --><svg')
    assert read_image(tall.encode("latin-1")).shape[0] == SVG_SIDE
    assert np.array_equal(read_image(b"\xef\xbb\xbf" + HALVES.encode()), found)
    in_points = HALVES.replace('"40"', '"30pt"').replace('"20"', '"15pt"')
    assert np.array_equal(read_image(in_points.encode()), found)
    assert reason(b"<html><body>no drawing</body></html>") == "unreadable"
    for bad in ("<svg", HALVES[:-10], HALVES.replace("40", "0"), '<?xml encoding="nope"?>' + HALVES):
        assert reason(bad.encode()) == "unreadable"
    assert reason(HALVES.encode("utf-16")) == "unreadable"  # does not begin as XML does


@pytest.mark.parametrize(("depth", "expected"), [(90, None), (300, "too large"), (5000, "too large")])
def test_a_drawing_too_deep_is_refused(depth, expected):
    """It would end the process: resvg draws what is in each other by calls in each other."""
    drawing = HALVES.replace("<rect", "<g>" * depth + "<rect").replace("</svg>", "</g>" * depth + "</svg>").encode()
    assert (reason(drawing) if expected else read_image(drawing).shape[2:] == (3,) and None) == expected


def test_a_drawing_shows_no_other_file(tmp_path):
    Image.new("RGB", (64, 64), RED).save(tmp_path / "secret.png")
    uri = base64.b64encode((tmp_path / "secret.png").read_bytes()).decode()

    def drawing(attribute):
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:l='
            f'"http://www.w3.org/1999/xlink" width="64" height="64"><image {attribute} width="64" height="64"/></svg>'
        ).encode()

    for name in ("href", "xlink:href", "l:href", "xlink:href "):
        for quote in "\"'":
            assert (read_image(drawing(f"{name}={quote}{tmp_path}/secret.png{quote}")) == 255).all()
    assert (read_image(drawing(f'xlink:href="data:image/png;base64,{uri}"'))[200, 200] == RED).all()
    bomb = base64.b64encode(header_of(50_000, 50_000)).decode()
    assert reason(drawing(f'xlink:href="data:image/png;base64,{bomb}"')) == "too large"


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(AssetError, match=r"drawing \(SVG\); to read it: .*images"):
        read_image(HALVES.encode())


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_random_damage_is_an_error_of_the_picture_or_a_picture():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8))
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
        data = encoded(noise, kind)
        for _ in range(60):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 4):
                damaged[place] = rng.integers(256)
            try:
                assert read_image(bytes(damaged)).ndim == 3
            except ImageError as error:
                assert error.reason in REASONS


def test_a_picture_has_a_name_for_caches_by_its_content(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(Image.fromarray(pixels())))
    (tmp_path / "c.png").write_bytes(encoded(Image.fromarray(pixels()[:, ::-1])))
    same, equal, other = content_keys(
        [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")], tmp_path / "cache"
    )
    assert same == equal != other
