"""The corpora that a recipe can name (``data.name``), the synthetic extra training speech, and translations."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechde.config import DataConfig
from speechde.corpora import breadth, covost, fleurs, sentences, stamps, synthetic
from speechde.corpora.benchmarks import read_sib200
from speechde.corpora.bitext import ENGLISH, Bitext, TextPair, find_bitext, read_bitext
from speechde.corpora.espeak import reading_version
from speechde.corpora.leaks import without_leaks
from speechde.corpora.manifest import read_manifest
from speechde.errors import AssetError, ConfigError, DataError
from speechde.languages import LANGUAGES
from speechde.text import normalise_text
from speechde.types import Corpus

SEEDED = ("stamps", "sentences", "breadth")  # corpora whose splits data.split_seed draws
# leading articles of the seen languages and English (Russian has none)
ARTICLE = re.compile(r"^(?:(?:an?|the|une?|una|un[oea]s|uns|des|el|els|la|las|le|les|los)\s+|l['’])", re.IGNORECASE)

# where FLEURS cannot be fetched; by the corpus that the way leads to
_WAYS = {
    "root": "  data.root=FOLDER                                  FLEURS lies in FOLDER/data/<code>/ (docs/data.md)",
    "covost": "  data=covost data.covost=FOLDER data.root=FOLDER   trained on CoVoST-2, as in the paper; FLEURS tests",
    "breadth": "  data=breadth                                      synthetic speech in these languages; needs no hub",
}


def load_corpus(config: DataConfig, cache: Path) -> Corpus:
    """Read the corpus that ``data.name`` names, without training clips of sentences that are held out.

    Raises:
        ConfigError: a setting that this corpus needs is missing.
    """
    corpus = _READERS[config.name](config, cache)
    corpus.utterances, leaks = without_leaks(corpus.utterances)
    corpus.dropped = [*corpus.dropped, *leaks]
    if config.limit is not None:
        sentences = sorted({u.sentence_id for u in corpus.utterances})
        kept = set(sentences[:: max(1, len(sentences) // config.limit)][: config.limit])
        corpus.utterances = [u for u in corpus.utterances if u.sentence_id in kept]
    if config.train_share < 1:
        corpus.utterances = [
            u for u in corpus.utterances if u.split != "train" or _position(u.sentence_id) < config.train_share
        ]
    return corpus


def check_split(config: DataConfig, record: Mapping[str, Any]) -> None:
    """Refuse a corpus that a model was trained on, where it is split otherwise now.

    Args:
        record: ``Settings.training`` of the model.

    Raises:
        ConfigError: sentences that it was trained on would be held out.
    """
    if config.name not in SEEDED:
        return
    for trained in (each.get("config", {}) for each in histories(record)):
        for own in (trained.get("data"), trained.get("adapt", {}).get("old")):
            if own and own["name"] == config.name and own["split_seed"] != config.split_seed:
                raise ConfigError(
                    f"data.split_seed={config.split_seed}: the model was trained on {config.name} with data.split_seed="
                    f"{own['split_seed']}, so that it would be scored on sentences that it was trained on; set "
                    f"data.split_seed={own['split_seed']} (adapt.old.split_seed, where that is meant)"
                )


def histories(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A record of training, and those of all models that it started from or is a soup of."""
    yield record
    for before in (record.get("adapted_from"), *(one["record"] for one in record.get("soup", ()))):
        if before:
            yield from histories(before)


def _position(sentence: str) -> float:
    """A place in [0, 1) that only the sentence's id decides: every share holds all smaller ones."""
    return int(hashlib.sha256(sentence.encode()).hexdigest()[:16], 16) / 2**64


def _stamps(config: DataConfig, cache: Path) -> Corpus:
    archive = stamps.find_archive(config.archive, cache / "downloads")
    root = stamps.unpack(archive, cache / "corpora" / f"{stamps.PACKAGE}-{stamps.VERSION}")
    zero_shot = stamps.ZERO_SHOT if config.zero_shot is None else config.zero_shot
    return stamps.read_stamps(root, config.seen or stamps.SEEN, zero_shot, seed=config.split_seed)


def _sentences(config: DataConfig, cache: Path) -> Corpus:
    """Recorded phrases and sentences: the stamps, and those who read sentences."""
    seen = config.seen or [*stamps.SEEN, "de_de"]
    zero_shot = ["nl_nl", *stamps.ZERO_SHOT] if config.zero_shot is None else config.zero_shot
    readers = {name: reader.lang for name, reader in sentences.READERS.items() if reader.lang in {*seen, *zero_shot}}
    rest = [[lang for lang in langs if lang not in readers.values()] for langs in (seen, zero_shot)]
    parts = [_stamps(replace(config, seen=rest[0], zero_shot=rest[1]), cache)] if any(rest) else []
    for name, lang in readers.items():
        folder = sentences.find_reader(name, config.public, cache)
        parts.append(sentences.read_reader(name, folder, lang in seen, config.split_seed))
    return Corpus(
        "sentences",
        [u for part in parts for u in part.utterances],
        tuple(seen),
        tuple(zero_shot),
        [item for part in parts for item in part.dropped],
        ", ".join(f"{part.licence} ({part.name})" for part in parts),
    )


def _manifest(config: DataConfig, cache: Path) -> Corpus:
    if not config.path:
        raise ConfigError("data=manifest needs data.path=FILE (.parquet, .jsonl or .tsv)")
    return read_manifest(config.path, seen=config.seen, zero_shot=config.zero_shot)


def _fleurs(config: DataConfig, cache: Path) -> Corpus:
    """FLEURS: trained on its seen languages, evaluated on all."""
    seen, zero_shot = _roles(config, [code for code, language in LANGUAGES.items() if language.covost])
    return _read_fleurs(config, cache, {"train": seen, "dev": seen, "test": [*seen, *zero_shot]}, seen, zero_shot)


def _covost(config: DataConfig, cache: Path) -> Corpus:
    """The paper's setting: trained on CoVoST-2, evaluated on FLEURS, of which nothing was trained on."""
    if not config.covost:
        raise ConfigError("data=covost needs data.covost=FOLDER that holds CoVoST-2; data=fleurs trains without it")
    seen, zero_shot = _roles(config, list(covost.TAGS))
    training = covost.read_covost(config.covost, seen)
    test = _read_fleurs(config, cache, {"test": [*seen, *zero_shot]}, seen, zero_shot)
    return Corpus(
        "covost2+fleurs",
        training.utterances + test.utterances,
        training.seen,
        test.zero_shot,
        training.dropped + test.dropped,
        f"{training.licence} (CoVoST-2), {test.licence} (FLEURS)",
        noted=training.noted + test.noted,
    )


def _breadth(config: DataConfig, cache: Path) -> Corpus:
    """Synthetic speech of every language that espeak-ng reads, with a voice of its own or a neighbour's."""
    b = config.breadth
    reading_version()  # before anything is fetched for it
    seen, zero_shot = _roles(config, list(breadth.SEEN))
    test = None
    if b.test == "sib200":
        test = read_sib200(config.public, cache, [*seen, *zero_shot, ENGLISH], "data.public")
    sources = breadth.find_texts(cache, b.udhr, b.mediawiki, test)
    return breadth.breadth_corpus(
        sources,
        cache,
        seen=seen,
        zero_shot=zero_shot,
        train_per_lang=b.train_per_lang,
        dev_per_lang=b.dev_per_lang,
        test_per_lang=b.test_per_lang,
        max_words=b.max_words,
        seed=config.split_seed,
    )


def _roles(config: DataConfig, default: list[str]) -> tuple[list[str], list[str]]:
    """Seen and zero-shot languages; what is not set is the corpus's own, and every FLEURS language not trained on."""
    seen = config.seen or default
    heard = {*seen, *config.synthetic.langs}
    return seen, [code for code in LANGUAGES if code not in heard] if config.zero_shot is None else config.zero_shot


def _read_fleurs(
    config: DataConfig, cache: Path, splits: dict[str, list[str]], seen: list[str], zero_shot: list[str]
) -> Corpus:
    root = config.root
    if root is None:
        try:
            root = fleurs.fetch_fleurs(splits)
        except AssetError as error:
            ways = [way for name, way in _WAYS.items() if name != config.name]
            raise AssetError("\n".join([f"{error}. Ways on, each to be added to the same command:", *ways])) from error
    return fleurs.read_fleurs(root, seen, zero_shot, cache_dir=cache, splits=splits, missing=config.missing)


def _none(config: DataConfig, cache: Path) -> Corpus:
    """No clip at all, of runs on text alone."""
    return Corpus("none", [], ())


_READERS = {
    "none": _none,
    "stamps": _stamps,
    "sentences": _sentences,
    "manifest": _manifest,
    "fleurs": _fleurs,
    "covost": _covost,
    "breadth": _breadth,
}


def load_synthetic(config: DataConfig, corpus: Corpus, cache: Path) -> Corpus:
    """Extra training speech, read by espeak-ng; none of its texts occurs in dev or test.

    It is in the seen languages, and in those of ``data.synthetic.langs``.

    Raises:
        ConfigError: one of the latter is evaluated.
    """
    s = config.synthetic
    further = [lang for lang in s.langs if lang not in corpus.seen]
    evaluated = {*corpus.zero_shot, *corpus.proxy, *(u.lang for u in corpus.utterances)} - {*corpus.seen}
    if overlap := evaluated.intersection(further):
        raise ConfigError(
            f"data.synthetic.langs: {', '.join(sorted(overlap))} would be evaluated as never heard; "
            "leave it out there, or out of data.zero_shot"
        )
    reading_version()  # before anything is fetched for it
    langs, sets = [*corpus.seen, *further], []
    if named := [kind for kind in s.kinds if kind in synthetic.KINDS]:
        sets.append(synthetic.names(synthetic.find_texts(s.archive, cache), langs, named))
    if "sentences" in s.kinds:
        sets.append(sentences.news(config.public, cache, langs))
    if "messages" in s.kinds:
        sets.append(sentences.messages(s.mediawiki, cache, langs))
    held_out = held_out_texts(corpus)
    bare = [ARTICLE.sub("", text) for text in held_out]  # a name has no article where a description has one
    return synthetic.synthetic_corpus(sets, cache, langs, exclude=held_out + bare, limit=s.limit)


def load_translations(config: DataConfig, corpus: Corpus) -> Bitext:
    """Text–English pairs of the seen languages; none of their texts occurs in dev or test.

    A seen language without a bitext file has none; English has none by nature.

    Raises:
        ConfigError: ``data.translations.root`` is not set.
        DataError: there is no pair in any seen language.
    """
    t = config.translations
    langs = [lang for lang in corpus.seen if lang != ENGLISH]
    if t.source == "transcripts":
        found = _translated_transcripts(corpus, langs)
        if not found.pairs:
            raise DataError(
                f"data.translations.source=transcripts: {corpus.name} translates no training clip in "
                f"{', '.join(langs) or 'any language but English'}; set data.translations.source=bitext"
            )
        return found
    if not t.root:
        raise ConfigError("data.translations.source=bitext needs data.translations.root=FOLDER (docs/data.md)")
    pairs: list[TextPair] = []
    dropped: Counter[str] = Counter()
    held_out = held_out_texts(corpus)
    for lang in langs:
        for path in find_bitext(t.root, lang):
            bitext = read_bitext(
                path,
                lang,
                min_score=t.min_score,
                min_words=t.min_words,
                max_words=t.max_words,
                max_ratio=t.max_ratio,
                limit=t.limit,
                seed=config.split_seed,
                exclude=held_out,
            )
            pairs += bitext.pairs
            dropped.update(bitext.dropped)
    if not pairs:
        raise DataError(f"{t.root} has no bitext file of {', '.join(langs)} and English; docs/data.md gives the names")
    return Bitext(pairs, dict(dropped))


def _translated_transcripts(corpus: Corpus, langs: list[str]) -> Bitext:
    """The different transcripts of the training clips that are translated."""
    held_out = {normalise_text(text) for text in held_out_texts(corpus)}
    pairs: dict[tuple[str, str, str], TextPair] = {}
    dropped: Counter[str] = Counter()
    for u in corpus.select("train", langs):
        if not u.translation:
            dropped["no translation"] += 1
        elif not held_out.isdisjoint(map(normalise_text, (u.text, u.translation))):
            dropped["held out"] += 1
        elif (key := (u.lang, u.text, u.translation)) in pairs:
            dropped["duplicate"] += 1
        else:
            pairs[key] = TextPair(*key, None, u.id)
    return Bitext(list(pairs.values()), dict(dropped))


def held_out_texts(corpus: Corpus) -> list[str]:
    """Every transcript and translation of dev and test."""
    return [text for u in corpus.utterances if u.split != "train" for text in (u.text, u.translation) if text]
