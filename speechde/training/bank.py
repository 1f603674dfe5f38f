"""Further negatives that cost next to nothing: transcripts that are not in the batch.

Where the text side of the LLM is frozen, the states of all transcripts are there before training begins, and their
vectors are one product away. A clip can then be told from every transcript of its language, and not from those of its
batch alone. A memory of earlier batches (XBM; Wang et al. 2020, arXiv 1912.06798) approximates this where the other
side moves; here nothing but the projection does, and it is applied anew in every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechde.errors import ConfigError
from speechde.losses.meaning import ABSENT


class TextBank(nn.Module):
    """Draws transcripts of the languages of a batch.

    Args:
        langs: of each transcript, by ``Rows.known``.
        meanings: what each means, as in ``Batch.meaning``.
        size: of a draw; all of the batch's languages where these have no more.
    """

    def __init__(self, langs: Sequence[str], meanings: Sequence[int], size: int) -> None:
        super().__init__()
        numbers = {lang: number for number, lang in enumerate(dict.fromkeys(langs))}
        # buffers move with the model, and are in no checkpoint
        self.register_buffer("langs", torch.tensor([numbers[lang] for lang in langs]), persistent=False)
        self.register_buffer("meanings", torch.tensor(meanings, dtype=torch.int64), persistent=False)
        self.size = min(size, len(langs))

    def forward(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """``(size,)`` places of transcripts and what each means; ``ABSENT`` for those of others, which fill up.

        No device is waited for. Random numbers are PyTorch's, which training seeds by the step.

        Args:
            known: ``(rows,)`` places of the transcripts of the batch.
        """
        own = torch.isin(self.langs, self.langs[known])
        places = (torch.rand(len(own), device=own.device) + own).topk(self.size).indices
        return places, torch.where(own[places], self.meanings[places], ABSENT)


def check_frozen(size: int, frozen: bool) -> None:
    """Refuse a bank of transcripts whose vectors would have to be made anew in every step.

    Raises:
        ConfigError: the text side of the LLM is trained.
    """
    if size and not frozen:
        raise ConfigError(
            f"loss.bank={size} needs the vectors of all transcripts in every step, which are there where the text side "
            "of the LLM is frozen; set model.freeze=['*'] without model.lora, or loss.bank=0"
        )
