"""Vocabulary extension: the embedding table grows from t×m to (t + a)×m.

Following AudioPaLM (Rubenstein et al. 2023) the a audio tokens (one per k-means unit) get the ids t … t+a−1. The two
parts are kept as two parameters rather than one enlarged matrix: the text rows stay bit-identical, can be frozen
without masking gradients, and the optimiser holds state only for what is trained (1,024 rows and not 263,168).
"""

from __future__ import annotations

import logging
import re
from copy import deepcopy

import torch
import torch.nn.functional as F
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from speechde.errors import ConfigError, unknown_value

AUDIO_INITS = ("normal", "centroids")
_SPELLED = re.compile(r"<audio_\w+>")
log = logging.getLogger(__name__)


class ExtendedEmbedding(nn.Module):
    """Text rows of an LLM plus ``audio_tokens`` new rows.

    Args:
        text: the LLM's input embedding (may be a subclass that scales its output, as in Gemma).
        audio_tokens: a, the number of rows to add; 0 for none.
    """

    def __init__(self, text: nn.Embedding, audio_tokens: int = 0) -> None:
        super().__init__()
        self.text = text
        self.audio = nn.Parameter(torch.empty(audio_tokens, text.embedding_dim))
        self.reset_audio()

    @property
    def text_tokens(self) -> int:
        """t, the number of text rows; the first audio token has this id."""
        return self.text.num_embeddings

    @property
    def scale(self) -> Tensor | float:
        """What the LLM multiplies its embedding rows by (√width in Gemma, 1 elsewhere)."""
        return getattr(self.text, "embed_scale", 1.0)

    def _text_statistics(self) -> tuple[Tensor, Tensor]:
        rows = self.text.weight.detach().float()
        return rows.mean(0), rows.std(0)

    @torch.no_grad()
    def reset_audio(self, init: str = "normal", centroids: Tensor | None = None, generator=None) -> None:
        """Initialise the audio rows.

        Args:
            init: ``normal`` draws each column with the mean and deviation of the text rows; ``centroids`` projects
                the k-means centroids, so that units that sound alike start alike, and rescales them to the same
                statistics.
            centroids: ``(audio_tokens, frame_dim)``, needed by ``centroids``.
        """
        if init not in AUDIO_INITS:
            raise unknown_value("model.audio_init", init, AUDIO_INITS)
        if self.audio.numel() == 0:
            return
        mean, std = self._text_statistics()
        if init == "normal":
            self.audio.copy_(mean + std * torch.randn(self.audio.shape, generator=generator))
            return
        if centroids is None or len(centroids) != len(self.audio):
            found = "none" if centroids is None else f"{len(centroids)}"
            raise ConfigError(f"model.audio_init=centroids needs {len(self.audio)} centroids; got {found}")
        centred = centroids.float() - centroids.float().mean(0)
        # a random projection keeps distances (Johnson–Lindenstrauss) and exists for any pair of widths
        projection = torch.randn(centred.shape[1], self.audio.shape[1], generator=generator)
        rows = centred @ projection
        self.audio.copy_(mean + std * rows / rows.std(0).clamp(min=1e-6))

    def forward(self, ids: Tensor) -> Tensor:
        """``(batch, time)`` ids → ``(batch, time, width)``, scaled as the LLM scales them."""
        if self.audio.numel() == 0:
            return self.text(ids)
        is_audio = ids >= self.text_tokens
        text = self.text(ids.masked_fill(is_audio, 0))
        audio = F.embedding((ids - self.text_tokens).clamp(min=0), self.audio) * self.scale
        return torch.where(is_audio.unsqueeze(-1), audio.to(text.dtype), text)


def audio_token(unit: int) -> str:
    """How a tokenizer writes a unit."""
    return f"<audio_{unit}>"


def spells_audio_token(text: str) -> bool:
    """Whether a tokenizer with audio tokens could read one in a text, which is a text all the same."""
    return _SPELLED.search(text) is not None


def with_audio_tokens(
    tokenizer: PreTrainedTokenizerBase, text_tokens: int, audio_tokens: int
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer that knows the audio tokens by the ids they have in the model, t … t+a−1.

    Rows of the table that no token has (many LLMs pad theirs) become ``<audio_unused_0>`` ….

    A tokenizer with more tokens than the LLM has rows (Gemma 3's image token) already uses those ids; it is returned as
    it is, and a warning says so.
    """
    if not audio_tokens or tokenizer.convert_tokens_to_ids(audio_token(0)) == text_tokens:
        return tokenizer
    free = text_tokens - len(tokenizer)
    if free < 0:
        log.warning("the tokenizer has %d tokens beyond the LLM's rows, and so no room for audio tokens", -free)
        return tokenizer
    names = [f"<audio_unused_{i}>" for i in range(free)] + [audio_token(unit) for unit in range(audio_tokens)]
    out = deepcopy(tokenizer)
    out.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True)
    return out
