"""Queries of a picture and a recording, whole and in parts, clean and in noise, on a tiny model that sees and hears."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image as Pillow

from speechde.api import SpeechTextEncoder
from speechde.conditions import CLEAN, parse
from speechde.corpora.examples_file import read_examples
from speechde.errors import DataError
from speechde.evaluation.parts import REVERSED, WHOLE, evaluate_parts, variants
from speechde.media.degradations import degrade
from speechde.reporting.index import index
from speechde.reporting.parts import write_parts_report
from speechde.types import SAMPLE_RATE, Audio, Image, Item, Text

LANGS = ("fr_fr", "ro_ro")
SYSTEMS = [WHOLE, "image alone", "speech alone", REVERSED]


@pytest.fixture
def encoder(tiny_model):
    return SpeechTextEncoder.from_pretrained(tiny_model("continuous", sees=True, speech_layer=1), device="cpu")


@pytest.fixture
def pairs(make_wav, tmp_path):
    """A file of six concepts in two languages: a picture, then a recording, and their text."""
    rows = []
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        Pillow.fromarray(pixels).save(tmp_path / f"{number}.png")
        for lang in LANGS:
            make_wav(f"{lang}-{number}.wav", 0.3 + 0.05 * number, 150 + 40 * number)
            rows.append({
                "query": {"parts": [{"image": f"{number}.png"}, {"audio": f"{lang}-{number}.wav"}], "lang": lang,
                          "meaning": f"concept {number}"},
                "positive": {"parts": [f"{lang} thing {number}"], "lang": lang, "meaning": f"concept {number}"},
                "stratum": lang, "split": "test",
            })  # fmt: skip
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def by_hand(encoder, path, vary):
    """Recall@1 by language: each query and each answer an item of its own for the library."""
    found = {}
    for lang in LANGS:
        own = [one for one in read_examples(path) if one.stratum == lang]
        queries = encoder.embed([vary(one.query) for one in own])
        scores = queries @ encoder.embed([one.positive for one in own]).T
        found[lang] = np.mean(scores.argmax(1) == np.arange(len(own)))
    return found


def noisy(item):
    name = item.parts[1].content.rpartition("/")[2]
    waveform = SpeechTextEncoder.waveform(None, item.parts[1].content)
    return Item(item.parts[0], Audio(degrade(waveform, parse("snr0"), name), SAMPLE_RATE), lang=item.lang)


def test_parts_and_conditions_are_what_the_library_says(encoder, pairs):
    found = evaluate_parts(encoder, read_examples(pairs), "test", conditions=[parse("snr0")])
    assert (found["queries"], found["gallery"], found["languages"], found["dropped"]) == (12, 6, 2, {})
    ways = variants([one.query for one in read_examples(pairs)])
    assert list(found["conditions"]) == ["clean", "snr0"] and list(found["conditions"]["clean"]) == SYSTEMS
    for name in SYSTEMS:
        for condition, heard in (("clean", lambda item: item), ("snr0", noisy)):
            rows = found["conditions"][condition][name]["per_language"]
            expected = by_hand(encoder, pairs, lambda item, heard=heard, name=name: ways[name](heard(item)))
            assert {lang: row["recall@1"] for lang, row in rows.items()} == pytest.approx(expected), (name, condition)
    clean, snr0 = (found["conditions"][name] for name in ("clean", "snr0"))
    assert clean["image alone"] == {**snr0["image alone"], **clean["image alone"]}  # noise is for the ear
    assert (clean[WHOLE]["seen"]["languages"], clean[WHOLE]["zero_shot"]["languages"]) == (1, 1)


def test_leads_are_paired_and_clean_is_what_noise_changes(encoder, pairs):
    found = evaluate_parts(encoder, read_examples(pairs), "test", conditions=[parse("snr0")])["conditions"]
    for answers in found.values():
        for name in SYSTEMS[1:]:
            lead = answers[WHOLE]["seen"]["recall@1"] - answers[name]["seen"]["recall@1"]
            assert answers[name]["seen"]["lead"] == pytest.approx(lead)
        assert "lead" not in answers[WHOLE]["seen"]
    change = found["snr0"][WHOLE]["seen"]["recall@1"] - found["clean"][WHOLE]["seen"]["recall@1"]
    assert found["snr0"][WHOLE]["seen"]["change"] == pytest.approx(change)
    assert "change" not in found["clean"][WHOLE]["seen"]


def test_a_file_is_decoded_once_for_each_condition_that_changes_it(encoder, pairs, monkeypatch):
    read = []
    for name in ("waveform", "picture"):
        own = getattr(encoder, name)
        monkeypatch.setattr(encoder, name, lambda content, *more, own=own: read.append(content) or own(content, *more))
    evaluate_parts(encoder, read_examples(pairs), "test", conditions=[parse("snr0")])
    read = [content for content in read if isinstance(content, str)]  # and not samples
    counts = {suffix: [read.count(one) for one in set(read) if one.endswith(suffix)] for suffix in ("wav", "png")}
    assert counts == {"wav": [2] * 12, "png": [1] * 6}


def test_what_cannot_be_read_is_left_out_and_counted(encoder, pairs):
    whole = evaluate_parts(encoder, read_examples(pairs), "test")
    (pairs.parent / "3.png").write_bytes(b"no picture")
    (pairs.parent / "fr_fr-1.wav").write_bytes(b"")
    found = evaluate_parts(encoder, read_examples(pairs), "test")
    assert found["queries"] == 9 and sum(found["dropped"].values()) == 2 and len(found["dropped"]) == 2
    assert whole["queries"] == 12
    for file in pairs.parent.glob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"not one of 12 examples of the split can be used: .*png"):
        evaluate_parts(encoder, read_examples(pairs), "test")
    with pytest.raises(DataError, match="not one of 0 examples of the split can be used; it has no example"):
        evaluate_parts(encoder, read_examples(pairs), "dev")


def test_what_can_be_used_does_not_depend_on_the_condition(encoder, pairs):
    """Noise of 30 dB above the speech is far past full scale, and half of a short clip is too short to be recorded."""
    conditions = [parse("snr-30"), parse("speed2")]
    found = evaluate_parts(encoder, read_examples(pairs), "test", conditions=conditions)
    assert found["dropped"] == {} and [*found["conditions"]] == ["clean", "snr-30", "speed2"]


def test_queries_of_one_part_are_asked_as_they_are():
    query = Item(Audio("a.wav"))
    assert list(variants([query])) == [WHOLE] and variants([query])[WHOLE](query) is query
    twice = variants([Item(Text("a"), Text("b"))])
    assert list(twice) == [WHOLE, REVERSED]
    assert [part.content for part in twice[REVERSED](Item(Text("a"), Text("b"))).parts] == ["b", "a"]
    mixed = variants([Item(Image("a.png"), Audio("a.wav")), Item(Audio("a.wav"), Text("b"))])
    assert list(mixed) == [WHOLE, "speech alone", REVERSED]  # pictures and texts are not in every query
    assert list(variants([Item(Image("a.png"), Audio("a.wav")), Item(Text("b"), Text("c"))])) == [WHOLE, REVERSED]
    assert CLEAN.name == "clean"


def test_files_of_a_report_and_its_place_among_the_results(encoder, pairs, tmp_path):
    metrics = evaluate_parts(encoder, read_examples(pairs), "test", conditions=[parse("snr0"), parse("snr10")])
    metrics |= {"examples": "pairs.jsonl", "split": "test", "model": "m", "commit": "0123abc", "hardware": "a machine",
                "command": "speechde evaluate-parts", "seconds": 1.0}  # fmt: skip
    write_parts_report(tmp_path / "results/pairs", metrics)
    table = (tmp_path / "results/pairs/table.md").read_text("utf-8")
    assert "| seen | snr0 |" in table and "model − speech alone [95 % CI]" in table
    assert "12 queries of the split test in 2 languages, each among 6 answers" in table
    assert (tmp_path / "results/pairs/noise.png").read_bytes().startswith(b"\x89PNG")
    page = index(tmp_path / "results")
    assert "## Parts of queries: pairs" in page and "[table](pairs/table.md)" in page
    kept = json.loads((tmp_path / "results/pairs/parts.json").read_text("utf-8"))
    write_parts_report(tmp_path / "again", kept)
    assert (tmp_path / "again/table.md").read_text("utf-8") == table
    kept["conditions"] = {"clean": kept["conditions"]["clean"]}
    write_parts_report(tmp_path / "again", kept)
    assert not (tmp_path / "again/noise.png").exists(), "it was of other conditions"
