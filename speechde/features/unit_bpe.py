"""Byte-pair encoding over units: frequent unit sequences become one token, so that speech is about as long as text.

Units are ten times as many as the characters of a sentence; merging pairs that are frequent (Sennrich et al. 2016, here
SentencePiece, Kudo and Richardson 2018) gives shorter sequences of more telling tokens. Each unit is written as one
character of a private Unicode plane, so that the text tool neither normalises nor splits anything. All units are tokens
themselves: nothing is unknown, and tokens decode to the units they were made from.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import sentencepiece

from speechde.cache import atomic_write
from speechde.errors import AssetError, ConfigError

FIRST = 0xF0000  # character of unit 0, the start of supplementary private use area A
MAX_UNITS = 0xFFFE  # characters there
VERSION = 1  # of what ``train_bpe`` makes, and of the sequences it is given; part of the cache key
MAX_SEQUENCES = 100_000  # of the training clips; merges no longer change, and the trainer holds all in memory
MAX_LENGTH = 10_000  # units read of a clip, where the trainer could count to 65,535


@dataclass(frozen=True)
class UnitBpe:
    """A trained BPE; ``model`` is the file that SentencePiece writes."""

    model: bytes

    @cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    @property
    def hash(self) -> str:
        """Identifies the BPE."""
        return hashlib.sha256(self.model).hexdigest()[:16]

    @property
    def tokens(self) -> int:
        """Size of the vocabulary; ids are 0 … tokens − 1."""
        return len(self._processor) - 1  # SentencePiece's id 0 stands for unknown characters, which do not exist here

    def units(self, token: int) -> np.ndarray:
        """The units that a token stands for."""
        return np.array([ord(character) - FIRST for character in self._processor.id_to_piece(int(token) + 1)], np.int32)

    def encode(self, units: np.ndarray) -> np.ndarray:
        """``(time,)`` units → ``(tokens,)`` int32 ids, at most as many.

        Raises:
            AssetError: a unit that the BPE was not made for.
        """
        ids = np.array(self._processor.encode(_text(units)), np.int32) - 1
        if len(ids) and ids.min() < 0:
            raise AssetError(
                f"units up to {max(units)} are not those of this unit BPE; use the k-means it was made for"
            )
        return ids

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """``(tokens,)`` ids → the ``(time,)`` int32 units they were made from."""
        return np.concatenate([np.zeros(0, np.int32), *(self.units(token) for token in ids)])

    def save(self, path: Path) -> None:
        """Write the SentencePiece model."""
        with atomic_write(path) as temporary:
            temporary.write_bytes(self.model)

    @classmethod
    def load(cls, path: Path) -> UnitBpe:
        """Read what ``save`` wrote.

        Raises:
            AssetError: there is no such file, or it is damaged.
        """
        try:
            bpe = cls(Path(path).read_bytes())
            _ = bpe.tokens
        except (OSError, RuntimeError) as error:
            raise AssetError(f"no unit BPE at {path} ({error}); give the folder of a trained model") from error
        return bpe


def train_bpe(sequences: Iterable[np.ndarray], units: int, size: int) -> UnitBpe:
    """Train a BPE of ``size`` tokens, ``units`` of them the units themselves. The same input gives the same model.

    The vocabulary is smaller than ``size`` where the corpus has no pair left to merge: a larger one would need tokens
    that never occur, and shortened recipes must run. Callers read the size from ``tokens``.

    Raises:
        ConfigError: ``size`` has no room for the units, or there are too many units.
    """
    if not 0 < units <= min(size, MAX_UNITS):
        raise ConfigError(f"frontend.bpe={size} needs room for frontend.units={units} (at most {MAX_UNITS}); raise it")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_sentences(sequences, units),
        model_writer=model,
        model_type="bpe",
        vocab_size=size + 1,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_unicode_script=False,
        split_by_whitespace=False,
        split_by_number=False,
        max_sentence_length=8 * MAX_LENGTH,  # bytes; longer ones would be left out without a word
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return UnitBpe(model.getvalue())


def _text(units: Iterable[int]) -> str:
    return "".join(chr(FIRST + int(unit)) for unit in units)


def _sentences(sequences: Iterable[np.ndarray], units: int) -> Iterator[str]:
    # Each unit alone: it is in the vocabulary then, and a sentence of one character adds no pair.
    yield from (_text([unit]) for unit in range(units))
    for sequence in sequences:
        yield _text(sequence[:MAX_LENGTH])
