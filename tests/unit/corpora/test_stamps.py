import os
from collections import defaultdict
from pathlib import Path

import pytest

from speechde.corpora import stamps
from speechde.errors import AssetError, ConfigError, DataError
from speechde.text import normalise_text

FOLDER = "usr/share/tuxpaint/stamps"


def stamp(name, english, texts, clips, suffix="ogg"):
    """Files of one stamp; ``clips`` names the locales that were recorded."""
    lines = [english, *(f"{locale}.utf8={text}" for locale, text in texts.items())]
    files = {f"{name}.txt": "\n".join(lines).encode(), f"{name}.png": b"picture"}
    return files | {f"{name}_desc_{locale}.{suffix}": f"{name} {locale}".encode() for locale in clips}


def write_tree(root, *groups):
    for files in groups:
        for name, data in files.items():
            path = root / FOLDER / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return root


def many(count):
    return [
        stamp(f"n/{i}", f"Thing {i}.", {"fr": f"Chose {i}.", "ro": f"Lucru {i}."}, ["fr", "ro"]) for i in range(count)
    ]


def test_archive_is_found_and_unpacked_for_texts_clips_and_licence_only(tmp_path, make_deb):
    files = stamp("a/bear", "A bear.", {"fr": "Un ours."}, ["fr"]) | {"a/bear_fx.ogg": b"roar"}
    members = {f"./{FOLDER}/{name}": data for name, data in files.items()}
    licence = "usr/share/doc/tuxpaint-stamps-default/copyright"
    archive = make_deb(tmp_path / "tuxpaint-stamps-default_1_all.deb", {**members, f"./{licence}": b"GPL-2"})
    assert stamps.find_archive(None, tmp_path, None) == archive
    with pytest.raises(AssetError, match=rf"expected {stamps.SHA256}; set data\.archive=PATH.*{stamps.PACKAGE}"):
        stamps.find_archive(archive, tmp_path)
    root = stamps.unpack(archive, tmp_path / "out" / "stamps")
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == [
        licence,
        f"{FOLDER}/a/bear.txt",
        f"{FOLDER}/a/bear_desc_fr.ogg",
    ]
    assert [u.text for u in stamps.read_stamps(root).utterances] == ["Un ours."]


def assert_split_is_clean(corpus):
    """No concept, and no transcript of any language, lies in two splits."""
    homes = defaultdict(set)
    for u in corpus.utterances:
        homes["concept", u.sentence_id].add(u.split)
        homes[u.lang, normalise_text(u.text)].add(u.split)
        homes["en", normalise_text(u.translation)].add(u.split)
    assert not {key: found for key, found in homes.items() if len(found) > 1}


def test_split_has_no_concept_or_transcript_in_two_parts(tmp_path):
    # Pairs share a French text, and a Romanian text links two pairs: groups of about four concepts.
    files = [
        stamp(
            f"n/{i}",
            f"Thing {i}.",
            {"fr": f"Chose {i // 2}!", "ro": f"Lucru {(i + 1) // 2 if i % 4 else i}"},
            ["fr", "ro"],
        )
        for i in range(200)
    ]
    corpus = stamps.read_stamps(write_tree(tmp_path, *files))
    assert {u.split for u in corpus.utterances} == {"train", "dev", "test"}
    assert_split_is_clean(corpus)


def test_concepts_merge_through_any_language():
    texts = [
        {"en": "A chick.", "fr": "Un poussin."},
        {"en": "A chicken.", "fr": "Une poule.", "be": "Кура"},
        {"en": "A hen!", "fr": "une poule", "de": "Ein Tier"},
        {"en": "a  hen", "be": "кура."},
        {"en": "A cow.", "fr": "Une vache.", "de": "Ein Tier"},
    ]
    groups = stamps.merge_concepts(texts)
    assert groups == {"a chick": "a chick", "a chicken": "a chicken", "a hen": "a chicken", "a cow": "a cow"}


def test_split_shares_and_seed(tmp_path):
    root = write_tree(tmp_path, *many(1000))
    corpus = stamps.read_stamps(root)
    shares = [len(corpus.select(split, ["fr_fr"])) / 1000 for split in ("train", "dev", "test")]
    assert shares == pytest.approx([0.6, 0.1, 0.3], abs=0.05)
    assert {u.split for u in stamps.read_stamps(root, fractions=(0, 0, 1)).utterances} == {"test"}
    other = stamps.read_stamps(root, seed=1)
    assert [u.split for u in other.utterances] != [u.split for u in corpus.utterances]


def test_split_is_stable_when_clips_and_languages_change(tmp_path):
    before = {u.id: u.split for u in stamps.read_stamps(write_tree(tmp_path, *many(50))).utterances}
    write_tree(tmp_path, *(stamp(f"m/{i}", f"Other {i}.", {"fr": f"Autre {i}."}, ["fr"]) for i in range(50)))
    after = {u.id: u.split for u in stamps.read_stamps(tmp_path).utterances}
    assert len(after) == 150
    assert {key: after[key] for key in before} == before
    only = stamps.read_stamps(tmp_path, seen=["fr_fr"], zero_shot=[])
    assert {u.id: u.split for u in only.utterances} == {key: s for key, s in after.items() if key.endswith(".fr")}


def test_fields_of_an_utterance(tmp_path):
    texts = {"es": "  Un\u00a0oso   cafe\u0301. ", "el": "Αρκούδα."}
    root = write_tree(tmp_path, stamp("a/b/bear", "A brown bear.", texts, ["es", "el"]))
    corpus = stamps.read_stamps(root)
    greek, spanish = corpus.utterances
    assert (spanish.id, spanish.lang, spanish.text) == ("a/b/bear.es", "es_419", "Un oso café.")
    assert (spanish.sentence_id, spanish.translation, spanish.source) == ("a brown bear", "A brown bear.", "stamps")
    assert Path(spanish.audio) == root / FOLDER / "a/b/bear_desc_es.ogg"
    assert (greek.id, greek.lang, greek.sentence_id, greek.synthetic) == (
        "a/b/bear.el",
        "el_gr",
        "a brown bear",
        False,
    )
    assert (corpus.seen, corpus.zero_shot, corpus.licence) == (stamps.SEEN, stamps.ZERO_SHOT, "GPL-2")


def test_clips_left_out_are_listed(tmp_path):
    files = stamp("bear", "A bear.", {"fr": "Un ours.", "ro": "Un urs.", "bg": ""}, ["fr", "ro", "bg", "nl", "pt_BR"])
    files |= {
        "bear_desc.ogg": b"english",
        "bear_desc_fr.wav": b"second",
        "bear_desc_be.ogg": b"x",
        "wolf_desc_fr.ogg": b"y",
        "bear_desc_ro.ogg": b"",
        "fox.txt": b"\xff\xfe",
        "fox_desc_fr.ogg": b"z",
        "bear_desc_notes.md": b"no clip",
    }
    corpus = stamps.read_stamps(write_tree(tmp_path, files))
    assert [u.id for u in corpus.utterances] == ["bear.fr"]
    assert corpus.utterances[0].audio.endswith("bear_desc_fr.ogg")
    assert {(d.id, d.reason) for d in corpus.dropped} == {
        ("bear.en", "language not used"),
        ("bear.nl", "language not used"),
        ("bear.pt_BR", "language not used"),
        ("bear.bg", "no transcript"),
        ("bear.be", "no transcript"),
        ("wolf.fr", "no transcript"),
        ("fox.fr", "no transcript"),
        ("fox", "unreadable text"),
        ("bear.ro", "empty file"),
        ("bear.fr", "second file"),
    }


def test_doubled_suffix_is_one_clip(tmp_path):
    files = stamp("bear", "A bear.", {"da": "En bjørn."}, ["da"], suffix="ogg.ogg")
    assert [u.id for u in stamps.read_stamps(write_tree(tmp_path, files)).utterances] == ["bear.da"]


def test_copied_recordings(tmp_path):
    files = {}
    for name, french in (("a", "Un ours."), ("b", "un ours"), ("c", "Un loup."), ("d", "Un renard.")):
        files |= stamp(name, f"Animal {name}.", {"fr": french}, ["fr"])
    files["b_desc_fr.ogg"] = files["a_desc_fr.ogg"]
    files["d_desc_fr.ogg"] = files["c_desc_fr.ogg"]
    files |= stamp("e", "Animal e.", {"fr": "Un lion."}, ["fr"])
    corpus = stamps.read_stamps(write_tree(tmp_path, files))
    assert [u.id for u in corpus.utterances] == ["a.fr", "e.fr"]
    assert [(d.id, d.reason) for d in corpus.dropped] == [
        ("b.fr", "copied recording"),
        ("c.fr", "copied recording, transcripts differ"),
        ("d.fr", "copied recording, transcripts differ"),
    ]


def test_texts_that_differ_only_in_case_or_punctuation_get_one_spelling(tmp_path):
    files = stamp("a", "The letter a.", {"ca": "La lletra a."}, ["ca"])
    files |= stamp("b", "The letter A", {"ca": "La lletra A"}, ["ca"])
    corpus = stamps.read_stamps(write_tree(tmp_path, files))
    assert {(u.text, u.translation) for u in corpus.utterances} == {("La lletra a.", "The letter a.")}
    assert len(corpus.utterances) == 2


def test_bad_arguments(tmp_path):
    with pytest.raises(DataError, match=r"holds no usr/share/tuxpaint/stamps"):
        stamps.read_stamps(tmp_path)
    root = write_tree(tmp_path, *many(1))
    with pytest.raises(ConfigError, match="stamps language: 'nl_nl'"):
        stamps.read_stamps(root, seen=["nl_nl"])
    with pytest.raises(ConfigError, match="both seen and zero-shot"):
        stamps.read_stamps(root, seen=["fr_fr"], zero_shot=["fr_fr"])
    with pytest.raises(ConfigError, match="sum to 1"):
        stamps.read_stamps(root, fractions=(0.6, 0.1, 0.1))
    with pytest.raises(DataError, match="no usable clip of el_gr"):
        stamps.read_stamps(root, seen=["el_gr"], zero_shot=[])


def test_real_corpus():
    root = os.environ.get("SPEECHDE_STAMPS")
    if not root:
        pytest.skip("set SPEECHDE_STAMPS to the folder of an unpacked tuxpaint-stamps-default")
    corpus = stamps.read_stamps(root)
    counts = {lang: len(corpus.select(langs=[lang])) for lang in stamps.LOCALES}
    assert counts == {
        "ca_es": 808,
        "es_419": 752,
        "fr_fr": 770,
        "ru_ru": 782,
        "ro_ro": 777,
        "bg_bg": 774,
        "be_by": 617,
        "el_gr": 659,
        "da_dk": 314,
    }
    assert corpus.dropped_counts() == {
        "copied recording": 897,
        "language not used": 242,
        "no transcript": 39,
        "copied recording, transcripts differ": 2,
    }
    assert_split_is_clean(corpus)
