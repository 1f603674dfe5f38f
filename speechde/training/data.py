"""What a run reads: its corpus, synthetic speech and translations, by the use that is made of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pytorch_lightning.utilities import rank_zero_only

from speechde.config import RunConfig
from speechde.config.ateb import set_name
from speechde.config.tasks import CLIPS, TRANSLATIONS
from speechde.corpora.ateb.examples import examples_file
from speechde.corpora.bitext import Bitext, TextPair
from speechde.corpora.examples import SYNTHETIC, TRANSLATION
from speechde.corpora.examples_file import FileExamples, clips_of, read_examples
from speechde.corpora.load import held_out_texts, load_corpus, load_synthetic, load_translations
from speechde.corpora.statistics import corpus_statistics, durations, format_statistics
from speechde.errors import ConfigError, DataError
from speechde.evaluation.speech import sample_sentences
from speechde.media.containers import split_locator
from speechde.text import normalise_text
from speechde.training.adapt import adapted_corpus
from speechde.training.stage import without_known
from speechde.types import Corpus, Dropped, Example, Text, Utterance

_NONE = np.empty((0, 2), np.uint64)
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
    def pictures(self) -> list[str]:
        """Locators of the pictures of the files of examples that are trained on, each once."""
        return list(dict.fromkeys(picture for file in self.files.values() for picture in file.pictures()))

    @property
    def held_out_pictures(self) -> list[str]:
        """Those of dev and test."""
        files = [file for some in self.held_out.values() for file in some.values()]
        return list(dict.fromkeys(picture for file in files for picture in file.pictures()))

    @property
    def corpora(self) -> list[Corpus]:
        """The one that was asked for, which names the languages, and the synthetic one."""
        return [self.corpus, *([self.synthetic] if self.synthetic else [])]


def read_data(config: RunConfig, cache: Path) -> TrainingData:
    """Read what a configuration asks for.

    Raises:
        ConfigError: nothing is left to train on, or to choose a checkpoint by.
    """
    clips = [task for task in config.tasks.values() if task.examples == CLIPS]
    if config.data.synthetic.langs and clips and not any(SYNTHETIC in task.shares for task in clips):
        raise ConfigError(  # a share of 0 that is stated means none, also where the recipe has languages of it
            "data.synthetic.langs needs synthetic speech: set tasks.speech.shares.synthetic=0.4, say, or "
            "data.synthetic.langs=[]"
        )
    if config.data.synthetic.langs and clips and not config.uses(SYNTHETIC):
        show("note: tasks.speech.shares.synthetic is 0, so the languages of data.synthetic.langs are not heard")
    if config.adapt.enabled:
        corpus = adapted_corpus(config, cache)
    else:
        corpus = without_known(config, load_corpus(config.data, cache))
    data = TrainingData(
        corpus,
        load_synthetic(config.data, corpus, cache) if config.uses(SYNTHETIC) else None,
        load_translations(config.data, corpus) if config.uses(TRANSLATION) else None,
    )
    data.files, data.held_out = read_files(config, corpus, cache)
    recorded, data.dev = corpus.select("train", corpus.seen), corpus.select("dev", corpus.seen)
    if not config.without_speech and not (recorded and data.dev):
        found = f"{len(recorded)} train and {len(data.dev)} dev clips in {', '.join(corpus.seen) or 'no language'}"
        found += f" (left out: {corpus.dropped_counts()})" if corpus.dropped else ""
        raise ConfigError(f"{corpus.name} has {found}; training needs both: set data.seen, and split in a manifest")
    data.training = recorded + (data.synthetic.utterances if data.synthetic else [])
    data.whole = corpus.select(config.eval.split, corpus.seen if config.eval.languages == "seen" else None)
    data.test = sample_sentences(data.whole, config.eval.per_language, config.data.split_seed)
    return data


def read_files(
    config: RunConfig, corpus: Corpus, cache: Path
) -> tuple[dict[str, FileExamples], dict[str, dict[str, FileExamples]]]:
    """The training examples of every task that names a file, by its name; and by split those of dev and test.

    What is held out stays out: an example with a transcript or clip of dev or test of the corpus is dropped, and one
    whose query or positive another file has in dev or test. So is one whose hard negatives cannot be one tensor.

    Raises:
        ConfigError: a file has speech in a language that is evaluated as never heard, pictures that no frontend reads,
            or no example of a source that a share is of.
        DataError: a file has no usable example of the split train.
    """
    held_out = {normalise_text(text) for text in held_out_texts(corpus)}
    held_out |= {os.path.abspath(u.audio) for u in corpus.utterances if u.split != "train"}
    wholes = {
        name: _read(config, task.examples, cache)
        for name, task in config.tasks.items()
        if task.examples not in (CLIPS, TRANSLATIONS)
    }
    _refuse_unseen(config, wholes)
    later = {split: {name: whole.select(split) for name, whole in wholes.items()} for split in ("dev", "test")}
    asked = {}
    if len(wholes) > 1:  # what a file holds out itself is out of it already
        asked = {name: np.concatenate([some[name].held_out_names() for some in later.values()]) for name in wholes}
    found: dict[str, FileExamples] = {}
    for name, whole in wholes.items():
        task, file = config.tasks[name], whole.select("train")
        _refuse_heard(f"tasks.{name}: {task.examples}", (file, later["dev"][name]), {*corpus.zero_shot, *corpus.proxy})
        task.check_sources(name, {*file.sources})
        elsewhere = np.concatenate([_NONE, *(names for other, names in asked.items() if other != name)])
        leaks = np.zeros(len(file), bool)
        if len(elsewhere):
            leaks = np.isin(file.held_out_names(), elsewhere).any(axis=1)
        reasons = [_unfit(one, held_out, leaked, task.negatives) for one, leaked in zip(file, leaks, strict=True)]
        kept = [row for row, reason in enumerate(reasons) if not reason]
        if not kept:
            why = ", ".join(f"{reason}: {count}" for reason, count in Counter(reasons).items())
            raise DataError(
                f"tasks.{name}: {task.examples} has no example to train on ({why or 'none is of the split train'})"
            )
        file.dropped += [Dropped("", reason) for reason in reasons if reason]
        found[name] = file.subset(np.array(kept, np.int64))
    return found, {split: {name: file for name, file in some.items() if len(file)} for split, some in later.items()}


def _refuse_unseen(config: RunConfig, files: Mapping[str, FileExamples]) -> None:
    """Refuse pictures that no frontend reads, and a frontend for pictures that nothing would train."""
    pictured = [name for name, file in files.items() if any(file.pictured)]
    if pictured and config.image.kind == "none":
        raise ConfigError(
            f"tasks.{pictured[0]}: {config.tasks[pictured[0]].examples} has pictures, and image.kind=none reads none; "
            "set image.kind=patches, or leave the task out"
        )
    if not pictured and config.image.kind != "none" and not config.init:
        raise ConfigError(
            f"image.kind={config.image.kind}, and no task has a picture; name a file of examples with pictures "
            "(docs/images.md), or set image.kind=none"
        )


def _read(config: RunConfig, examples: str, cache: Path) -> FileExamples:
    """A file of examples, or what is made of a set of ATEB."""
    if (own := set_name(examples)) is None:
        return read_examples(examples)
    path, dropped = examples_file(own, config.ateb, config.data.public, cache)
    found = read_examples(path)
    found.dropped[:0] = dropped
    return found


def _refuse_heard(what: str, files: Iterable[FileExamples], evaluated: Collection[str]) -> None:
    """Refuse speech, to train on or to choose a checkpoint by, in languages that are evaluated as never heard."""
    if heard := sorted({clip.lang for file in files for clip in file.clips()} & set(evaluated)):
        raise ConfigError(
            f"{what} has speech in {', '.join(heard)}, which would be evaluated as never heard; leave it out there "
            "(speechde data manifest --only-seen), or out of data.zero_shot"
        )


def _unfit(example: Example, held_out: Collection[str], leaked: bool, negatives: int) -> str:
    """Why an example is not trained on; empty where it is. ``leaked``: another file has it in dev or test."""
    if any(normalise_text(text) in held_out for text in _texts(example)):
        return "a text of dev or test"
    if any(os.path.abspath(audio) in held_out for audio, _ in clips_of(example)):
        return "a clip of dev or test"
    if leaked:
        return "in dev or test of another file"
    if len({item.make_up for item in example.negatives[:negatives]}) > 1:
        return "hard negatives of several make-ups"
    return ""


def _texts(example: Example) -> Iterator[str]:
    for item in example.items:
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
