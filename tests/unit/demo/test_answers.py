"""Ranking, and the HTML of the results."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image as Pillow

from speechde.demo import clips
from speechde.demo.answers import Answers, Found, found, language_choices, problem_html, results_html
from speechde.demo.clips import Limits
from speechde.errors import DataError
from speechde.search.index import Hit, SearchIndex


class Encoder:
    """A text is the unit vector that it names; a clip is the third one."""

    fingerprint = "f"

    def __init__(self):
        self.languages = []

    def encode_text(self, text, language):
        self.languages.append(language)
        return np.eye(4, dtype=np.float32)[int(text)]

    def encode_speech(self, clip, language):
        self.languages.append(language)
        assert clip[0].dtype == np.float32 and clip[1] == 16_000
        return np.eye(4, dtype=np.float32)[2]

    def embed(self, item):
        (part,) = item.parts
        self.languages.append(item.lang)
        assert part.modality == "image" and part.content.shape == (8, 9, 3)
        return np.eye(4, dtype=np.float32)[1]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "seen.png"
    Pillow.fromarray(np.full((8, 9, 3), 90, np.uint8)).save(path)
    return path


@pytest.fixture
def answers():
    rows = [{"id": f"id{i}", "language": "fr_fr", "text": f"text {i}", "audio": None} for i in range(4)]
    vectors = np.eye(4, dtype=np.float32) + 0.01 * np.arange(4, dtype=np.float32)[:, None]
    index = SearchIndex.build(vectors, rows, model="M", fingerprint="f")
    return Answers(Encoder(), index, Limits())


def test_the_nearest_row_comes_first(answers, make_wav, picture):
    rows = answers.by_text(" 1 ", "fr_fr", 3)
    assert [(row.rank, row.text, row.language) for row in rows] == [
        (1, "text 1", "French"), (2, "text 3", "French"), (3, "text 2", "French")]  # fmt: skip
    assert [row.score for row in rows] == pytest.approx([1.01, 0.03, 0.02])
    assert answers.by_speech(str(make_wav()), "", 1)[0].text == "text 2"
    assert answers.by_picture(picture, "", 1)[0].text == "text 1"
    assert answers.encoder.languages == ["fr_fr", None, None]  # unknown is no language


def test_nothing_was_asked(answers):
    with pytest.raises(DataError, match="There is no recording"):
        answers.by_speech(None, "", 1)
    with pytest.raises(DataError, match="There is no picture"):
        answers.by_picture(None, "", 1)
    with pytest.raises(DataError, match="Nothing was typed"):
        answers.by_text("", "", 1)


def test_an_index_of_another_model_is_refused(answers):
    index = SearchIndex.build(np.eye(4, dtype=np.float32), answers.index.rows, model="N", fingerprint="g")
    with pytest.raises(DataError, match=r"the index holds vectors of the model g \(N\)"):
        Answers(Encoder(), index, Limits())


def test_clips_are_there_to_be_played(make_wav, tmp_path, monkeypatch):
    hits = [
        Hit(0.5, "a", {"id": "a", "audio": str(make_wav()), "language": None}),
        Hit(0.4, "b", {"id": "b", "audio": str(tmp_path / "gone.wav"), "language": "xx", "text": "gone"}),
    ]
    monkeypatch.setattr(clips, "PREVIEW_SECONDS", 30.0)
    first, second = found(hits, [tmp_path])
    assert first.text == "a" and first.audio.startswith("data:audio/wav") and first.language == first.note == ""
    assert (second.audio, second.language, second.note) == ("", "xx", "cannot be played (missing file)")
    page = results_html([first, second])
    assert page.count("<li>") == 2 and page.count("<audio controls") == 1
    assert "0.500" in page and "xx · cannot be played (missing file)" in page


def test_pictures_are_there_to_be_seen(picture, tmp_path):
    (tmp_path / "inside").mkdir()
    names = [str(picture), str(tmp_path / "gone.png"), str(picture)]
    folders = [tmp_path]
    rows = found([Hit(0.5, name, {"id": name, "audio": None, "image": name}) for name in names[:2]], folders)
    rows += found([Hit(0.5, "c", {"id": "c", "image": names[2]})], [tmp_path / "inside"])
    assert rows[0].image.startswith("data:image/jpeg;base64,") and rows[0].note == ""
    assert [row.text for row in rows] == ["seen.png", "gone.png", "c"]
    assert [(row.image, row.note) for row in rows[1:]] == [
        ("", "cannot be shown (missing file)"), ("", "not shown: outside the folders of this page")]  # fmt: skip
    assert results_html(rows).count('<img alt="" src="data:image/jpeg') == 1


def test_one_drawing_does_not_cost_the_answer_where_none_can_be_read(picture, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)  # the extra images is not installed
    drawing = tmp_path / "a.svg"
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', encoding="utf-8")
    rows = found([Hit(0.5, name, {"id": name, "image": name}) for name in (str(drawing), str(picture))], [tmp_path])
    assert (rows[0].image, rows[0].note) == ("", "cannot be shown (a drawing, which is not read here)")
    assert rows[1].image.startswith("data:image/jpeg;base64,")


def test_only_clips_of_its_folders_are_played(make_wav, tmp_path):
    """An index may name any file: by its path, by one that climbs out, by a link, by a container."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        make_wav().rename(folder / "a.wav")
    (inside / "linked.wav").symlink_to(outside / "a.wav")
    names = [f"{inside}/a.wav", f"{outside}/a.wav", f"{inside}/../outside/a.wav", f"{inside}/linked.wav",
             f"{outside}/x.tar::a.wav", "a\0b.wav", f"{inside}x/a.wav"]  # fmt: skip
    rows = found([Hit(0.5, name, {"id": name, "audio": name}) for name in names], [inside])
    assert rows[0].audio.startswith("data:audio/wav")
    assert {(row.audio, row.note) for row in rows[1:]} == {("", "not played: outside the folders of this page")}


def test_what_an_index_holds_is_never_markup():
    row = Found(1, 0.5, "<script>alert(1)</script>", '"><img src=x>', 'x" onerror="alert(1)')
    page = results_html([row])
    assert "<script" not in page and "<img" not in page and 'onerror="' not in page
    assert "<b>" not in problem_html("<b>clip</b>.wav") and 'role="alert"' in problem_html("no")


def test_languages_to_choose_from():
    choices = language_choices(["ru_ru", "fr_fr"])
    assert choices[:3] == [("unknown", ""), ("French (fr_fr)", "fr_fr"), ("Russian (ru_ru)", "ru_ru")]
    assert len(choices) == 103 and choices[3][0].startswith("Afrikaans")
