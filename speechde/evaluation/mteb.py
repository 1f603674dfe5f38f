"""A trained model as an encoder of mteb (Enevoldsen et al. 2025; Assadi et al. 2025 for audio): speech and text.

No speech is cut. Other adapters cut clips at some seconds, which costs them the ends of long FLEURS recordings; here a
clip is encoded whole, in windows where the speech encoder needs them and as the mean of parts where the LLM has too few
positions. ``max_tokens`` of the metadata is the limit of texts; a warning counts those that are longer. Speech goes
through the very steps of ``evaluate.py``: silence trimmed, frames, pooling, mean normalisation, units. The language of
a prefix is that of mteb's subset (``ro_ro``), or of a task in one language; else it is unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.modality_collators import AudioCollator
from mteb.models.model_meta import ScoringFunction

from speechde import languages
from speechde.api import SpeechTextEncoder
from speechde.errors import ConfigError, DataError
from speechde.export.folder import TrainedModel
from speechde.types import SAMPLE_RATE
from speechde.weights import weights_hash

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from torch.utils.data import DataLoader


class MtebEncoder(AbsEncoder):
    """A model folder behind mteb's ``EncoderProtocol``.

    Args:
        model_name: a folder that ``TrainedModel.save`` wrote, or a run directory that holds one as ``model``.
        revision: not used; the metadata name the weights by their hash.
        device: of the model and of its speech encoder; None takes the GPU when there is one.

    Raises:
        AssetError: there is no such model, or its speech encoder is another than it was trained with.
    """

    def __init__(self, model_name: str, revision: str | None = None, *, device: str | None = None, **_: Any) -> None:
        folder = Path(model_name)
        folder = folder / "model" if (folder / "model").is_dir() else folder
        self.encoder = SpeechTextEncoder.from_pretrained(folder, device=device)
        self.mteb_model_meta = _metadata(self.encoder.trained, weights_hash(folder))

    def encode(
        self,
        inputs: DataLoader,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> np.ndarray:
        """Rows of audio or of text → ``(n, dim)`` float32, in order.

        Raises:
            DataError: the rows hold neither, or both: a vector is of speech or of text.
        """
        kinds = {"audio", "text"} & set(inputs.dataset.features)
        if len(kinds) != 1:
            found = ", ".join(inputs.dataset.features)
            raise DataError(f"{task_metadata.name} has rows of {found}; this model embeds audio or text, one of them")
        lang = language_of(task_metadata, hf_subset)
        if kinds == {"text"}:
            return self.encoder.encode_text([text for batch in inputs for text in batch["text"]], lang)
        inputs.collate_fn = AudioCollator(target_sampling_rate=SAMPLE_RATE, max_samples=None)
        clips = ((row["array"] for row in batch["audio"]) for batch in inputs)
        return np.concatenate(
            [self.encoder.encode_speech([np.ravel(clip) for clip in batch], lang, sampling_rate=SAMPLE_RATE)
             for batch in clips]
        )  # fmt: skip


def language_of(task: TaskMetadata, subset: str) -> str | None:
    """The FLEURS code of what a task asks in: its subset, or its only language; None where neither names one."""
    for tag in (subset, *(task.languages if len(task.languages) == 1 else ())):
        try:
            return languages.resolve(tag)
        except ConfigError:
            continue
    return None


def _metadata(trained: TrainedModel, weights: str) -> ModelMeta:
    model, training = trained.model, trained.settings["training"]
    embedding = sum(parameter.numel() for parameter in model.backbone.embedding.parameters())
    return ModelMeta(
        loader=MtebEncoder,
        name=f"speechde/{training['recipe']}-s{training['seed']}",
        revision=weights[:16],
        release_date=None,
        languages=None,
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        n_embedding_parameters=embedding,
        memory_usage_mb=None,
        max_tokens=trained.prompt.max_tokens,
        embed_dim=model.dim,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.DOT_PRODUCT,
        use_instructions=False,
        training_datasets=None,
        modalities=["audio", "text"],
    )
