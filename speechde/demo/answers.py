"""From a question to the ranked rows of an index, and to the HTML that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from speechde.api import SpeechTextEncoder
from speechde.demo.clips import PREVIEW_SECONDS, Limits, lies_below, playable, read_text, read_upload
from speechde.demo.pictures import read_picture, viewable
from speechde.errors import AssetError, DataError
from speechde.languages import LANGUAGES
from speechde.media.audio import AudioError
from speechde.media.image import ImageError
from speechde.search.index import Hit, SearchIndex
from speechde.types import Image, Item

OUTSIDE = "outside the folders of this page"
UNKNOWN = ""  # the choice for a language that is not known


@dataclass(frozen=True)
class Found:
    """One row of the answer."""

    rank: int
    score: float
    text: str
    language: str
    audio: str = ""  # a data: URL; empty for texts
    note: str = ""  # what is to be known of the clip or the picture
    image: str = ""  # a data: URL


class Answers:
    """Ranks an index by a question: spoken, written, or a picture.

    Args:
        folders: whose clips are played, and pictures shown. An index names any file of the machine, whoever made it.

    Raises:
        DataError: the index holds vectors of another model.
    """

    def __init__(
        self, encoder: SpeechTextEncoder, index: SearchIndex, limits: Limits, folders: Sequence[Path] = ()
    ) -> None:
        index.check_model(encoder.fingerprint)
        self.encoder, self.index, self.limits, self.folders = encoder, index, limits, folders

    @property
    def media(self) -> frozenset[str]:
        """What the model reads besides text: ``speech``, ``image``."""
        return frozenset(self.encoder.trained.model.frontends)

    def by_speech(self, path: str | Path | None, language: str, count: int) -> list[Found]:
        """Rows nearest to a recording.

        Raises:
            DataError: there is no recording, or one that ``read_upload`` refuses.
        """
        if not path:
            raise DataError("There is no recording; record or upload one first.")
        waveform = read_upload(path, self.limits)
        vector = self.encoder.encode_speech((waveform, 16_000), language or None)
        return found(self.index.search(vector, count)[0], self.folders)

    def by_text(self, text: str, language: str, count: int) -> list[Found]:
        """Rows nearest to a text.

        Raises:
            DataError: a text that ``read_text`` refuses.
        """
        vector = self.encoder.encode_text(read_text(text, self.limits), language or None)
        return found(self.index.search(vector, count)[0], self.folders)

    def by_picture(self, path: str | Path | None, language: str, count: int) -> list[Found]:
        """Rows nearest to a picture; the language is of the prefix, where that names one.

        Raises:
            DataError: there is no picture, or one that ``read_picture`` refuses.
        """
        if not path:
            raise DataError("There is no picture; choose one first.")
        vector = self.encoder.embed(Item(Image(read_picture(path, self.limits)), lang=language or None))
        return found(self.index.search(vector, count)[0], self.folders)


def language_choices(seen: Sequence[str]) -> list[tuple[str, str]]:
    """Names and codes to choose from: unknown first, then those that the model was trained on, then all others."""
    named = sorted(LANGUAGES, key=lambda code: (code not in seen, LANGUAGES[code].name))
    return [("unknown", UNKNOWN), *((f"{LANGUAGES[code].name} ({code})", code) for code in named)]


def found(hits: Sequence[Hit], folders: Sequence[Path]) -> list[Found]:
    """Hits of an index as they are shown; what is not below ``folders``, or cannot be read, says so."""
    out = []
    for rank, hit in enumerate(hits, 1):
        code = hit.row.get("language") or ""
        name = LANGUAGES[code].name if code in LANGUAGES else code
        audio, image, note = "", "", ""
        path = hit.row.get("audio") or hit.row.get("image")
        try:
            if hit.row.get("audio"):
                audio, note = _played(path, folders)
            elif path:
                image, note = _seen(path, folders)
        except AudioError as error:
            note = f"cannot be played ({error.reason})"
        except ImageError as error:
            note = f"cannot be shown ({error.reason})"
        except AssetError:  # names what to install, and the path
            note = "cannot be shown (a drawing, which is not read here)"
        called = Path(hit.id).name if hit.id == path else hit.id  # visitors need no paths
        out.append(Found(rank, hit.score, hit.row.get("text") or called, name, audio, note, image))
    return out


def _played(path: str, folders: Sequence[Path]) -> tuple[str, str]:
    if not lies_below(path, folders):
        return "", f"not played: {OUTSIDE}"
    audio, seconds = playable(path)
    return audio, f"first {PREVIEW_SECONDS:g} of {seconds:.0f} s" if seconds > PREVIEW_SECONDS else ""


def _seen(path: str, folders: Sequence[Path]) -> tuple[str, str]:
    return (viewable(path), "") if lies_below(path, folders) else ("", f"not shown: {OUTSIDE}")


def results_html(rows: Sequence[Found]) -> str:
    """The ranked rows as a list; whatever an index holds is text and never markup."""
    return _TEMPLATES.get_template("results.html.j2").render(rows=rows)


def problem_html(message: str) -> str:
    """A message in the place of the results."""
    return _TEMPLATES.from_string('<p class="problem" role="alert">{{ message }}</p>').render(message=message)


_TEMPLATES = jinja2.Environment(loader=jinja2.PackageLoader("speechde.demo", "."), autoescape=True)
