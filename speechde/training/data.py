"""What a run reads: its corpus, synthetic speech and translations, by the use that is made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from speechde.config import RunConfig
from speechde.corpora.bitext import Bitext, TextPair
from speechde.corpora.examples import SYNTHETIC, TRANSLATION
from speechde.corpora.load import load_corpus, load_synthetic, load_translations
from speechde.corpora.statistics import corpus_statistics, durations, format_statistics
from speechde.errors import ConfigError
from speechde.evaluation.speech import sample_sentences
from speechde.media.containers import split_locator
from speechde.training.adapt import adapted_corpus
from speechde.types import Corpus, Utterance

HEADERS = 20_000  # clips whose headers are read to know the hours of a corpus: some seconds


@dataclass
class TrainingData:
    """Clips by their use: ``whole`` is what the evaluation could be of, ``test`` the sample that it is of."""

    corpus: Corpus
    synthetic: Corpus | None
    translations: Bitext | None
    training: list[Utterance] = field(default_factory=list)
    dev: list[Utterance] = field(default_factory=list)
    whole: list[Utterance] = field(default_factory=list)
    test: list[Utterance] = field(default_factory=list)

    @property
    def pairs(self) -> list[TextPair]:
        """Texts and their English."""
        return self.translations.pairs if self.translations else []

    @property
    def corpora(self) -> list[Corpus]:
        """The one that was asked for, which names the languages, and the synthetic one."""
        return [self.corpus, *([self.synthetic] if self.synthetic else [])]


def read_data(config: RunConfig, cache: Path) -> TrainingData:
    """Read what a configuration asks for.

    Raises:
        ConfigError: nothing is left to train on, or to choose a checkpoint by.
    """
    if config.data.synthetic.langs and not config.uses(SYNTHETIC):
        raise ConfigError("data.synthetic.langs needs synthetic speech: set tasks.speech.shares.synthetic=0.4, say")
    corpus = adapted_corpus(config, cache) if config.adapt.checkpoint is not None else load_corpus(config.data, cache)
    data = TrainingData(
        corpus,
        load_synthetic(config.data, corpus, cache) if config.uses(SYNTHETIC) else None,
        load_translations(config.data, corpus) if config.uses(TRANSLATION) else None,
    )
    recorded, data.dev = corpus.select("train", corpus.seen), corpus.select("dev", corpus.seen)
    if not recorded or not data.dev:
        found = f"{len(recorded)} train and {len(data.dev)} dev clips in {', '.join(corpus.seen) or 'no language'}"
        found += f" (left out: {corpus.dropped_counts()})" if corpus.dropped else ""
        raise ConfigError(f"{corpus.name} has {found}; training needs both: set data.seen, and split in a manifest")
    data.training = recorded + (data.synthetic.utterances if data.synthetic else [])
    data.whole = corpus.select(config.eval.split, corpus.seen if config.eval.languages == "seen" else None)
    data.test = sample_sentences(data.whole, config.eval.per_language, config.data.split_seed)
    return data


@rank_zero_only
def show(text: str) -> None:
    """Print once, however many processes there are."""
    print(text, flush=True)


@rank_zero_only
def show_corpus(corpus: Corpus) -> None:
    """Print what a corpus holds, and its hours where reading every header takes seconds (``speechde data stats``)."""
    unknown = [u for u in corpus.utterances if u.seconds is None]
    many = len(unknown) > HEADERS or any(split_locator(u.audio) for u in unknown)
    show(format_statistics(corpus_statistics(corpus, None if many else durations(corpus.utterances))))
