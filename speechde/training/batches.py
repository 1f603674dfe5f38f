"""The batches that a configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence

from speechde.config import RunConfig
from speechde.data.sampler import LanguageBatches
from speechde.languages import resolve
from speechde.types import Utterance


def language_batches(
    config: RunConfig, training: Sequence[Utterance], *, steps: int, views: int = 1, translations: Sequence[str] = ()
) -> LanguageBatches:
    """See ``LanguageBatches``; ``translations`` is the language of each translation pair.

    Of a model that is adapted, all languages but those of ``data.seen`` are replayed.
    """
    t, data = config.trainer, config.data
    new = set(map(resolve, data.seen))
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
        replayed={u.lang for u in training} - new if config.adapt.checkpoint else (),
        replay=config.adapt.replay,
    )
