"""A trained model as an encoder of mteb (Enevoldsen et al. 2025; Assadi et al. 2025 for audio): speech and text.

Nothing is truncated. Other adapters cut clips at some seconds, which costs them the ends of long FLEURS recordings;
here a clip is encoded whole, in windows where the speech encoder needs them, and ``max_tokens`` of the metadata is
None. Speech goes through the very steps of ``evaluate.py``: silence trimmed, frames, pooling, mean normalisation,
units. The language of a prefix is that of mteb's subset (``ro_ro``), or of a task in one language; else it is unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.modality_collators import AudioCollator
from mteb.models.model_meta import ScoringFunction

from speechde import languages
from speechde.data.audio import trim_silence
from speechde.errors import AssetError, ConfigError, DataError
from speechde.export.folder import TrainedModel
from speechde.frontends.encoders import load_speech_encoder, pool_frames, pooling_factor
from speechde.frontends.features import subtract_mean
from speechde.models.embed import embed_speech, embed_texts
from speechde.types import SAMPLE_RATE
from speechde.weights import resolve, weights_hash

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
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = TrainedModel.load(folder)
        self.model.model.to(device)
        speech = self.model.settings["speech"]
        self.encoder = load_speech_encoder(resolve(speech["encoder"]), layer=speech["layer"], device=device)
        expected, found = (
            {key: value for key, value in each.items() if key != "dtype"}
            for each in (speech["encoder_key"], self.encoder.describe())
        )
        if expected != found:
            raise AssetError(f"the model was trained on frames of {expected}; {speech['encoder']} is {found}")
        self.factor = pooling_factor(self.encoder.rate, speech["rate"])
        self.mteb_model_meta = _metadata(self.model, weights_hash(folder))

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
        trained = self.model
        if kinds == {"text"}:
            texts = [text for batch in inputs for text in batch["text"]]
            return embed_texts(trained.model, [trained.prompt.text_ids(text, lang) for text in texts])
        inputs.collate_fn = AudioCollator(target_sampling_rate=SAMPLE_RATE, max_samples=None)
        items = [item for batch in inputs for item in self._items([row["array"] for row in batch["audio"]])]
        return embed_speech(trained.model, trained.prompt, items, [lang] * len(items))

    def _items(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        """Waveforms → stored speech items (frames or units), as ``frontends.features`` makes them."""
        speech, items = self.model.settings["speech"], []
        waveforms = [trim_silence(np.ravel(clip).astype(np.float32), speech["trim_db"]) for clip in clips]
        for frames in self.encoder.encode(waveforms):
            frames = pool_frames(frames, self.factor)
            if share := speech.get("mean_norm", 0.0):
                frames = subtract_mean(frames, share)
            items.append(frames if self.model.quantiser is None else self.model.quantiser.encode(frames))
        return items


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
        max_tokens=None,
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
