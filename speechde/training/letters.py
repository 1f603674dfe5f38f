"""Letters as a second thing to learn: connectionist temporal classification on a layer of the speech adapter.

The contrastive loss says of a whole clip which text it means, and an adapter can meet it by recognising the words it
has heard. Reading letters says of every moment what was spoken, and letters are shared by words and languages that were
never heard (CTC: Graves et al. 2006; on a layer in the middle: Lee and Watanabe 2021). The head that reads them is
trained beside the model and dropped with the run: no model folder holds it, and no vector depends on it.

A position of the adapter lasts about 80 ms, in which people speak more than one letter: the head reads several of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechde.errors import ConfigError
from speechde.models.dual_encoder import DualEncoder, in_buckets
from speechde.models.frontends.base import pad_sequences
from speechde.text import normalise_text
from speechde.types import Inputs, Sequences, Utterance

BLANK = 0
COLUMN = "letters"  # of the ``Inputs`` that are encoded, so that letters stay with their rows


class Alphabet:
    """Letters of transcripts as numbers from 1: the characters of normalised text, the same for any order of texts.

    Args:
        transcripts: by the id of the clip.
    """

    def __init__(self, transcripts: Mapping[str, str]) -> None:
        self.transcripts = transcripts
        letters = sorted({letter for text in set(transcripts.values()) for letter in normalise_text(text)})
        self._numbers = {letter: number for number, letter in enumerate(letters, BLANK + 1)}

    @classmethod
    def of(cls, clips: Iterable[Utterance]) -> Alphabet:
        """That of the transcripts of clips."""
        return cls({u.id: u.text for u in clips})

    def __len__(self) -> int:
        return len(self._numbers)

    def spelled(self, clip: str) -> np.ndarray:
        """``(letters,)`` int64 of the transcript of a clip; empty where it has none."""
        text = normalise_text(self.transcripts.get(clip, ""))
        return np.array([self._numbers[letter] for letter in text], np.int64)

    def batch(self, clips: Iterable[str]) -> Sequences:
        """Those of several clips, padded."""
        return pad_sequences([self.spelled(clip) for clip in clips], allow_empty=True)


class LetterReader(nn.Module):
    """Reads letters from the output of one layer of the speech adapter, in training.

    Args:
        letters: size of the alphabet.
        layer: of the adapter, from 1.
        upsample: letters (or blanks) read of each position.
        weight: of the loss, beside the contrastive one.

    Raises:
        ConfigError: the adapter has no such layer.
    """

    def __init__(self, model: DualEncoder, letters: int, *, layer: int, upsample: int, weight: float) -> None:
        super().__init__()
        layers = getattr(model.frontends["speech"], "layers", ())
        if not 1 <= layer <= len(layers):
            fix = f"use 1 to {len(layers)}" if len(layers) else "raise frontend.layers, or set ctc.weight=0"
            raise ConfigError(f"ctc.layer={layer} is no layer of the speech adapter, which has {len(layers)}; {fix}")
        self._layer = [layers[layer - 1]]  # in a list, so that it is not a submodule a second time
        self.upsample, self.weight = upsample, weight
        self.head = nn.Linear(layers[layer - 1].linear2.out_features, upsample * (letters + 1))

    def encode(
        self, encode: Callable[[Inputs], Tensor], parts: int, inputs: Inputs, letters: Sequences
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of ``inputs`` and, of the same pass, the mean CTC loss of the rows that have letters.

        ``parts`` as in ``dual_encoder.in_buckets``; ``letters`` has a row for each of ``inputs``.
        """
        losses = []

        def encode_part(part: Inputs) -> Tensor:
            *columns, (_, spelled) = part.columns
            with self._listening() as heard:
                vectors = encode(Inputs(columns))
            losses.append(self._losses(*heard[-1], spelled))
            return vectors

        vectors = in_buckets(encode_part, parts, Inputs([*inputs.columns, (COLUMN, letters)]))
        every = torch.cat(losses)
        return vectors, every.sum() / max(1, len(every))

    @contextmanager
    def _listening(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Output ``(batch, time, hidden)`` and mask ``(batch, time)`` of the layer, as it runs."""
        heard: list[tuple[Tensor, Tensor]] = []

        def hook(_: nn.Module, __: tuple, given: dict, output: Tensor) -> None:
            heard.append((output, ~given["src_key_padding_mask"]))

        handle = self._layer[0].register_forward_hook(hook, with_kwargs=True)
        try:
            yield heard
        finally:
            handle.remove()

    def _losses(self, hidden: Tensor, mask: Tensor, letters: Sequences) -> Tensor:
        """``(rows with letters,)`` CTC losses for each letter; 0 of a row that is too short for its letters."""
        told = letters.mask.any(1)
        if not told.any():
            return hidden.new_zeros(0)
        read = self.head(hidden[told]).float().unflatten(2, (self.upsample, -1)).flatten(1, 2).log_softmax(-1)
        lengths = letters.mask[told].sum(1)
        losses = F.ctc_loss(
            read.transpose(0, 1), letters.values[told], mask[told].sum(1) * self.upsample, lengths,
            blank=BLANK, reduction="none", zero_infinity=True,
        )  # fmt: skip
        return losses / lengths
