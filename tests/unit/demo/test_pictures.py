"""Pictures that a visitor asks with, and those that are shown."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from speechde.demo.clips import Limits
from speechde.demo.pictures import SHOWN_SIDE, read_picture, viewable
from speechde.errors import DataError
from speechde.media.image import read_image


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8)).save(path)
    return path


def test_an_upload_is_the_picture_that_any_is(picture):
    np.testing.assert_array_equal(read_picture(picture, Limits()), read_image(picture))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"words and no picture", r"a\.png is no picture that can be read here, or is damaged; use PNG, JPEG, WEBP"),
        (b"", r"a\.png is empty"),
        (bytes(3 * 2**20), r"a\.png has 3\.0 MB; at most 2 MB can be uploaded\."),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', r"a\.png is no picture that can be read"),
        ((9000, 9000), r"a\.png has too many pixels\."),
        ((1, 1), r"a\.png is too small"),
    ],
)
def test_uploads_that_are_refused(tmp_path, content, message):
    path = tmp_path / "a.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.new("1", content).save(path)
    with pytest.raises(DataError, match=message) as error:
        read_picture(path, Limits(megabytes=2))
    assert str(tmp_path) not in str(error.value)  # a visitor learns nothing of the machine


def test_what_is_shown_is_small(picture):
    url = viewable(str(picture))
    shown = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
    assert shown.format == "JPEG" and shown.size == (SHOWN_SIDE, round(SHOWN_SIDE * 600 / 900))
