"""Every corpus that a recipe names: which reader is called, with which roles, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from speechde.config.data import BreadthConfig, DataConfig, SyntheticConfig
from speechde.corpora import espeak
from speechde.corpora import load as corpora
from speechde.errors import AssetError, ConfigError, DataError
from speechde.languages import LANGUAGES
from speechde.types import Corpus, Utterance


def test_corpus_of_a_manifest(tiny_run, tmp_path):
    corpus = corpora.load_corpus(tiny_run().data, tmp_path)
    assert corpus.seen == ("es_419", "fr_fr") and corpus.zero_shot == ("ro_ro",)
    assert len(corpus.utterances) == 33


@pytest.mark.parametrize("limit", [1, 7, 33, 100])
def test_limit_counts_sentences(tiny_run, tmp_path, limit):
    corpus = corpora.load_corpus(tiny_run(data__limit=limit).data, tmp_path)
    assert len({u.sentence_id for u in corpus.utterances}) == min(limit, 33)


def test_corpus_errors(tiny_run, tmp_path):
    with pytest.raises(ConfigError, match=r"data=manifest needs data\.path=FILE"):
        corpora.load_corpus(DataConfig(name="manifest"), tmp_path)
    with pytest.raises(ConfigError, match=r"es_419.*both"):
        corpora.load_corpus(tiny_run(data__zero_shot=["es_419"]).data, tmp_path)


def test_synthetic_speech_excludes_the_texts_of_dev_and_test(tiny_run, clips, tmp_path, monkeypatch):
    texts = {"train": "le chat", "dev": "le chien", "test": "L’ours"}
    utterances = [replace(u, text=texts[u.split], translation=f"a {u.split} dog") for u in clips]
    config = tiny_run(utterances=utterances).data
    given = {}
    monkeypatch.setattr(corpora.synthetic, "find_texts", lambda *a: None)
    monkeypatch.setattr(corpora.synthetic, "names", lambda *a: None)
    monkeypatch.setattr(corpora.synthetic, "synthetic_corpus", lambda *a, **options: given.update(options, langs=a[2]))
    corpora.load_synthetic(config, corpora.load_corpus(config, tmp_path), tmp_path)
    assert set(given["exclude"]) == {
        "le chien",
        "chien",
        "L’ours",
        "ours",
        "a dev dog",
        "dev dog",
        "a test dog",
        "test dog",
    }
    assert given["langs"] == ["es_419", "fr_fr"]


def test_synthetic_speech_of_several_kinds_of_text(tiny_run, tmp_path, monkeypatch, make_deb):
    members = {
        f"./usr/share/mediawiki/languages/i18n/{locale}.json": json.dumps({"a": text, "long": "word " * 21}).encode()
        for locale, text in {"en": "View the media page", "es": "Ver la página de medios", "fr": "Voir la page"}.items()
    }
    given = []
    monkeypatch.setattr(corpora.sentences, "news", lambda *a: "news")
    monkeypatch.setattr(corpora.synthetic, "synthetic_corpus", lambda sets, *a, **options: given.extend(sets))
    synthetic = {"texts": "sentences+messages", "mediawiki": str(make_deb(tmp_path / "m.deb", members))}
    config = tiny_run(data__synthetic=synthetic).data
    corpora.load_synthetic(config, corpora.load_corpus(config, tmp_path), tmp_path)
    news, messages = given
    assert news == "news" and messages.licence == "GPL-2.0-or-later"
    own = [("es_419", "mediawiki:a", "Ver la página de medios"), ("fr_fr", "mediawiki:a", "Voir la page")]
    assert messages.texts == own, "the same message in each language, and none that is too long"
    with pytest.raises(
        ConfigError, match=r"data\.synthetic\.texts: 'letters' is not known; allowed: keywords, messages"
    ):
        tiny_run(data__synthetic={"texts": "names+letters"})


def test_languages_of_synthetic_speech_alone(tiny_run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(corpora.synthetic, "find_texts", lambda *a: None)
    monkeypatch.setattr(corpora.synthetic, "names", lambda *a: None)
    monkeypatch.setattr(corpora.synthetic, "synthetic_corpus", lambda *a, **options: asked.extend(a[2]))
    config = tiny_run(data__synthetic={"langs": ["de", "fr_fr", "it_it"]}).data
    corpora.load_synthetic(config, corpora.load_corpus(config, tmp_path), tmp_path)
    assert asked == ["es_419", "fr_fr", "de_de", "it_it"]
    for lang, message in (("ro", r"ro_ro would be evaluated as never heard"), ("xx", r"'xx' is not known")):
        with pytest.raises(ConfigError, match=message):
            config = tiny_run(data__synthetic={"langs": [lang]}).data
            corpora.load_synthetic(config, corpora.load_corpus(config, tmp_path), tmp_path)


def clip(lang, split, source):
    return Utterance(
        f"{source}:{lang}:{split}", lang, f"{lang} {split}", "a.wav", f"{lang} {split}", split, source=source
    )


@pytest.fixture
def readers(monkeypatch):
    """Readers that remember what they were asked for and answer with a clip per language and split."""
    calls = {}

    def read_fleurs(root, seen, zero_shot, *, splits, **options):
        calls["fleurs"] = SimpleNamespace(root=root, splits=splits, **options)
        clips = [clip(lang, split, "fleurs") for split, langs in splits.items() for lang in langs]
        return Corpus("fleurs", clips, tuple(seen), tuple(zero_shot), licence="CC-BY-4.0")

    def read_covost(root, langs, *, splits=("train", "dev")):
        calls["covost"] = SimpleNamespace(root=root, langs=langs)
        return Corpus("covost2", [clip(lang, split, "covost") for lang in langs for split in splits], tuple(langs))

    def fetch(wanted):
        calls.setdefault("fetched", []).append(wanted)
        return "fetched"

    monkeypatch.setattr(corpora.fleurs, "read_fleurs", read_fleurs)
    monkeypatch.setattr(corpora.fleurs, "fetch_fleurs", fetch)
    monkeypatch.setattr(corpora.covost, "read_covost", read_covost)
    return calls


def test_fleurs_is_trained_on_the_21_and_evaluated_on_all_102(readers, tmp_path):
    corpus = corpora.load_corpus(DataConfig(name="fleurs", root="here"), tmp_path)
    assert len(corpus.seen) == 21 and len(corpus.zero_shot) == 81
    assert {u.lang for u in corpus.select("train")} == {u.lang for u in corpus.select("dev")} == set(corpus.seen)
    assert {u.lang for u in corpus.select("test")} == set(LANGUAGES)
    assert readers["fleurs"].root == "here" and "fetched" not in readers
    heard = corpora.load_corpus(DataConfig(name="fleurs", synthetic=SyntheticConfig(langs=["pl", "fr"])), tmp_path)
    assert set(corpus.zero_shot) - set(heard.zero_shot) == {"pl_pl"} and heard.seen == corpus.seen


def test_fleurs_without_a_folder_is_fetched_in_one_call(readers, tmp_path):
    corpora.load_corpus(DataConfig(name="fleurs", seen=["fr_fr"], zero_shot=["ro_ro"]), tmp_path)
    wanted = {"train": ["fr_fr"], "dev": ["fr_fr"], "test": ["fr_fr", "ro_ro"]}
    assert readers["fetched"] == [wanted] and readers["fleurs"].root == "fetched"


@pytest.mark.parametrize("name", ["fleurs", "covost"])
def test_without_the_hub_the_error_gives_the_ways_on(readers, tmp_path, monkeypatch, name):
    def fetch(wanted):
        raise AssetError("no network")

    monkeypatch.setattr(corpora.fleurs, "fetch_fleurs", fetch)
    with pytest.raises(AssetError, match="no network") as caught:
        corpora.load_corpus(DataConfig(name=name, covost="there"), tmp_path)
    text = str(caught.value)
    assert "data.root=FOLDER" in text and "data=breadth" in text and "python" not in text
    assert ("data=covost data.covost=FOLDER" in text) is (name == "fleurs")


def test_covost_trains_and_fleurs_only_tests(readers, tmp_path):
    corpus = corpora.load_corpus(DataConfig(name="covost", covost="there", root="here"), tmp_path)
    assert {u.source for u in corpus.utterances if u.split != "test"} == {"covost"}
    assert {u.source for u in corpus.select("test")} == {"fleurs"}
    assert {u.lang for u in corpus.select("test")} == set(LANGUAGES)
    assert len(corpus.seen) == 21 and len(corpus.zero_shot) == 81
    assert "CoVoST-2" in corpus.licence and "CC-BY-4.0" in corpus.licence
    with pytest.raises(ConfigError, match=r"data\.covost=FOLDER"):
        corpora.load_corpus(DataConfig(name="covost"), tmp_path)


def test_breadth_gets_its_sizes_and_roles(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(corpora.breadth, "find_texts", lambda cache, udhr, mediawiki, test: (udhr, mediawiki))
    monkeypatch.setattr(
        corpora.breadth, "breadth_corpus", lambda *a, **k: given.update(k, sources=a[0]) or Corpus("breadth", [], ())
    )
    sizes = BreadthConfig(train_per_lang=5, test_per_lang=3, udhr="u.tgz", mediawiki="m.deb")
    corpora.load_corpus(DataConfig(name="breadth", breadth=sizes), tmp_path)
    assert given["sources"] == ("u.tgz", "m.deb")
    assert (given["train_per_lang"], given["dev_per_lang"], given["test_per_lang"]) == (5, 30, 3)
    assert len(given["seen"]) == 20 and set(given["seen"]) | set(given["zero_shot"]) == set(LANGUAGES)
    assert not set(given["seen"]) & set(given["zero_shot"])
    corpora.load_corpus(DataConfig(name="breadth", zero_shot=["zu_za"]), tmp_path)
    assert given["zero_shot"] == ["zu_za"]


def test_translations_of_the_bitext_exclude_dev_and_test(tiny_run, tmp_path):
    config = tiny_run("fleurs21_mt").data
    found = corpora.load_translations(config, corpora.load_corpus(config, tmp_path))
    assert {pair.lang for pair in found.pairs} == {"fr_fr"} and len(found.pairs) == 7
    assert found.dropped == {"below score": 1, "too short": 1} or found.dropped == {"below score": 1, "held out": 1}
    assert all(pair.source.startswith("WikiMatrix.en-fr.tsv.gz:") for pair in found.pairs)


def test_translations_of_the_transcripts(tiny_run, clips, tmp_path):
    utterances = [replace(u, translation="" if u.id == "fr_fr-train-0" else u.translation) for u in clips]
    held_out = replace(clips[0], id="again", text="nuevo", sentence_id="nuevo", translation="es_419 dev 0")
    copy = replace(clips[1], id="copy")
    config = tiny_run("fleurs21_mt", utterances=[*utterances, held_out, copy], data__translations__source="transcripts")
    found = corpora.load_translations(config.data, corpora.load_corpus(config.data, tmp_path))
    assert {(pair.lang, pair.text, pair.english) for pair in found.pairs} == {
        (u.lang, u.text, u.translation)
        for u in utterances
        if u.split == "train" and u.translation and u.lang != "ro_ro"
    }
    assert found.dropped == {"no translation": 1, "held out": 1, "duplicate": 1}


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        ({"root": None}, ConfigError, r"needs data\.translations\.root=FOLDER"),
        ({"root": "nowhere"}, DataError, "bitext folder nowhere does not exist"),
        ({"root": "."}, DataError, r"no bitext file of es_419, fr_fr"),
        ({"source": "transcripts"}, DataError, "translates no training clip in es_419, fr_fr"),
    ],
)
def test_translation_errors(tiny_run, clips, tmp_path, monkeypatch, overrides, error, said):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    config = tiny_run("fleurs21_mt", utterances=[replace(u, translation="") for u in clips]).data
    corpus = corpora.load_corpus(config, tmp_path)
    config.translations = replace(config.translations, **overrides)
    with pytest.raises(error, match=said):
        corpora.load_translations(config, corpus)


def test_every_corpus_takes_any_language_tag(readers, tmp_path, monkeypatch):
    """One way for all: what one corpus calls fr, no other refuses or counts as zero-shot beside fr_fr."""
    given = {}
    monkeypatch.setattr(corpora.breadth, "find_texts", lambda *a: None)
    empty = Corpus("empty", [], ())
    monkeypatch.setattr(corpora.breadth, "breadth_corpus", lambda *a, **k: given.update(k) or empty)
    monkeypatch.setattr(corpora.stamps, "find_archive", lambda *a: None)
    monkeypatch.setattr(corpora.stamps, "unpack", lambda *a: None)
    monkeypatch.setattr(corpora.stamps, "read_stamps", lambda root, *roles, **k: given.update(stamps=roles) or empty)
    corpora.load_corpus(DataConfig(name="breadth", seen=["fr", "French"]), tmp_path)
    assert given["seen"] == ["fr_fr"] and "fr_fr" not in given["zero_shot"]
    corpora.load_corpus(DataConfig(name="stamps", seen=["fr"], zero_shot=["ro"]), tmp_path)
    assert given["stamps"] == (["fr_fr"], ["ro_ro"])
    for name in ("fleurs", "covost"):
        corpus = corpora.load_corpus(DataConfig(name=name, seen=["fr"], root="r", covost="c"), tmp_path)
        assert corpus.seen == ("fr_fr",) and "fr_fr" not in corpus.zero_shot
    with pytest.raises(ConfigError, match="both"):
        DataConfig(seen=["fr"], zero_shot=["fra"])
    assert SyntheticConfig(langs=["de", "de_de"]).langs == ["de_de"]


@pytest.mark.parametrize("load", [
    lambda config, corpus, cache: corpora.load_synthetic(config, corpus, cache),
    lambda config, corpus, cache: corpora.load_corpus(DataConfig(name="breadth"), cache),
])  # fmt: skip
def test_without_the_synthesiser_nothing_is_fetched(tiny_run, tmp_path, monkeypatch, load):
    def absent(name):
        raise espeak.PackageNotFoundError(name)

    monkeypatch.setattr(espeak, "version", absent)
    for owner in (corpora.synthetic, corpora.breadth):
        monkeypatch.setattr(owner, "find_texts", lambda *a: pytest.fail("fetched"))
    config = tiny_run().data
    with pytest.raises(AssetError, match=r"pip install .*\[synthetic\]"):
        load(config, corpora.load_corpus(config, tmp_path), tmp_path)
