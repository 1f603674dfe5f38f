import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechde.config import DataConfig
from speechde.corpora import load, ntrex, sentences, stamps
from speechde.corpora.texts import cut
from speechde.errors import AssetError, ConfigError, DataError
from speechde.text import normalise_text
from speechde.types import Corpus, Utterance

PUBLIC = "SPEECHDE_PUBLIC"  # a folder with speech/ and ntrex/


def tone(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.sin(np.arange(1600) / 9).astype(np.float32) / 2, 16_000)
    return path


def repository(folder, count=40, prefix="de"):
    """As upstream has it: a row per recording, its file, and what nothing reads."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{prefix}-{i}|Satz Nummer {i // 2}." for i in range(count)]  # each is read twice
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for i in range(count):
        tone(folder / "verified" / f"{prefix}-{i}.flac")
    tone(folder / "audio" / "raw.flac")
    return folder


def test_a_seen_reader_is_split_by_sentence_and_another_is_test_alone(tmp_path):
    folder = repository(tmp_path / "kerstin_de", 400)
    corpus = sentences.read_reader("kerstin_de", folder, True)
    assert (corpus.seen, corpus.zero_shot, corpus.licence) == (("de_de",), (), "CC0-1.0")
    splits = Counter(u.split for u in corpus.utterances)
    assert 0.65 < splits["train"] / 400 < 0.85 and splits["test"] > splits["dev"] > 0
    of_text = {u.text: u.split for u in corpus.utterances}
    assert all(of_text[u.text] == u.split for u in corpus.utterances) and len(of_text) == 200
    assert {u.speaker for u in corpus.utterances} == {"kerstin_de"} and not any(u.synthetic for u in corpus.utterances)
    assert [u.split for u in sentences.read_reader("kerstin_de", folder, True, seed=1).utterances] != [
        u.split for u in corpus.utterances
    ]
    dutch = sentences.read_reader("nathalie_nl", repository(tmp_path / "nathalie_nl"), False)
    assert {u.split for u in dutch.utterances} == {"test"} and dutch.zero_shot == ("nl_nl",) and not dutch.seen


def test_a_manifest_gives_what_the_repository_gives(tmp_path):
    folder = repository(tmp_path / "a")
    plain = sentences.read_reader("kerstin_de", folder, True).utterances
    rows = ["id\tlang\ttext\taudio\tspeaker", *(f"{u.id}\tde_de\t{u.text}\t{u.audio}\tkerstin_de" for u in plain)]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/clips.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert sentences.read_reader("kerstin_de", tmp_path / "b", True).utterances == plain


def test_bad_rows_are_listed_and_nothing_usable_is_an_error(tmp_path):
    folder = repository(tmp_path / "x", 4)
    raw = (folder / "metadata.csv").read_bytes()
    (folder / "metadata.csv").write_bytes(raw + b"no bar\ngone|Ein Satz.\nde-0|?!\nde-1|\xff\n")
    corpus = sentences.read_reader("kerstin_de", folder, True)
    assert len(corpus.utterances) == 4
    assert corpus.dropped_counts() == {"no row of ID|TEXT": 2, "missing file": 1, "not UTF-8": 1}
    (folder / "metadata.csv").write_text("gone|Ein Satz.\n")
    with pytest.raises(DataError, match=r"no usable recording \(kerstin_de/gone: missing file\)"):
        sentences.read_reader("kerstin_de", folder, True)


def git(folder, *arguments):
    who = {f"GIT_{part}_{field}": "x@y" for part in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}
    done = subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, env={**os.environ, **who})
    return done.stdout.decode().strip()


@pytest.fixture
def hosted(tmp_path, monkeypatch):
    """A host of one repository, whose last commit is not the pinned one."""
    folder = repository(tmp_path / "host/us/voice", 4)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "x")
    commit = git(folder, "rev-parse", "--short=12", "HEAD")
    (folder / "metadata.csv").write_text("changed|later\n")
    git(folder, "commit", "--quiet", "-am", "y")
    monkeypatch.setattr(sentences, "_HOST", (tmp_path / "host").as_uri())
    monkeypatch.setattr(sentences, "READERS", {"kerstin_de": sentences.Reader("de_de", "us/voice", commit)})
    return folder


def test_a_reader_is_fetched_once_at_its_commit(hosted, tmp_path, monkeypatch):
    folder = sentences.find_reader("kerstin_de", None, tmp_path / "cache")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["metadata.csv", *(f"verified/de-{i}.flac" for i in range(4))]
    assert len(sentences.read_reader("kerstin_de", folder, True).utterances) == 4
    monkeypatch.setattr(sentences, "_HOST", "file:///nowhere")
    assert sentences.find_reader("kerstin_de", None, tmp_path / "cache") == folder
    with pytest.raises(AssetError, match=r"could not fetch .*set data\.public=FOLDER to one where speech/"):
        sentences.find_reader("kerstin_de", None, tmp_path / "other")
    assert not [path for path in (tmp_path / "other").rglob("*") if path.is_file()]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(AssetError, match="has no git"):
        sentences.find_reader("kerstin_de", None, tmp_path / "other")


def test_a_folder_without_the_reader_is_refused(tmp_path):
    with pytest.raises(AssetError, match=r"neither metadata\.csv nor clips\.tsv; set data\.public=FOLDER"):
        sentences.find_reader("nathalie_nl", tmp_path, tmp_path / "cache")


@pytest.mark.parametrize(("lang", "text", "limit", "pieces"), [
    ("de_de", "Ein Satz. Und noch einer!", 100, ["Ein Satz.", "Und noch einer!"]),
    ("de_de", "Er kam, sah alles und ging wieder, ohne ein Wort.", 30,
     ["Er kam,", "sah alles und ging wieder,", "ohne ein Wort."]),
    ("de_de", "Er kam, sah alles und ging.", 12, ["Er kam,", "sah alles", "und ging."]),
    ("de_de", "Donaudampfschifffahrt", 5, ["Donaudampfschifffahrt"]),
    ("ja_jp", "今日は、いい天気です。", 7, ["今日は、", "いい天気です。"]),
    ("de_de", "", 5, []),
])  # fmt: skip
def test_texts_are_cut_at_sentences_then_clauses_then_words(lang, text, limit, pieces):
    assert cut(text, lang, limit) == pieces


@pytest.fixture
def lines(monkeypatch):
    """Three languages of NTREX; the second line of one is missing."""
    english = [f"Here is sentence number {i}, which has a clause, and then it ends." for i in range(60)]
    german = [f"Hier ist der Satz Nummer {i}, der einen Nebensatz hat, und dann endet er." for i in range(60)]
    german[1] = ""
    texts = {"en_us": english, "de_de": german, "sv_se": [f"Här är mening {i}." for i in range(60)]}
    monkeypatch.setattr(ntrex, "languages", lambda: tuple(texts))
    monkeypatch.setattr(ntrex, "read_ntrex", lambda folder, cache, langs, option: {lang: texts[lang] for lang in langs})
    return texts


def test_news_are_pieces_of_many_lengths(lines, tmp_path):
    found = sentences.news(None, tmp_path, ["de_de", "sv_se", "af_za"])
    assert {lang for lang, _, _ in found.texts} == {"de_de", "sv_se"}  # NTREX, here, has no Afrikaans
    assert len({(lang, sentence) for lang, sentence, _ in found.texts}) == len(found.texts)
    for lang, sentence, text in found.texts:
        number, _ = sentence.removeprefix("ntrex:").split(".")
        assert text in lines[lang][int(number)] and normalise_text(text)
    of_line = Counter((lang, sentence.split(".")[0]) for lang, sentence, _ in found.texts)
    assert max(of_line.values()) == 2 and ("de_de", "ntrex:1") not in of_line
    words = [len(text.split()) for lang, _, text in found.texts if lang == "de_de"]
    assert min(words) <= 4 and max(words) == len(lines["de_de"][0].split())
    assert sentences.news(None, tmp_path, ["de_de", "sv_se", "af_za"]) == found
    assert sentences.news(None, tmp_path, ["de_de"], seed=1).texts != found.texts


def test_the_corpus_joins_phrases_and_sentences(tmp_path, monkeypatch):
    for name, prefix in (("kerstin_de", "de"), ("nathalie_nl", "nl")):
        repository(tmp_path / "speech" / name, 40, prefix)
    asked = []

    def read_stamps(root, seen, zero_shot, seed):
        asked.append((seen, zero_shot))
        clip = Utterance("bear.fr", "fr_fr", "Un ours.", "bear.ogg", "a bear", "train")
        return Corpus("stamps", [clip], tuple(seen), tuple(zero_shot), [], "GPL-2")

    monkeypatch.setattr(stamps, "find_archive", lambda *a: None)
    monkeypatch.setattr(stamps, "unpack", lambda *a: None)
    monkeypatch.setattr(stamps, "read_stamps", read_stamps)
    config = DataConfig(name="sentences", public=str(tmp_path))
    corpus = load.load_corpus(config, tmp_path / "cache")
    assert corpus.seen == (*stamps.SEEN, "de_de") and corpus.zero_shot == ("nl_nl", *stamps.ZERO_SHOT)
    assert asked == [([*stamps.SEEN], [*stamps.ZERO_SHOT])]
    assert corpus.licence == "GPL-2 (stamps), CC0-1.0 (kerstin_de), CC0-1.0 (nathalie_nl)"
    assert {(u.source, u.lang) for u in corpus.utterances} == {
        ("", "fr_fr"), ("kerstin_de", "de_de"), ("nathalie_nl", "nl_nl")}  # fmt: skip
    assert not [u for u in corpus.select(langs=["nl_nl"]) if u.split != "test"]
    config = DataConfig(name="sentences", public=str(tmp_path), seen=["nl"], zero_shot=[])
    only = load.load_corpus(config, tmp_path / "cache")
    assert {u.lang for u in only.utterances} == {"nl_nl"} and only.seen == ("nl_nl",) and len(asked) == 1
    assert {u.split for u in only.utterances} == {"train", "dev", "test"}


def test_a_language_that_is_evaluated_is_not_read_by_the_synthesiser(lines, tmp_path):
    config = DataConfig(name="sentences")
    config.synthetic.share, config.synthetic.langs = 0.4, ["nl_nl"]
    corpus = Corpus("sentences", [], ("de_de",), ("nl_nl",))
    with pytest.raises(ConfigError, match="nl_nl would be evaluated as never heard"):
        load.load_synthetic(config, corpus, tmp_path)


@pytest.mark.skipif(not os.environ.get(PUBLIC), reason=f"{PUBLIC} names no folder with the public corpora")
def test_the_real_sentences():
    folder = Path(os.environ[PUBLIC])
    german, dutch = (
        sentences.read_reader(name, sentences.find_reader(name, folder, folder), name == "kerstin_de")
        for name in sentences.READERS
    )
    assert len(german.utterances) == 1374 and len({u.text for u in german.select("test")}) >= 200
    assert len({u.text for u in dutch.select("test")}) == len(dutch.utterances) == 1130
    held_out = {normalise_text(u.text) for u in [*german.utterances, *dutch.utterances] if u.split != "train"}
    news = sentences.news(folder, folder, ["de_de", "en_us"])
    assert 5000 < len(news.texts) < 7988 and held_out.isdisjoint(normalise_text(text) for _, _, text in news.texts)
