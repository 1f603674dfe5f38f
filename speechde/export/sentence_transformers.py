"""A model folder in sentence-transformers: ``SentenceTransformer(folder)`` after ``import speechde``.

    import speechde
    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer("runs/quickstart/default-s0/model")
    model.encode(["un autobuz de școală galben"], language="ro")
    model.encode([{"audio": "clip.ogg"}, {"array": waveform, "sampling_rate": 16_000}])

What an input is, its type says: ``{"audio": …}`` is a clip, whether its file is there or not, and ``{"text": …}`` is a
text, whatever it looks like. A bare string is a text unless it is the path of an audio file: as with the models of
sentence-transformers, one that exists is a clip. One that does not is refused, as its vector would be that of its name.

``modules.json`` names the module below. Since version 6 sentence-transformers refuses a class that is not its own
without ``trust_remote_code``, because the name stands in a file that may come from anywhere. This class comes from an
installed package that the user imports, so ``import speechde`` enters it in the table of classes that need no search
(``register``); nothing of the folder is run either way.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from speechde import languages
from speechde.api import CUT, SpeechTextEncoder
from speechde.checkpoint.folder import MODULE, TrainedModel
from speechde.errors import ConfigError, DataError
from speechde.models.embed import item_rows
from speechde.models.frontends.base import pad_items
from speechde.models.pooling import mean_of_parts
from speechde.search.items import AUDIO
from speechde.types import SAMPLE_RATE, Audio, Inputs, Item, Sequences, Text

MODALITIES = ["text", "audio"]
MIN_TOKENS = 16  # of a text: its prefix alone takes several
log = logging.getLogger(__name__)


class SpeechTextModule(InputModule):
    """The only module of such a model: texts or clips in, ``sentence_embedding`` out.

    ``{"audio": clip}`` takes all that ``speechde.media.inputs`` reads: a path, bytes, an array at 16 kHz, a decoder of
    torchcodec. Clips also go in bare, dicts with ``array`` and ``sampling_rate`` among them; a bare string is a text,
    or the path of an audio file that exists. ``encode(…, language="ro")`` sets the prefix. Gradients flow, so it can be
    trained further.
    """

    forward_kwargs = frozenset({"language"})

    def __init__(self, trained: TrainedModel, speech_encoder: str | Path | None = None) -> None:
        super().__init__()
        self.model = trained.model
        self._encoder = SpeechTextEncoder(trained, "cpu", speech_encoder=speech_encoder)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> SpeechTextModule:
        """Read a model folder, or fetch it from the hub. ``model_kwargs`` may have ``speech_encoder``.

        Raises:
            AssetError: it is not such a folder.
            ConfigError: options that a model of speechde has not.
        """
        options = dict(kwargs.get("model_kwargs") or {})
        source = options.pop("speech_encoder", None)
        given = [name for name in ("processor_kwargs", "config_kwargs") if kwargs.get(name)]
        if refused := [*options, *given, *([kwargs["backend"]] if kwargs.get("backend", "torch") != "torch" else [])]:
            raise ConfigError(
                f"{', '.join(refused)}: not known to a speechde model; allowed: model_kwargs={{'speech_encoder': …}}, "
                "backend='torch' (speechde export --to onnx writes ONNX files)"
            )
        folder = cls.load_dir_path(
            model_name_or_path, subfolder, token=token, cache_folder=cache_folder, revision=revision,
            local_files_only=local_files_only,
        )  # fmt: skip
        return cls(TrainedModel.load(folder), source)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the model into an existing folder."""
        if not safe_serialization:
            raise ConfigError("safe_serialization=False would pickle the weights; only safetensors are written")
        self._encoder.trained.write(Path(output_path))

    @property
    def encoder(self) -> SpeechTextEncoder:
        """The same model as ``SpeechTextEncoder``, on the device that the module was moved to."""
        device = next(self.model.parameters()).device
        if self._encoder.device != device:
            self._encoder = SpeechTextEncoder(
                self._encoder.trained, device, speech_encoder=self._encoder.speech_encoder
            )
        return self._encoder

    @property
    def modalities(self) -> list[str]:
        """What ``encode`` takes."""
        return list(MODALITIES)

    @property
    def tokenizer(self) -> Any:
        """Of the LLM."""
        return self._encoder.trained.prompt.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Tokens of a text, prefix included; longer ones are cut, and a warning counts them. Speech is never cut."""
        return self._encoder.trained.prompt.max_tokens

    @max_seq_length.setter
    def max_seq_length(self, tokens: int) -> None:
        positions = getattr(self.model.backbone.config, "max_position_embeddings", None) or tokens
        if isinstance(tokens, bool) or not isinstance(tokens, int) or not MIN_TOKENS <= tokens <= positions:
            raise ConfigError(
                f"max_seq_length={tokens!r}: this model reads {MIN_TOKENS} to {positions} tokens of a text"
            )
        self._encoder.trained.prompt.max_tokens = tokens

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return self.model.dim

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, language: str | None = None, **_: Any
    ) -> dict[str, Tensor]:
        """Texts, or clips, → what ``forward`` takes.

        ``prompt`` goes between the prefix and a text; one of the model's own (``prompt_name=``) goes before a text or a
        clip, in the place of the prefix.

        Raises:
            AudioError, DataError: an input that cannot be used, a bare path without a file, or texts and clips in one
                batch.
            ConfigError: an unknown language, or a prompt for clips.
        """
        lang = None if language is None else languages.resolve(language)
        typed = [_typed(item) for item in inputs]
        kinds, inputs = {kind for kind, _ in typed}, [content for _, content in typed]
        if len(kinds) != 1:
            raise DataError("a batch has texts and clips; encode them in two calls")
        openings = {opening: name for name, opening in self._encoder.trained.prompt.openings().items()}
        name = openings.get(prompt or "")
        if kinds == {"audio"}:
            if prompt and not name:
                raise ConfigError(
                    f"prompt={prompt!r} cannot be put before speech; a clip has no text: encode clips with prompt=''"
                )
            return self._speech(inputs, lang, name)
        if empty := [text for text in inputs if not isinstance(text, str) or not text.strip()]:
            raise DataError(f"a text is {empty[0]!r}; give a string that is not empty")
        own, cut = self._encoder.trained.prompt, []
        before = "" if name else prompt or ""
        items = [Item(Text(before + text), lang=lang) for text in inputs]
        rows, _ = item_rows(self.model, own, items, self._encoder.read_parts, cut.append, name)
        if cut:
            log.warning(CUT, len(cut), len(inputs), own.max_tokens)
        ((_, text),) = pad_items(rows).columns
        return {"input_ids": text.values, "attention_mask": text.mask.long()}

    def _speech(self, clips: Sequence[Any], lang: str | None, name: str | None) -> dict[str, Tensor]:
        encoder = self.encoder
        items = [Item(Audio(clip, SAMPLE_RATE), id=f"clip {row}", lang=lang) for row, clip in enumerate(clips)]
        rows, owners = item_rows(self.model, encoder.trained.prompt, items, encoder.read_parts, name=name)
        columns = dict(pad_items(rows).columns)
        features = {"speech": columns["speech"].values, "speech_mask": columns["speech"].mask}
        if "text" in columns:
            features |= {"prefix": columns["text"].values, "prefix_mask": columns["text"].mask}
        return features | {"owner": torch.from_numpy(owners)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SpeechTextModule:
        """``half()``, ``bfloat16()`` and moves. LLM and frontend change their number format, as in ``in_precision``.

        Projection and statistics stay float32, and so do the vectors.
        """
        kept = [
            (owner, name, tensor)
            for owner in self.model.modules()
            for name, tensor in owner.named_buffers(recurse=False)
        ]
        weight = self.model.projection.weight.data
        super()._apply(fn, recurse)
        for owner, name, tensor in kept:
            changed = getattr(owner, name)
            if changed.dtype != tensor.dtype:
                setattr(owner, name, tensor.to(changed.device))
        changed = self.model.projection.weight
        if changed.dtype != weight.dtype:
            changed.data = weight.to(changed.device)
        return self

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        """Add ``sentence_embedding``, ``(batch, dim)``."""
        if "input_ids" in features:
            columns = [("text", Sequences(features["input_ids"], features["attention_mask"].bool()))]
            return features | {"sentence_embedding": self.model.encode(Inputs(columns))}
        columns = [("speech", Sequences(features["speech"], features["speech_mask"]))]
        if "prefix" in features:
            columns.insert(0, ("text", Sequences(features["prefix"], features["prefix_mask"])))
        vectors, owner = self.model.encode(Inputs(columns)), features["owner"]
        if (clips := int(owner[-1]) + 1) < len(owner):
            vectors = mean_of_parts(vectors, owner, clips, self.model.normalise)
        return features | {"sentence_embedding": vectors}


def register(_: ModuleType | None = None) -> None:
    """Let ``SentenceTransformer`` find the module by its name; ``import speechde`` has this called."""
    BaseModel._module_classes = MappingProxyType({**BaseModel._module_classes, MODULE: SpeechTextModule})


def _typed(item: Any) -> tuple[str, Any]:
    """``audio`` or ``text``, and the clip or text itself."""
    if isinstance(item, Mapping) and len(item) == 1 and next(iter(item)) in MODALITIES:
        return next(iter(item.items()))
    if isinstance(item, str):
        return ("audio" if _is_clip(item) else "text"), item
    if isinstance(item, (list, tuple)):
        raise DataError(f"a {type(item).__name__} is not one input; a vector is of one text or of one clip")
    return "audio", item


def _is_clip(text: str) -> bool:
    """Whether a bare string is the path of an audio file.

    Raises:
        DataError: it is evidently meant to be one, and there is no such file.
    """
    if not text.casefold().endswith(AUDIO):
        return False
    if os.path.isfile(text):
        return True
    if any(map(str.isspace, text)) and not any(separator in text for separator in "/\\"):
        return False  # a sentence that ends with the name of a file
    raise DataError(
        f"{text!r} looks like the path of a clip, and is no file; give {{'audio': path}} for clips, which are files of "
        "this machine, or {'text': …} to embed the words themselves"
    )
