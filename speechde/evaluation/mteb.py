"""A trained model as an encoder of mteb (Enevoldsen et al. 2025; Assadi et al. 2025 for audio): all that it reads.

No speech is cut. Other adapters cut clips at some seconds, which costs them the ends of long FLEURS recordings; here a
clip is encoded whole, in windows where the speech encoder needs them and as the mean of parts where the LLM has too few
positions. ``max_tokens`` of the metadata is the limit of texts; a warning counts those that are longer. Speech goes
through the very steps of ``evaluate.py``: silence trimmed, frames, pooling, mean normalisation, units.

Rows whose side of a task has several media (``it2t``: a picture with words) are one item each, its parts in mteb's own
order: text, picture, speech.

The language of a prefix is that of the side which is encoded. mteb lists the languages of each subset, and says whether
queries or documents are encoded, but no convention says which of two languages is whose: ``acm_Arab-eng_Latn`` of
Belebele has English questions and ``deu-fra`` of CLSD German ones. So the order is known for the tasks of ``ORDERS``
alone. Everywhere else a subset of several languages gets the prefix of an unknown language, on both sides; so do both
columns of bitext mining and of STS, where nothing tells an encoder which one it is given.

A model that was trained with prompts is asked with them where mteb finds one: by task, type of task or side, as
``Retrieval-query`` or ``query``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.modality_collators import AudioCollator
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType

from speechde import languages
from speechde.api import SpeechTextEncoder
from speechde.checkpoint.folder import TrainedModel
from speechde.errors import ConfigError, DataError
from speechde.types import SAMPLE_RATE, Audio, Image, Item, Part, Text
from speechde.weights import weights_hash

# cross-lingual tasks whose loader was read: the sides that the languages of a subset belong to, in their order
_QUERY_FIRST, _DOCUMENT_FIRST = ("query", "document"), ("document", "query")
ORDERS = {
    "BelebeleRetrieval": _DOCUMENT_FIRST,
    "MLQARetrieval": _DOCUMENT_FIRST,
    "XPQARetrieval": _DOCUMENT_FIRST,
    "CUREv1": _QUERY_FIRST,
    "CrossLingualSemanticDiscriminationWMT19": _QUERY_FIRST,
    "CrossLingualSemanticDiscriminationWMT21": _QUERY_FIRST,
    "mFollowIRCrossLingual": _QUERY_FIRST,
}
MODALITIES = {"text": "text", "image": "image", "audio": "speech"}  # columns of rows, in the order of an item's parts
log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from torch.utils.data import DataLoader


class MtebEncoder(AbsEncoder):
    """A model folder behind mteb's ``EncoderProtocol``.

    Args:
        model_name: a folder that ``TrainedModel.save`` wrote, or a run directory that holds one as ``model``.
        revision: not used; the metadata name the weights by their hash.
        device: of the model and of its speech encoder; None takes the GPU when there is one.
        dim: one of the sizes that the model was trained at; None for the largest. The results of others have a name of
            their own.

    Raises:
        AssetError: there is no such model, or its speech encoder is another than it was trained with.
        ConfigError: it was not trained at the size ``dim``.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,
        dim: int | None = None,
        **_: Any,
    ) -> None:
        folder = Path(model_name)
        folder = folder / "model" if (folder / "model").is_dir() else folder
        self.encoder = SpeechTextEncoder.from_pretrained(folder, device=device, dim=dim)
        self.model_prompts = self.encoder.trained.prompt.openings()
        self.mteb_model_meta = _metadata(self.encoder.trained, weights_hash(folder), dim)

    def encode(
        self,
        inputs: DataLoader,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **_: Any,
    ) -> np.ndarray:
        """Rows of text, pictures, audio or mixtures → ``(n, dim)`` float32, in order.

        Raises:
            DataError: the rows hold none of them, or video.
            ConfigError: the model does not read one of them.
        """
        kinds = _modalities(inputs.dataset.features, task_metadata, prompt_type)
        lang = language_of(task_metadata, hf_subset, prompt_type)
        prompt = self.get_prompt_name(task_metadata, prompt_type)
        if kinds == ["text"]:
            return self.encoder.encode_text([text for batch in inputs for text in batch["text"]], lang, prompt=prompt)
        if "audio" in kinds:
            inputs.collate_fn = AudioCollator(target_sampling_rate=SAMPLE_RATE, max_samples=None)
        if kinds == ["audio"]:
            clips = ((np.ravel(row["array"]) for row in batch["audio"]) for batch in inputs)
            options = {"prompt": prompt, "sampling_rate": SAMPLE_RATE}
            return np.concatenate([self.encoder.encode_speech(list(batch), lang, **options) for batch in clips])
        rows = (row for batch in inputs for row in zip(*(batch[kind] for kind in kinds), strict=True))
        items = (Item(*map(_part, kinds, row), lang=lang) for row in rows)
        return self.encoder.embed(items, prompt=prompt)


def _part(kind: str, content: Any) -> Part:
    if kind == "audio":
        return Audio(np.ravel(content["array"]), SAMPLE_RATE)
    return Text(content) if kind == "text" else Image(content)


def language_of(task: TaskMetadata, subset: str, side: PromptType | None = None) -> str | None:
    """The FLEURS code of what is encoded; None where it is not known, or is none of FLEURS.

    Args:
        subset: of the task; bitext mining of parallel columns gives the name of a column, which is a language.
        side: query or document, where mteb says so.
    """
    listed = task.hf_subsets_to_langscripts.get(subset)
    if listed is None and len(parts := subset.split("-")) == 2 and None not in map(_resolved, parts):
        listed = [subset] if _is_region(parts[1]) else parts
    langs = [_resolved(tag) for tag in listed or [subset]]
    own = _resolved(subset) if "-" not in subset else None
    if own and set(langs) <= {own, None}:  # varieties that the table of languages lacks, such as ar_x_gulf
        return own
    if len(set(langs)) == 1:
        return langs[0]
    order = ORDERS.get(task.name, ())
    if side is not None and len(langs) == len(order):
        return langs[order.index(PromptType(side).value)]
    _warn_unknown(task.name)
    return None


def _resolved(tag: str) -> str | None:
    try:
        return languages.resolve(tag)
    except ConfigError:
        return None


def _is_region(part: str) -> bool:
    """Of a locale such as ``fr-CA``, where ``CA`` is Canada and not Catalan."""
    return len(part) == 2 and part.isupper()


@lru_cache  # once for a task: some have 40,000 subsets
def _warn_unknown(task: str) -> None:
    log.warning("%s has subsets of several languages and no known side: they get the prefix of none", task)


def _modalities(features: Iterable[str], task: TaskMetadata, side: PromptType | None) -> list[str]:
    """What rows hold; where they hold several things, those that this side of the task is about.

    Tasks without sides (classification) call what they encode the left one; their labels come in rows of text alone.
    """
    found = {*MODALITIES, "video"} & set(features)
    asked = found & set(task.get_modalities(side or PromptType.query)) if len(found) > 1 else found
    if not asked or "video" in asked:
        raise DataError(
            f"{task.name} has rows of {', '.join(features)}, and its category is {task.category}: a side is read of "
            "text, pictures and audio (the letters t, i, a) and their mixtures; choose another task"
        )
    return [kind for kind in MODALITIES if kind in asked]


def _metadata(trained: TrainedModel, weights: str, dim: int | None) -> ModelMeta:
    model, training = trained.model, trained.settings.training
    embedding = sum(parameter.numel() for parameter in model.backbone.embedding.parameters())
    return ModelMeta(
        loader=MtebEncoder,
        name=f"speechde/{training['recipe']}-s{training['seed']}" + (f"-{dim}d" if dim else ""),
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
        modalities=["text", *(kind for kind, own in MODALITIES.items() if own in model.frontends)],
    )
