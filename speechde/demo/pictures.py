"""A picture that a visitor asks with, and how a found one is shown. Every message is written for the visitor."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from speechde.demo.clips import Limits, read_bytes
from speechde.errors import DataError
from speechde.media.image import FORMATS, ImageError, read_image

SHOWN_SIDE = 320  # pixels of the longer side of a picture on the page: some 20 kB


def read_picture(path: str | Path, limits: Limits) -> np.ndarray:
    """An uploaded file → pixels ``(height, width, 3)``; no drawing (SVG), which may take any time.

    Raises:
        DataError: too large, or no picture that is read here.
    """
    path = Path(path)
    data = read_bytes(path, limits)
    try:
        return read_image(data, drawings=False)
    except ImageError as error:
        reason = f"is no picture that can be read here, or is damaged; use {', '.join(FORMATS)}"
        if error.reason in ("too large", "too small"):
            reason = "has too many pixels" if error.reason == "too large" else "is too small: one pixel is no picture"
        raise DataError(f"{path.name} {reason}.") from error


def viewable(picture: str | np.ndarray) -> str:
    """A picture as a small JPEG in a ``data:`` URL; as part of the page it needs no file of the server to be served.

    Raises:
        ImageError: it cannot be read (any more).
    """
    image = Image.fromarray(read_image(picture))
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
