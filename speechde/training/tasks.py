"""The training tasks that a configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence

from speechde.config import RunConfig
from speechde.corpora.bitext import TextPair
from speechde.corpora.examples import RECORDED, SYNTHETIC, TRANSLATION, Joined, SpeechExamples, TranslationExamples
from speechde.languages import resolve
from speechde.training.mixture import Mixture, Share, Task
from speechde.types import Utterance

SPEECH = "speech"  # the task of every recipe: clips and their transcripts, and translations among them


def task_examples(config: RunConfig, training: Sequence[Utterance], pairs: Sequence[TextPair] = ()) -> list[Joined]:
    """The examples of each task, in the order of ``mixture``: clips with their transcripts, then texts with their
    English."""
    across = bool(pairs) or not config.trainer.one_language
    return [Joined(SpeechExamples(training, across), *([TranslationExamples(pairs)] if pairs else []))]


def mixture(config: RunConfig, tasks: Sequence[Joined], *, steps: int, views: int = 1) -> Mixture:
    """The batches of an epoch of ``steps`` steps; ``tasks`` are the ``task_examples``.

    A fixed share of them goes to the languages that are replayed, in adapting (all but those of ``data.seen``), or else
    to those that have synthetic speech alone.

    Args:
        views: versions of each recorded clip.

    Raises:
        ConfigError: a share leaves too little of a batch for speech.
    """
    t, data = config.trainer, config.data
    (examples,) = tasks
    kinds = set(zip(examples.strata, examples.sources, strict=True))
    if config.adapt.checkpoint:
        group, share = {lang for lang, _ in kinds} - set(map(resolve, data.seen)), config.adapt.replay
    else:
        recorded = {lang for lang, source in kinds if source == RECORDED}
        group, share = set(map(resolve, data.synthetic.langs)) - recorded, data.synthetic.langs_share
    task = Task(
        SPEECH,
        examples.strata,
        examples.sources,
        batch_size=t.batch_size,
        one_stratum=t.one_language,
        exponent=t.language_exponent,
        shares={
            SYNTHETIC: Share(data.synthetic.share, apart=data.synthetic.apart),
            TRANSLATION: Share(data.translations.share, elsewhere=True),
        },
        views=views,
        group=group,
        group_share=share,
    )
    return Mixture([task], steps=steps, seed=config.seed)
