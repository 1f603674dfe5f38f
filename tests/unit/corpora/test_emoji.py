"""Bitmaps of a small font made here, linked with names; what is named as a held-out stamp is left out."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from speechde.corpora import emoji
from speechde.corpora.stamps import Stamp
from speechde.errors import AssetError, DataError

fontTools = pytest.importorskip("fontTools")

CHARACTERS = {"bear": "🐻", "wolf": "🐺", "farm": "\U0001f33e", "man": "👨", "zwj": "\u200d"}
NAMES = {
    "fr": {"🐻": "ours", "🐺": "loup", "👨\u200d🌾": "fermier", "🦊": "renard"},
    "ru": {"🐻": "медведь", "🐺": "волк", "👨\u200d🌾": "фермер"},
}


def make_font(path, pictures):
    """A font with a bitmap for each glyph of ``pictures``, and a ligature of man, joiner and farm."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.ttLib import newTable
    from fontTools.ttLib.tables._g_l_y_f import Glyph
    from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
    from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
    from fontTools.ttLib.tables.C_B_L_C_ import table_C_B_L_C_  # noqa: F401 - registers the table
    from fontTools.ttLib.tables.E_B_L_C_ import BitmapSizeTable, SbitLineMetrics, Strike, eblc_index_sub_table_1

    glyphs = [".notdef", *CHARACTERS, "farmer"]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(character): name for name, character in CHARACTERS.items()})
    builder.setupGlyf({name: Glyph() for name in glyphs})
    builder.setupHorizontalMetrics({name: (1000, 0) for name in glyphs})
    builder.setupHorizontalHeader()
    builder.setupPost()
    builder.addOpenTypeFeatures("feature ccmp { sub man zwj farm by farmer; } ccmp;")
    font = builder.font
    strike, data = Strike(), {}
    size = strike.bitmapSizeTable = BitmapSizeTable()
    for field in ("colorRef", "flags"):
        setattr(size, field, 0)
    size.ppemX = size.ppemY = 109
    size.bitDepth = 32
    size.hori, size.vert = SbitLineMetrics(), SbitLineMetrics()
    slope = ("caretSlopeNumerator", "caretSlopeDenominator", "caretOffset")
    bounds = ("ascender", "descender", "widthMax", "minOriginSB", "minAdvanceSB", "maxBeforeBL", "minAfterBL")
    for line in (size.hori, size.vert):
        for field in (*slope, *bounds, "pad1", "pad2"):
            setattr(line, field, 0)
    table = eblc_index_sub_table_1(b"", font)
    table.names, table.indexFormat, table.imageFormat, table.imageDataOffset = list(pictures), 1, 17, 0
    table.firstGlyphIndex, table.lastGlyphIndex = 0, len(glyphs) - 1
    strike.indexSubTables = [table]
    for name, picture in pictures.items():
        bitmap = data[name] = cbdt_bitmap_format_17(b"", font)
        bitmap.metrics, bitmap.imageData = SmallGlyphMetrics(), picture
        for field in ("height", "width", "BearingX", "BearingY", "Advance"):
            setattr(bitmap.metrics, field, 8)
    font["CBLC"], font["CBDT"] = newTable("CBLC"), newTable("CBDT")
    font["CBLC"].version = font["CBDT"].version = 3.0
    font["CBLC"].strikes, font["CBDT"].strikeData = [strike], [data]
    font.save(path)
    return path


def png(level):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def font(tmp_path):
    return make_font(tmp_path / "font.ttf", {"bear": png(1), "wolf": png(2), "farmer": png(3)})


@pytest.fixture
def names(tmp_path):
    folder = tmp_path / "names" / "usr/share/unicode/cldr/common/annotations"
    folder.mkdir(parents=True)
    for locale, own in NAMES.items():
        rows = "".join(f'<annotation cp="{cp}" type="tts">{text}</annotation>' for cp, text in own.items())
        (folder / f"{locale}.xml").write_text(f"<ldml><annotations>{rows}</annotations></ldml>", "utf-8")
    return tmp_path / "names"


def test_emoji_have_pictures_and_names(font, names, tmp_path):
    read = emoji.read_emoji(font, names, tmp_path / "cache", langs=["fr_fr", "ru_ru"])
    found = {one.id: one for one in read.concepts}
    assert set(found) == {"emoji 🐻", "emoji 🐺", "emoji 👨\u200d🌾"}
    assert found["emoji 🐻"].texts == {"fr_fr": "ours", "ru_ru": "медведь"}
    for name, level in (("emoji 🐻", 1), ("emoji 👨\u200d🌾", 3)):
        (picture,) = found[name].pictures
        assert (np.asarray(Image.open(picture)) == level).all()
    assert [(one.id, one.reason) for one in read.dropped] == [("🦊", "no picture in the font")]
    again = emoji.read_emoji(font, names, tmp_path / "cache", langs=["fr_fr", "ru_ru"])
    assert again == read


def test_named_as_a_held_out_stamp_in_any_language(font, names, tmp_path):
    stamps = {
        "a": Stamp("a bear", "a bear", "test", {"en": "A bear.", "ru": "Медведь."}),
        "b": Stamp("a wolf", "a wolf", "train", {"en": "A wolf.", "fr": "Un loup."}),
        "c": Stamp("a fox", "a fox", "dev", {"fr": "Un renard."}),
    }
    held_out = emoji.held_out_texts(stamps)
    assert {"Un renard.", "renard."} <= set(held_out) and "Un loup." not in held_out
    read = emoji.read_emoji(font, names, tmp_path / "cache", held_out, ["fr_fr", "ru_ru"])
    assert {one.id for one in read.concepts} == {"emoji 🐺", "emoji 👨\u200d🌾"}
    assert [one.reason for one in read.dropped] == ["named as a stamp of dev or test"] * 2


def test_what_is_no_such_font(names, font, tmp_path, monkeypatch):
    (tmp_path / "no.ttf").write_bytes(b"no font")
    with pytest.raises(AssetError, match="no font with bitmaps"):
        emoji.read_emoji(tmp_path / "no.ttf", names, tmp_path / "cache", langs=["fr_fr"])
    empty = make_font(tmp_path / "empty.ttf", {"man": png(1)})
    with pytest.raises(DataError, match="has a picture of none of 4 named emoji"):
        emoji.read_emoji(empty, names, tmp_path / "cache", langs=["fr_fr"])
    monkeypatch.setitem(sys.modules, "fontTools.ttLib", None)
    with pytest.raises(AssetError, match=r"need fontTools: .*images"):
        emoji.read_emoji(font, names, tmp_path / "other", langs=["fr_fr"])
