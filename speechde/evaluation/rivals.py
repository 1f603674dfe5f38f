"""Other people's encoders as baselines: a text encoder of transformers, a SentenceTransformer, any model of mteb.

Their vectors are scaled to unit length, so scores are cosines. mteb and sentence-transformers are read when a rival is
named, and needs the extra ``mteb``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

from speechde.cache import expanded
from speechde.conditions import CLEAN, Condition
from speechde.errors import AssetError
from speechde.install import install_command
from speechde.media.audio import load_audio
from speechde.media.degradations import degrade
from speechde.models.loading import positions
from speechde.models.pooling import mean_pool
from speechde.models.prompt import MAX_TOKENS
from speechde.progress import Advance, progress
from speechde.types import SAMPLE_RATE, Utterance
from speechde.weights import hub

BATCH = 32
TASK = "FleursA2TRetrieval.v2"  # whose prompts a model of mteb gets, where it has any
Pair = tuple[str, str]  # language and text


class SentenceEncoder(Protocol):
    """What a cascade needs of a text encoder."""

    def embed_texts(self, texts: Sequence[Pair], query: bool = False) -> np.ndarray:
        """``(lang, text)`` pairs → ``(n, dim)`` float32 unit vectors; ``query``: they ask, and are not asked for."""
        ...


class TextEncoder:
    """A transformers encoder, mean pooling, and one prefix for queries and texts, as E5 is used for symmetric tasks."""

    def __init__(self, folder: str | Path, prefix: str = "query: ") -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(folder, use_safetensors=True, add_pooling_layer=False)
        self.model.to(self.device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.prefix = prefix
        self.max_tokens = positions(self.model.config) or MAX_TOKENS
        self.cut = 0  # texts that were longer

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[Pair], query: bool = False) -> np.ndarray:
        """See ``SentenceEncoder``. Texts beyond the model's positions are cut, and ``cut`` counts them."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i][1]))
        out = np.empty((len(texts), self.model.config.hidden_size), np.float32)
        with progress("embedding by a text encoder", len(order), "texts") as advance:
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                written = [self.prefix + texts[i][1] for i in rows]
                lengths = map(len, self.tokenizer(written, verbose=False)["input_ids"])
                self.cut += sum(length > self.max_tokens for length in lengths)
                batch = self.tokenizer(
                    written, padding=True, truncation=True, return_tensors="pt", max_length=self.max_tokens
                ).to(self.device)
                hidden = self.model(**batch).last_hidden_state
                out[rows] = F.normalize(mean_pool(hidden, batch["attention_mask"].bool()), dim=-1).cpu().numpy()
                advance(len(rows))
        return out


class Rival:
    """Any model that mteb can run: a SentenceTransformer folder, or the name of a model in mteb or on the hub.

    Raises:
        AssetError: mteb is not installed, or the model cannot be had.
    """

    def __init__(self, name: str) -> None:
        try:
            import mteb
            from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
        except ImportError as error:
            raise AssetError(f"rival {name!r} needs mteb: {install_command('mteb')}") from error
        local, device = expanded(name), "cuda" if torch.cuda.is_available() else "cpu"
        try:
            if local.is_dir():
                safe = {"use_safetensors": True}
                self.encoder = SentenceTransformerEncoderWrapper(str(local), device=device, model_kwargs=safe)
            else:
                if (reason := hub.unreachable()) and not hub.offline():
                    raise OSError(f"{reason}; HF_HUB_OFFLINE=1 takes what its cache holds")
                self.encoder = mteb.get_model(name, device=device)
        except (OSError, KeyError, ValueError) as error:
            raise AssetError(f"rival {name!r} is no folder and cannot be had by name: {error}") from error
        self.task = mteb.get_task(TASK).metadata

    def embed_texts(self, texts: Sequence[Pair], query: bool = False) -> np.ndarray:
        """See ``SentenceEncoder``."""
        return self._encode(_Items("text", [text for _, text in texts]), query)

    def embed_clips(self, utterances: Sequence[Utterance], condition: Condition = CLEAN) -> np.ndarray:
        """Recordings, as they sound under a condition → ``(n, dim)`` float32 unit vectors, as queries.

        Raises:
            AssetError: the model embeds no audio.
        """
        meta = self.encoder.mteb_model_meta
        if "audio" not in meta.modalities:
            raise AssetError(
                f"rival {meta.name!r} embeds {', '.join(meta.modalities)}; ask for it as cascade:MODEL, which embeds "
                "transcripts"
            )
        return self._encode(_Items("audio", list(utterances), condition), query=True)

    def _encode(self, items: _Items, query: bool) -> np.ndarray:
        from mteb.types import PromptType

        loader = torch.utils.data.DataLoader(items, batch_size=BATCH, collate_fn=_collate)
        kind = PromptType.query if query else PromptType.document
        with progress("embedding by a rival", len(items), "items") as items.read:
            vectors = self.encoder.encode(
                loader, task_metadata=self.task, hf_split="test", hf_subset="default", prompt_type=kind,
                batch_size=BATCH, show_progress_bar=False,
            )  # fmt: skip
        vectors = torch.as_tensor(vectors).float().cpu()
        return F.normalize(vectors, dim=-1).numpy()


class _Items(torch.utils.data.Dataset):
    """What mteb's encoders read: rows of one modality, and its name among the ``features``. Clips are read late."""

    def __init__(self, kind: str, values: list, condition: Condition = CLEAN) -> None:
        self.kind, self.values, self.features, self.condition = kind, values, {kind: None}, condition
        self.read: Advance = lambda count: None  # called with every item that is read

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> dict:
        value = self.values[row]
        self.read(1)
        if self.kind == "audio":
            waveform = degrade(load_audio(value.audio), self.condition, value.id)
            value = {"array": waveform, "sampling_rate": SAMPLE_RATE}
        return {self.kind: value}


def _collate(rows: list[dict]) -> dict[str, list]:
    return {key: [row[key] for row in rows] for key in rows[0]}
