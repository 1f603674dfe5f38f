"""What a run reads: its corpus, synthetic speech and translations, by the use that is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pytorch_lightning.utilities import rank_zero_only

from speechde.config import RunConfig
from speechde.config.tasks import CLIPS, TRANSLATIONS
from speechde.corpora.bitext import Bitext, TextPair
from speechde.corpora.examples import SYNTHETIC, TRANSLATION
from speechde.corpora.examples_file import FileExamples, read_examples
from speechde.corpora.load import held_out_texts, load_corpus, load_synthetic, load_translations
from speechde.corpora.statistics import corpus_statistics, durations, format_statistics
from speechde.errors import ConfigError, DataError
from speechde.evaluation.speech import sample_sentences
from speechde.media.containers import split_locator
from speechde.text import normalise_text
from speechde.training.adapt import adapted_corpus
from speechde.training.stage import without_known
from speechde.types import Corpus, Dropped, Example, Text, Utterance

HEADERS = 20_000  # clips whose headers are read to know the hours of a corpus: some seconds


@dataclass
class TrainingData:
    """Clips by their use: ``whole`` is what the evaluation could be of, ``test`` the sample that it is of."""

    corpus: Corpus
    synthetic: Corpus | None
    translations: Bitext | None
    files: dict[str, FileExamples] = field(default_factory=dict)  # training examples of the tasks that name a file
    held_out: dict[str, dict[str, FileExamples]] = field(default_factory=dict)  # those of dev and test, by split
    training: list[Utterance] = field(default_factory=list)
    dev: list[Utterance] = field(default_factory=list)
    whole: list[Utterance] = field(default_factory=list)
    test: list[Utterance] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)  # of training, once features are known; by the reason

    @property
    def pairs(self) -> list[TextPair]:
        """Texts and their English."""
        return self.translations.pairs if self.translations else []

    @property
    def file_clips(self) -> list[Utterance]:
        """Every clip of the files of examples, once."""
        files = [*self.files.values(), *(file for some in self.held_out.values() for file in some.values())]
        return list({clip.id: clip for file in files for clip in file.clips()}.values())

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
    if config.adapt.enabled:
        corpus = adapted_corpus(config, cache)
    else:
        corpus = without_known(config, load_corpus(config.data, cache))
    data = TrainingData(
        corpus,
        load_synthetic(config.data, corpus, cache) if config.uses(SYNTHETIC) else None,
        load_translations(config.data, corpus) if config.uses(TRANSLATION) else None,
    )
    data.files, data.held_out = read_files(config, corpus)
    recorded, data.dev = corpus.select("train", corpus.seen), corpus.select("dev", corpus.seen)
    if not config.text_alone and not (recorded and data.dev):
        found = f"{len(recorded)} train and {len(data.dev)} dev clips in {', '.join(corpus.seen) or 'no language'}"
        found += f" (left out: {corpus.dropped_counts()})" if corpus.dropped else ""
        raise ConfigError(f"{corpus.name} has {found}; training needs both: set data.seen, and split in a manifest")
    data.training = recorded + (data.synthetic.utterances if data.synthetic else [])
    data.whole = corpus.select(config.eval.split, corpus.seen if config.eval.languages == "seen" else None)
    data.test = sample_sentences(data.whole, config.eval.per_language, config.data.split_seed)
    return data


def read_files(config: RunConfig, corpus: Corpus) -> tuple[dict[str, FileExamples], dict[str, dict[str, FileExamples]]]:
    """The training examples of every task that names a file, by its name; and by split those of dev and test.

    What a corpus holds out stays out: an example with a transcript of dev or test is dropped.

    Raises:
        ConfigError: a file has speech in a language that is evaluated as never heard.
        DataError: a file has no usable example of the split train.
    """
    held_out = {normalise_text(text) for text in held_out_texts(corpus)}
    evaluated = {*corpus.zero_shot, *corpus.proxy}
    found: dict[str, FileExamples] = {}
    later: dict[str, dict[str, FileExamples]] = {"dev": {}, "test": {}}
    for name, task in config.tasks.items():
        if task.examples in (CLIPS, TRANSLATIONS):
            continue
        whole = read_examples(task.examples)
        later |= {split: some | {name: whole.select(split)} for split, some in later.items()}
        file = whole.select("train")
        if heard := sorted({clip.lang for clip in file.clips()} & evaluated):
            raise ConfigError(
                f"tasks.{name}: {task.examples} has speech in {', '.join(heard)}, which would be evaluated as never "
                "heard; leave it out there, or out of data.zero_shot"
            )
        kept = [row for row, one in enumerate(file) if held_out.isdisjoint(map(normalise_text, _texts(one)))]
        if not kept:
            raise DataError(
                f"tasks.{name}: {task.examples} has no example to train on that {corpus.name} does not test"
            )
        file.dropped += [Dropped("", "a text of dev or test")] * (len(file) - len(kept))
        found[name] = file.subset(np.array(kept, np.int64))
    return found, {split: {name: file for name, file in some.items() if len(file)} for split, some in later.items()}


def _texts(example: Example) -> Iterator[str]:
    for item in (example.query, example.positive, *example.negatives):
        yield from (part.content for part in item.parts if isinstance(part, Text))


def file_counts(files: Mapping[str, FileExamples]) -> dict[str, dict[str, int]]:
    """Examples and languages of each task that names a file."""
    return {name: {"examples": len(file), "languages": len({*file.strata})} for name, file in files.items()}


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
