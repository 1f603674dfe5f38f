"""Training data for Lightning: stored speech items and token ids become ``types.Batch``.

Each row has the ids of what its two sides mean, and the loss takes no two rows that share one for each other's
negatives. They are hashes, so that all processes agree on them and none holds a table of millions of translations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from speechde.data.bitext import ENGLISH, TextPair
from speechde.data.sampler import TRANSLATION, LanguageBatches
from speechde.errors import DataError
from speechde.frontends.base import pad_sequences
from speechde.types import Batch, Translations, Utterance

IDS = 3  # columns of ``Batch.meaning``


class PairDataset(Dataset):
    """Speech–text pairs by ``(utterance index, view index)``, translation pairs by ``(index, TRANSLATION)``.

    Args:
        utterances: the training clips.
        views: feature stores, one per version of the real clips; synthetic clips are in the first only.
        text_ids: token ids of each utterance's transcript.
        prefix_ids: token ids before the speech, by language.
        translations: texts of any language and their English.
        tokenise: (text, language) → token ids, of translations; they are read as they are drawn, being many.
        one_language: whether the clips of a batch share their language. Where they do, and there is no translation,
            clips mean the same when their transcripts are equal; otherwise also when they are recordings of one
            sentence, or have one translation.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        views: Sequence[Mapping[str, np.ndarray]],
        text_ids: Sequence[np.ndarray],
        prefix_ids: Mapping[str, np.ndarray],
        translations: Sequence[TextPair] = (),
        tokenise: Callable[[str, str], np.ndarray] | None = None,
        one_language: bool = True,
    ) -> None:
        for store in views:
            missing = [u.id for u in utterances if u.id not in store and not (u.synthetic and store is not views[0])]
            if missing:
                raise DataError(f"{len(missing)} training clips have no features, e.g. {missing[0]!r}")
        self.utterances, self.views = utterances, views
        self.text_ids, self.prefix_ids = text_ids, prefix_ids
        rows: dict[tuple[str, str], int] = {}
        self.text_row = [rows.setdefault((u.lang, u.text), len(rows)) for u in utterances]
        first = {row: index for index, row in reversed(list(enumerate(self.text_row)))}
        self.unique_text_ids = [text_ids[first[row]] for row in range(len(rows))]
        self.translations, self.tokenise = translations, tokenise
        self.across = bool(translations) or not one_language

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key

    def collate(self, keys: list[tuple[int, int]]) -> Batch:
        """Pad one batch."""
        pairs = [index for index, view in keys if view == TRANSLATION]
        keys = [key for key in keys if key[1] != TRANSLATION]
        chosen = [(self.utterances[index], view) for index, view in keys]
        return Batch(
            speech=pad_sequences([self.views[view][utterance.id] for utterance, view in chosen]),
            speech_prefix=pad_sequences([self.prefix_ids[u.lang] for u, _ in chosen], allow_empty=True),
            text=pad_sequences([self.text_ids[index] for index, _ in keys]),
            meaning=torch.tensor([self._meaning(utterance) for utterance, _ in chosen]),
            text_row=torch.tensor([self.text_row[index] for index, _ in keys]),
            translations=self._collate_translations(pairs) if pairs else None,
        )

    def _collate_translations(self, indices: list[int]) -> Translations:
        pairs = [self.translations[index] for index in indices]
        return Translations(
            text=pad_sequences([self.tokenise(pair.text, pair.lang) for pair in pairs]),
            english=pad_sequences([self.tokenise(pair.english, ENGLISH) for pair in pairs]),
            meaning=torch.tensor([_ids(text_id(p.lang, p.text), text_id(ENGLISH, p.english)) for p in pairs]),
        )

    def _meaning(self, utterance: Utterance) -> list[int]:
        """Of a clip: its transcript, and across languages its sentence and its translation."""
        transcript = text_id(utterance.lang, utterance.text)
        if not self.across:
            return _ids(transcript)
        sentence = utterance.sentence_id and _hashed("sentence", utterance.sentence_id)
        return _ids(transcript, sentence, utterance.translation and text_id(ENGLISH, utterance.translation))


def text_id(lang: str, text: str) -> int:
    """What a text means: that of every equal text of its language, and of no other."""
    return _hashed("text", lang, text)


@lru_cache(maxsize=2**20)
def _hashed(*parts: str) -> int:
    """A signed number of 64 bits: of a million texts no two share one, but for a chance of 1 in 10^7."""
    return int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest(), "little", signed=True)


def _ids(first: int, *others: int | str) -> list[int]:
    """``IDS`` numbers; the first stands for what a row has not."""
    found = [first, *(other or first for other in others)]
    return found + [first] * (IDS - len(found))


class PairDataModule(pl.LightningDataModule):
    """Serves the training batches of one epoch at a time, to each process its part of them.

    The loader is rebuilt each epoch (``reload_dataloaders_every_n_epochs=1``) so that the sampler starts from the
    trainer's step also after a resume, in whichever step and with however many processes.
    """

    def __init__(self, dataset: PairDataset, sampler: LanguageBatches, workers: int = 0) -> None:
        super().__init__()
        self.dataset, self.sampler, self.workers = dataset, sampler, workers

    def train_dataloader(self) -> DataLoader:
        """What is left of the current epoch."""
        self.sampler.start(self.trainer.global_step, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(
            self.dataset, batch_sampler=self.sampler, collate_fn=self.dataset.collate, num_workers=self.workers
        )
