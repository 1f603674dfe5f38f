"""Pictures in: a picture of any kind becomes ``(height, width, 3)`` uint8 RGB, or an ``ImageError`` says why not.

Pillow decodes PNG, JPEG, WebP, GIF, BMP and TIFF, and no other format, because some of those that it knows start other
programs (EPS). resvg draws SVG, which is what a file is that begins as XML and has an ``svg`` element: the content
decides, never a name. Of an animated picture the first frame is taken. It is turned as its EXIF data say, put on white
where it is transparent, and 16 bits become 8; colour profiles are not applied.

A picture is refused for its size before it is decoded: the header states it. A drawing has no size in pixels, and fills
a square of ``SVG_SIDE``, without the fonts of the system and the files that it refers to: it would look different on
another machine, and could show what it was never given.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError, ParserCreate

import numpy as np
from PIL import Image, ImageOps

from speechde.errors import AssetError, DataError
from speechde.install import install_command
from speechde.media.sources import MediaError, read_source

VERSION = 1  # raise it when a function of this module makes other pixels of the same picture: caches are named by it
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 1 << 26  # 200 MB of RGB
MIN_SIDE = 2  # 1 × 1 is a colour and no picture; pages on the web count their readers with such files
MAX_BYTES = 1 << 28  # of one file
SVG_SIDE = 512  # pixels of the longer side of a drawing; encoders look at fewer
REASONS = ("missing file", "unreadable", "empty", "too small", "too large")
KINDS = (
    "a path, the bytes of a file, a file object, an array (height, width, 3) of uint8, a PIL image, or a row of "
    "datasets' Image column"
)
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # Pillow's own limit is above ours
MAX_DEPTH = 100  # of the elements of a drawing; from some 250 on resvg overflows its stack and ends the process
_SVG_HEAD = 1 << 16  # bytes in which the root of a drawing begins
_DECLARED = re.compile(rb"""^<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)["']""")
_REFERENCE = re.compile(r"""((?:[\w.-]+:)?href\s*=\s*)(["'])(?!\s*(?:#|data:))[^"']*\2""", re.IGNORECASE)
_EMBEDDED = re.compile(r"data:image/(?:png|jpe?g|gif|webp)[^,\"']*,([A-Za-z0-9+/=\s]+)", re.IGNORECASE)


class ImageError(MediaError):
    """A picture that cannot be used; ``reason`` is one of ``REASONS``, made to be counted."""

    REASONS = REASONS
    MEDIUM, LARGE, MAX_BYTES = "picture", "too large", MAX_BYTES


def read_image(content: Any, drawings: bool = True) -> np.ndarray:
    """Any of ``KINDS`` → ``(height, width, 3)`` uint8 RGB, an array of its own.

    ``drawings=False`` refuses SVG: from a stranger a drawing can take as long as it likes.

    Raises:
        ImageError: it cannot be decoded, is cut short, or has too few or too many pixels.
        DataError: it is none of ``KINDS``.
        AssetError: it is a drawing, and the extra ``images`` is not installed.
    """
    if isinstance(content, Mapping):
        source = content.get("bytes") or content.get("path")
        if source is None:
            raise DataError(f"a picture with the keys {', '.join(map(str, content))} has neither bytes nor path")
        content = source
    if isinstance(content, np.ndarray):
        return _array(content)
    if isinstance(content, Image.Image):
        return _pixels(content, "picture")
    if not (isinstance(content, str | Path | bytes) or hasattr(content, "read")):
        raise DataError(f"a {type(content).__name__} is not a picture; give {KINDS}")
    data, name = read_source(content, ImageError)
    if drawings and _is_svg(data):
        data = _draw(data, name)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _pixels(image, name)
    except _BOMBS as error:
        raise ImageError("too large", f"{name}: {error}") from error
    except Image.UnidentifiedImageError as error:
        known = ", ".join((*FORMATS, "SVG") if drawings else FORMATS)
        raise ImageError("unreadable", f"{name} is none of {known}, or damaged") from error
    except (DataError, AssetError):
        raise
    except Exception as error:  # whatever a decoder raises is about this picture alone
        raise _unreadable(name, error) from error


def _array(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ImageError(
            "unreadable",
            f"an array of shape {pixels.shape} and type {pixels.dtype} is not a picture; give (height, width, 3) of "
            "uint8, or a PIL image",
        )
    _check_size(pixels.shape[1], pixels.shape[0], "array")
    return np.array(pixels, order="C")


def _pixels(image: Image.Image, name: str) -> np.ndarray:
    """What a person would see of a picture that is opened; the size is looked at before a pixel is."""
    _check_size(*image.size, name)
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":
            image = _eight_bits(image, name)
        if image.has_transparency_data:
            ground = Image.new("RGBA", image.size, "white")
            ground.alpha_composite(image.convert("RGBA"))
            image = ground
        return np.array(image.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # a picture that is opened late is damaged here
        raise _unreadable(name, error) from error


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey levels of 16 bits → 8."""
    levels = np.asarray(image)
    if levels.dtype.kind == "f" or levels.min() < 0 or levels.max() > 0xFFFF:
        raise ImageError("unreadable", f"{name} has levels of type {levels.dtype} without a known white; save 8 bits")
    return Image.fromarray((levels >> 8).astype(np.uint8))


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError("too large", f"{name} has {width} × {height} pixels; at most {MAX_PIXELS:,}: make it smaller")
    if min(width, height) < MIN_SIDE:
        raise ImageError("too small", f"{name} has {width} × {height} pixels; at least {MIN_SIDE} × {MIN_SIDE}")


def _is_svg(data: bytes) -> bool:
    head = data[:_SVG_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(b"<") and re.search(rb"<(?:\w+:)?svg[\s>]", head) is not None


def _draw(data: bytes, name: str) -> bytes:
    """A drawing as the bytes of a PNG whose longer side has ``SVG_SIDE`` pixels."""
    try:
        import resvg_py
    except ImportError as error:
        raise AssetError(f"{name} is a drawing (SVG); to read it: {install_command('images')}") from error
    try:
        declared = _DECLARED.match(data.removeprefix(b"\xef\xbb\xbf"))
        text = data.decode(declared[1].decode() if declared else "utf-8").removeprefix("\ufeff")
        text = _REFERENCE.sub(r"\1\2\2", text)
        for embedded in _EMBEDDED.finditer(text):
            _check_embedded(embedded[1], name)
        _check_depth(text, name)
        return resvg_py.svg_to_bytes(svg_string=text, width=SVG_SIDE, height=SVG_SIDE, dpi=96, skip_system_fonts=True)
    except (ValueError, LookupError, ExpatError) as error:
        if isinstance(error, DataError):
            raise
        raise _unreadable(name, error) from error


def _check_depth(text: str, name: str) -> None:
    """Refuse a drawing whose elements are too deep in each other."""
    depth = 0

    def enter(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ImageError("too large", f"{name}: its elements are more than {MAX_DEPTH} deep in each other")

    def leave(_: str) -> None:
        nonlocal depth
        depth -= 1

    parser = ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = enter, leave
    parser.Parse(text, True)


def _check_embedded(encoded: str, name: str) -> None:
    """Refuse a drawing for the size of a picture in it; one that cannot be opened is for resvg to pass over."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=FORMATS) as image:
            size = image.size
    except _BOMBS as error:
        raise ImageError("too large", f"{name}: a picture in it: {error}") from error
    except Exception:
        return
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError("too large", f"{name}: a picture in it has {size[0]} × {size[1]} pixels")


def _unreadable(name: str, error: Exception) -> ImageError:
    return ImageError("unreadable", f"{name}: {str(error) or type(error).__name__}")
