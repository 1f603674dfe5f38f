"""Emoji: small drawings of some 1,900 things, with their names in 90 languages.

The pictures are the bitmaps (136 × 128 PNG) inside the font of the Debian package fonts-noto-color-emoji, table CBDT;
an emoji of several characters is a ligature of the font. The names are those of Unicode CLDR
(:mod:`speechde.corpora.synthetic`). The split is by emoji: a hash of its characters.

They are for pre-finetuning before the stamps, so an emoji is left out, in all languages, when one of its names is a
text of a stamp of dev or test in any of the package's 77 languages, with or without its article.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from speechde.cache import atomic_directory, fingerprint, sha256_file
from speechde.corpora import debian, stamps, synthetic
from speechde.corpora.load import ARTICLE
from speechde.corpora.pictures import Concept, Pictures, check_apart, readable
from speechde.corpora.stamps import Stamp
from speechde.errors import AssetError, DataError
from speechde.install import install_command
from speechde.text import normalise_text
from speechde.types import Dropped

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont

PACKAGE = "fonts-noto-color-emoji"
VERSION = "2.042-0+deb12u1"
SHA256 = "a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751"
LICENCE = "OFL-1.1 (pictures), Unicode-DFS-2016 (names)"
FRACTIONS = (0.9, 0.05, 0.05)
FONT = PurePosixPath("usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
_COPYRIGHT = PurePosixPath("usr/share/doc") / PACKAGE / "copyright"
_VARIATION = "\ufe0f"  # asks for the coloured form, which is the only one here


def find_font(archive: str | Path | None, cache_dir: str | Path, sha256: str | None = SHA256) -> Path:
    """The font below ``cache_dir``, its package given, found or fetched as ``debian.find_archive`` does."""
    cache_dir = Path(cache_dir)
    path = debian.find_archive(PACKAGE, VERSION, sha256, archive, cache_dir / "downloads", "--archive")
    root = cache_dir / "corpora" / f"{PACKAGE}-{VERSION}"
    return debian.unpack(path, root, {FONT, _COPYRIGHT}.__contains__, FONT.parent) / FONT


def read_emoji(
    font: str | Path,
    names: str | Path,
    cache_dir: str | Path,
    held_out: Iterable[str] = (),
    langs: Sequence[str] = synthetic.NAMED,
    seed: int = 0,
) -> Pictures:
    """Emoji with a picture in ``font`` and a name, all of whose names are in none of ``held_out``.

    Args:
        names: the folder of ``synthetic.find_texts``.
        cache_dir: where the pictures are written, once.
        held_out: texts of any language, as :func:`held_out_texts` gives them.

    Raises:
        AssetError: fontTools is not installed, or ``font`` is no font with bitmaps.
        DataError: no emoji is left.
    """
    named: dict[str, dict[str, str]] = defaultdict(dict)
    for lang, characters, text in synthetic.read_names(names, langs):
        named[characters].setdefault(lang, text)
    forbidden = {normalise_text(text) for text in held_out}
    dropped, kept = [], {}
    for characters, texts in named.items():
        if found := [text for text in texts.values() if normalise_text(text) in forbidden]:
            dropped.append(Dropped(characters, "named as a stamp of dev or test", found[0]))
        else:
            kept[characters] = texts
    pictures = _pictures(Path(font), sorted(kept), Path(cache_dir))
    dropped += [Dropped(one, "no picture in the font") for one in kept if one not in pictures]
    found, unusable = readable((characters, str(path)) for characters, path in pictures.items())
    concepts = [
        Concept(f"emoji {one}", stamps.assign_split(one, seed, FRACTIONS), tuple(found[one]), texts)
        for one, texts in kept.items()
        if found.get(one)
    ]
    if not concepts:
        raise DataError(f"{font} has a picture of none of {len(named)} named emoji")
    check_apart(concepts)
    return Pictures("emoji", concepts, dropped + unusable, LICENCE)


def held_out_texts(texts: Mapping[str, Stamp]) -> list[str]:
    """Every text of the stamps (``stamps.read_texts``) of dev and test, in all languages, and without its article."""
    found = [text for stamp in texts.values() if stamp.split != "train" for text in stamp.texts.values()]
    return found + [ARTICLE.sub("", text) for text in found]


def _pictures(font: Path, wanted: Collection[str], cache_dir: Path) -> dict[str, Path]:
    """The picture of each emoji that the font has one of, as a file named by its characters."""
    key = fingerprint([sha256_file(font), list(wanted)])
    folder = cache_dir / "corpora" / f"{PACKAGE}-{VERSION}-pictures-{key}"
    if not folder.is_dir():
        opened = _open(font)
        glyphs, bitmaps = _Glyphs(opened), opened["CBDT"].strikeData[0]
        with atomic_directory(folder) as part:
            for characters in wanted:
                bitmap = bitmaps.get(glyphs(characters))
                if bitmap is not None:
                    (part / _file(characters)).write_bytes(bitmap.imageData)
    return {one: folder / _file(one) for one in wanted if (folder / _file(one)).is_file()}


def _file(characters: str) -> str:
    return "-".join(f"{ord(one):04x}" for one in characters) + ".png"


def _open(font: Path) -> TTFont:
    try:
        from fontTools.ttLib import TTFont, TTLibError
    except ImportError as error:
        raise AssetError(f"the pictures inside a font need fontTools: {install_command('images')}") from error
    try:
        opened = TTFont(font)
        opened["CBDT"], opened["cmap"], opened["GSUB"]
    except (TTLibError, KeyError, OSError) as error:
        raise AssetError(f"{font} is no font with bitmaps ({error}); get the package {PACKAGE} again") from error
    return opened


class _Glyphs:
    """Characters → the name of the glyph that shows them as one, or None."""

    def __init__(self, font: TTFont) -> None:
        self._characters = font.getBestCmap()
        self._ligatures: dict[tuple[str, ...], str] = {}
        for lookup in font["GSUB"].table.LookupList.Lookup:
            for table in lookup.SubTable:
                table = getattr(table, "ExtSubTable", table)
                for first, ligatures in getattr(table, "ligatures", {}).items():
                    self._ligatures |= {(first, *one.Component): one.LigGlyph for one in ligatures}

    def __call__(self, characters: str) -> str | None:
        names = tuple(self._characters.get(ord(one)) for one in characters if one != _VARIATION)
        return names[0] if len(names) == 1 else self._ligatures.get(names)
