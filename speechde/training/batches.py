"""The batches that a configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence

from speechde.config import RunConfig
from speechde.data.sampler import LanguageBatches
from speechde.types import Utterance


def language_batches(
    config: RunConfig, training: Sequence[Utterance], *, steps: int, views: int = 1, translations: Sequence[str] = ()
) -> LanguageBatches:
    """See ``LanguageBatches``; ``translations`` is the language of each translation pair.

    A fixed share of the batches goes to the languages that are replayed, in adapting (all but those of ``data.seen``),
    or else to those that have synthetic speech alone.
    """
    t, data = config.trainer, config.data
    if config.adapt.checkpoint:
        group, share = {u.lang for u in training} - set(data.seen), config.adapt.replay
    else:
        recorded = {u.lang for u in training if not u.synthetic}
        group, share = set(data.synthetic.langs) - recorded, data.synthetic.langs_share
    return LanguageBatches(
        training,
        batch_size=t.batch_size,
        steps=steps,
        seed=config.seed,
        one_language=t.one_language,
        exponent=t.language_exponent,
        synthetic_share=data.synthetic.share,
        synthetic_apart=data.synthetic.apart,
        views=views,
        translations=translations,
        translation_share=data.translations.share,
        group=group,
        group_share=share,
    )
