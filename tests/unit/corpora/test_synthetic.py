import logging
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
import soundfile

from speechde.corpora import synthetic
from speechde.errors import AssetError, ConfigError, DataError
from speechde.text import normalise_text

FOLDER = "usr/share/unicode/cldr/common/annotations"
NAMES = {
    "ca": {"🐻": "ós", "🐱": "gat", "🌲": "arbre de fulla perenne", "☀": "sol"},
    "fr": {"🐻": "ours", "🐱": "tête de chat", "🌲": "conifère", "☀": "soleil"},
}


def annotations(names, keywords=()):
    lines = [f'<annotation cp="{escape(cp)}" type="tts">{escape(text)}</annotation>' for cp, text in names.items()]
    lines += [f'<annotation cp="{escape(cp)}">{escape(text)}</annotation>' for cp, text in keywords]
    return (
        '<?xml version="1.0" encoding="UTF-8" ?>\n<!DOCTYPE ldml SYSTEM "../../common/dtd/ldml.dtd">\n'
        f"<ldml><annotations>{''.join(lines)}</annotations></ldml>"
    )


def write_tree(root, files=None):
    for locale, text in (files or {locale: annotations(names) for locale, names in NAMES.items()}).items():
        path = root / FOLDER / f"{locale}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


class FakeEspeak:
    """A tone whose length follows the text; says nothing to texts with ``mute``."""

    count = 0

    def read(self, text, lang, speaker):
        FakeEspeak.count += 1
        if "mute" in text:
            return np.zeros(0, np.float32)
        return np.sin(np.arange(160 * (len(text) + speaker.rate)) * speaker.pitch / 500).astype(np.float32) / 2


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(synthetic, "synthesiser", FakeEspeak)
    monkeypatch.setattr(synthetic, "reading_version", lambda: "1")
    monkeypatch.setattr(FakeEspeak, "count", 0)
    return FakeEspeak


def read(root, **options):
    langs = options.pop("langs", ("ca_es", "fr_fr"))
    sets = [synthetic.names(root, langs, options.pop("kinds", ("names",))), *options.pop("more", ())]
    return synthetic.synthetic_corpus(sets, root / "cache", langs, workers=1, **options)


def test_names_are_cleaned_and_unique_and_hold_a_word(tmp_path, caplog):
    names = {"&": " et\u00a0 <caf\u0065\u0301> ", "🐻": "ours", "🧸": "Ours !", "→": "→", "A": "a 1", "B": "!?"}
    write_tree(tmp_path, {"fr": annotations(names, [("🐻", "animal | ours")])})
    with caplog.at_level(logging.INFO):
        assert synthetic.read_names(tmp_path, ["fr_fr"]) == [("fr_fr", "&", "et <café>"), ("fr_fr", "🐻", "ours")]
    assert "fr_fr names: 2 of 6 texts" in caplog.text


def test_keywords_are_split(tmp_path):
    write_tree(tmp_path, {"fr": annotations({"🐻": "nom"}, [("🐻", "animal | ours"), ("🐱", "chat|animal |")])})
    found = synthetic.read_names(tmp_path, ["fr_fr"], "keywords")
    assert found == [("fr_fr", "🐻", "animal"), ("fr_fr", "🐻", "ours"), ("fr_fr", "🐱", "chat")]


def test_damaged_annotations(tmp_path):
    with pytest.raises(DataError, match=r"fr\.xml is missing; unpack the Debian package unicode-cldr-core"):
        synthetic.read_names(tmp_path, ["fr_fr"])
    write_tree(tmp_path, {"fr": "<ldml><annotations>", "ca": '<!DOCTYPE l [<!ENTITY a "aa">]><ldml>&a;</ldml>'})
    with pytest.raises(DataError, match=r"fr\.xml cannot be read"):
        synthetic.read_names(tmp_path, ["fr_fr"])
    with pytest.raises(DataError, match=r"ca\.xml declares XML entities"):
        synthetic.read_names(tmp_path, ["ca_es"])


def test_find_texts_unpacks_annotations_of_languages_with_a_voice(tmp_path, make_deb):
    locales = ("ca", "no", "es_419", "fr", "ast", "zh")
    names = [*(f"{FOLDER}/{locale}.xml" for locale in locales), "usr/share/unicode/other.xml"]
    members = {f"./{name}": annotations(NAMES["fr"]).encode() for name in names}
    licence = "usr/share/doc/unicode-cldr-core/copyright"
    archive = make_deb(tmp_path / "x.deb", {**members, f"./{licence}": b"Unicode-DFS-2016"})
    root = synthetic.find_texts(archive, tmp_path / "cache", sha256=None)
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == {licence, *(f"{FOLDER}/{locale}.xml" for locale in ("ca", "fr", "no", "zh"))}
    assert len(synthetic.read_names(root, ["fr_fr", "nb_no", "cmn_hans_cn"])) == 12
    with pytest.raises(AssetError, match=rf"expected {synthetic.SHA256}; set data\.synthetic\.archive=PATH"):
        synthetic.find_texts(archive, tmp_path / "cache")


def test_fields_of_the_corpus(tmp_path, fake):
    corpus = read(write_tree(tmp_path))
    assert (corpus.seen, corpus.zero_shot, corpus.licence) == (("ca_es", "fr_fr"), (), "Unicode-DFS-2016")
    assert {(u.lang, u.text) for u in corpus.utterances} == {
        (lang, text) for lang in corpus.seen for text in NAMES[lang[:2]].values()
    }
    assert len({u.id for u in corpus.utterances}) == 8 and not corpus.dropped
    bears = [u for u in corpus.utterances if u.sentence_id == "cldr:🐻:names"]
    assert [(u.lang, u.text) for u in bears] == [("ca_es", "ós"), ("fr_fr", "ours")]
    assert all(u.synthetic and u.split == "train" and u.source.startswith("espeak-ng") for u in corpus.utterances)
    assert len({u.speaker for u in corpus.utterances}) > 2
    for u in corpus.utterances:
        info = soundfile.info(u.audio)
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")


def test_held_out_texts_never_appear(tmp_path, fake):
    write_tree(tmp_path, {"fr": annotations(NAMES["fr"], [("🐻", "Soleil | animal")]), "ca": annotations(NAMES["ca"])})
    held_out = ["SOLEIL!", "Gat.", "un ours", "Animal"]
    corpus = read(tmp_path, exclude=iter(held_out), kinds=("names", "keywords"))
    banned = {normalise_text(text) for text in held_out}
    assert not [u for u in corpus.utterances if normalise_text(u.text) in banned]
    assert {u.text for u in corpus.utterances} >= {"sol", "ours"}
    assert sorted((d.reason, d.detail) for d in corpus.dropped) == [
        ("held out", text) for text in ("Soleil", "animal", "gat", "soleil")
    ]
    assert fake.count == len(corpus.utterances) == 6


def test_a_keyword_that_is_a_name_is_read_once(tmp_path, fake):
    write_tree(tmp_path, {"fr": annotations(NAMES["fr"], [("🐻", "Ours | animal")])})
    corpus = read(tmp_path, langs=["fr_fr"], kinds=("names", "keywords"))
    assert corpus.dropped_counts() == {"repeats another text": 1}
    assert [u.sentence_id for u in corpus.utterances if u.text == "animal"] == ["cldr:animal:keywords"]


def test_second_call_reads_nothing_and_other_settings_do(tmp_path, fake):
    first = read(write_tree(tmp_path))
    assert fake.count == 8
    assert read(tmp_path) == first and fake.count == 8
    other = read(tmp_path, seed=1)
    assert fake.count == 16
    assert {u.audio for u in other.utterances}.isdisjoint(u.audio for u in first.utterances)
    assert [u.speaker for u in other.utterances] != [u.speaker for u in first.utterances]


def test_other_languages_change_nothing_of_a_language(tmp_path, fake):
    both, one = read(write_tree(tmp_path)), read(tmp_path, langs=["fr_fr"])
    assert fake.count == 8 and one.utterances == both.select(langs=["fr_fr"])


def test_an_interrupted_call_leaves_nothing_half_done(tmp_path, fake, monkeypatch):
    def fail(self, text, lang, speaker):
        if text == "soleil":
            raise KeyboardInterrupt
        return np.ones(1600, np.float32)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FakeEspeak, "read", fail)
        read(write_tree(tmp_path))
    assert {path.parent.name[:5] for path in (tmp_path / "cache").rglob("*.flac")} == {"ca_es"}  # which was done
    assert len(read(tmp_path).utterances) == 8 and fake.count == 4


def test_empty_speech_is_dropped_and_all_empty_is_fatal(tmp_path, fake):
    write_tree(tmp_path, {"fr": annotations({"a": "ours", "b": "mute"})})
    for _ in range(2):
        corpus = read(tmp_path, langs=["fr_fr"])
        assert [u.text for u in corpus.utterances] == ["ours"]
        assert [(d.reason, d.detail) for d in corpus.dropped] == [("not spoken", "mute")]
    with pytest.raises(DataError, match="spoke none of 1 texts"):
        read(tmp_path, langs=["fr_fr"], exclude=["ours"])
    with pytest.raises(DataError, match="no text of fr_fr is left to read: 2 were dropped"):
        read(tmp_path, langs=["fr_fr"], exclude=["ours", "mute"])


def test_limit_keeps_the_same_names_in_every_language(tmp_path, fake):
    corpus = read(write_tree(tmp_path), limit=2)
    kept = {lang: [u.sentence_id for u in corpus.select(langs=[lang])] for lang in corpus.seen}
    assert kept["ca_es"] == kept["fr_fr"] and len(kept["ca_es"]) == 2
    assert corpus.dropped_counts() == {"over the limit": 4}
    assert {u.id for u in read(tmp_path, limit=3).utterances} > {u.id for u in corpus.utterances}


def test_bad_arguments(tmp_path, fake):
    write_tree(tmp_path)
    with pytest.raises(ConfigError, match="synthetic language: 'gl_es' is not known; allowed: af_za"):
        read(tmp_path, langs=["ca_es", "gl_es"])  # only another language's voice reads it
    with pytest.raises(ConfigError, match=r"kind of synthetic text: 'name'.*Did you mean 'names'"):
        read(tmp_path, kinds=("name",))
    with pytest.raises(ConfigError, match="limit=0"):
        read(tmp_path, limit=0)
    with pytest.raises(ConfigError, match="workers=0"):
        synthetic.synthetic_corpus([], tmp_path / "cache", ["fr_fr"], workers=0)
    assert not (tmp_path / "cache").exists()


def test_two_processes_read_what_one_reads(tmp_path):
    pytest.importorskip("espeakng_loader", reason="reads with espeak-ng, which espeakng-loader brings")
    write_tree(tmp_path)
    langs = ("ca_es", "fr_fr")
    sets = [synthetic.names(tmp_path, langs)]
    one = synthetic.synthetic_corpus(sets, tmp_path / "one", langs, workers=1)
    two = synthetic.synthetic_corpus(sets, tmp_path / "two", langs, workers=2)
    assert [u.id for u in one.utterances] == [u.id for u in two.utterances] and len(one.utterances) == 8
    for a, b in zip(one.utterances, two.utterances, strict=True):
        assert Path(a.audio).read_bytes() == Path(b.audio).read_bytes()
        waveform, rate = soundfile.read(a.audio)
        assert rate == 16_000 and 0.2 < len(waveform) / rate < 4 and np.abs(waveform).max() > 0.05


def test_texts_of_several_sources(tmp_path, fake):
    """A text that two of them have is read once; each says what it is, and languages that are not asked for are not."""
    lines = [("fr_fr", "news:1.0", "Un ours dort."), ("fr_fr", "news:2.0", "Ours !"), ("de_de", "news:1.0", "Ein Bär.")]
    more = synthetic.TextSet("news", "CC0-1.0", "news", lines)
    corpus = read(write_tree(tmp_path), more=[more], exclude=["un ours dort"])
    assert (corpus.name, corpus.licence) == ("cldr+news", "Unicode-DFS-2016 (cldr), CC0-1.0 (news)")
    assert corpus.dropped_counts() == {"held out": 1, "repeats another text": 1} and len(corpus.utterances) == 8
    corpus = read(tmp_path, more=[more], langs=["fr_fr"])
    assert {u.source for u in corpus.utterances if u.text == "Un ours dort."} == {"espeak-ng reading of news"}
    assert {u.source for u in corpus.utterances if u.text == "ours"} == {"espeak-ng reading of CLDR names"}
