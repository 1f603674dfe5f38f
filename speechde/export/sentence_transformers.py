"""A model folder in sentence-transformers: ``SentenceTransformer(folder)`` after ``import speechde``.

    import speechde
    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer("runs/quickstart/default-s0/model")
    model.encode(["un autobuz de școală galben"], language="ro")
    model.encode([{"audio": "clip.ogg"}, {"array": waveform, "sampling_rate": 16_000}])
    model.encode([{"image": "bus.png"}, {"text": "a yellow one", "image": "bus.png"}])

What an input is, its type says: ``{"audio": …}`` is a clip and ``{"image": …}`` a picture, whether its file is there or
not, and ``{"text": …}`` is a text, whatever it looks like. Several keys are one item, its parts in their order; a list
under a key is that many parts. A bare string is a text unless it is the path of a clip or a picture: as with the models
of sentence-transformers, a file that exists is meant. One that does not is refused, as its vector would be that of its
name; so are addresses of the web, and ``data:`` strings.

``modules.json`` names the module below. Since version 6 sentence-transformers refuses a class that is not its own
without ``trust_remote_code``, because the name stands in a file that may come from anywhere. This class comes from an
installed package that the user imports, so ``import speechde`` enters it in the table of classes that need no search
(``register``); nothing of the folder is run either way.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import torch
from PIL.Image import Image as PillowImage
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from speechde import languages
from speechde.api import CUT, SpeechTextEncoder
from speechde.checkpoint.folder import MODULE, TrainedModel
from speechde.errors import ConfigError, DataError
from speechde.media.inputs import check_texts, is_clip
from speechde.models.embed import Row, item_rows
from speechde.models.frontends.base import pad_items
from speechde.models.pooling import mean_of_parts
from speechde.search.items import AUDIO, PICTURES
from speechde.types import SAMPLE_RATE, Audio, Image, Inputs, Item, Part, Sequences, Text

KEYS = {"text": "text", "audio": "speech", "image": "image"}  # of a dict → the modality
CALLED = {"text": "text", "speech": "clip", "image": "picture"}
OWNER = "input_values"  # a name by which the trainers of sentence-transformers find the features of a column
MIN_TOKENS = 16  # of a text: its prefix alone takes several
log = logging.getLogger(__name__)


class SpeechTextModule(InputModule):
    """The only module of such a model: texts, clips, pictures or mixtures in, ``sentence_embedding`` out.

    ``{"audio": clip}`` takes all that ``speechde.media.inputs`` reads: a path, bytes, an array at 16 kHz, a decoder of
    torchcodec. Clips also go in bare, dicts with ``array`` and ``sampling_rate`` among them. ``{"image": picture}``
    takes all that ``speechde.media.image`` reads, and tensors ``(3, height, width)`` of uint8; PIL images and arrays of
    three dimensions go in bare. A bare string is a text, or the path of a clip or picture that exists.
    ``encode(…, language="ro")`` sets the prefix. Gradients flow, so it can be trained further.
    """

    forward_kwargs = frozenset({"language"})

    def __init__(
        self,
        trained: TrainedModel,
        speech_encoder: str | Path | None = None,
        image_encoder: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.model = trained.model
        self._encoder = SpeechTextEncoder(trained, "cpu", None, speech_encoder, image_encoder)

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
        """Read a model folder, or fetch it from the hub. ``model_kwargs`` may have ``speech_encoder`` and
        ``image_encoder``.

        Raises:
            AssetError: it is not such a folder.
            ConfigError: options that a model of speechde has not.
        """
        options = dict(kwargs.get("model_kwargs") or {})
        encoders = [options.pop(name, None) for name in ("speech_encoder", "image_encoder")]
        given = [name for name in ("processor_kwargs", "config_kwargs") if kwargs.get(name)]
        if refused := [*options, *given, *([kwargs["backend"]] if kwargs.get("backend", "torch") != "torch" else [])]:
            raise ConfigError(
                f"{', '.join(refused)}: not known to a speechde model; allowed: model_kwargs={{'speech_encoder': …, "
                "'image_encoder': …}}, backend='torch' (speechde export --to onnx writes ONNX files)"
            )
        folder = cls.load_dir_path(
            model_name_or_path, subfolder, token=token, cache_folder=cache_folder, revision=revision,
            local_files_only=local_files_only,
        )  # fmt: skip
        return cls(TrainedModel.load(folder), *encoders)

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
            own = self._encoder
            self._encoder = SpeechTextEncoder(own.trained, device, None, own.speech_encoder, own.image_encoder)
        return self._encoder

    @property
    def modalities(self) -> list[str | tuple[str, ...]]:
        """What ``encode`` takes; of a dict of several, the sorted keys."""
        alone = ["text", *(key for key, modality in KEYS.items() if modality in self.model.frontends)]
        together = [mix for size in range(2, len(alone) + 1) for mix in combinations(sorted(alone), size)]
        return [*alone, *together]

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
        """Inputs → what ``forward`` takes.

        ``prompt`` goes between the prefix and a text; one of the model's own (``prompt_name=``) goes before any input,
        in the place of the prefix.

        Raises:
            MediaError, DataError: an input that cannot be used, or a bare path without a file.
            ConfigError: an unknown language, a prompt for media, or media that the model does not read.
        """
        lang = None if language is None else languages.resolve(language)
        items = [_item(given, row, lang) for row, given in enumerate(inputs)]
        check_texts([part.content for item in items for part in item.parts if isinstance(part, Text)])
        own, cut = self._encoder.trained.prompt, []
        name = {opening: name for name, opening in own.openings().items()}.get(prompt or "")
        written = all(item.make_up == ("text",) for item in items)
        if prompt and not name:
            if not written:
                raise ConfigError(
                    f"prompt={prompt!r} cannot be put before speech or a picture; encode those with prompt=''"
                )
            items = [Item(Text(prompt + item.parts[0].content), lang=lang) for item in items]
        read = self._encoder.read_parts if written else self.encoder.read_parts
        rows, owners = item_rows(self.model, own, items, read, cut.append, name)
        if cut:
            log.warning(CUT, len(cut), len(inputs), own.max_tokens)
        if written:
            ((_, text),) = pad_items(rows).columns
            return {"input_ids": text.values, "attention_mask": text.mask.long()}
        return _as_features(rows, owners)

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
        groups, owner = _groups(features), features[OWNER]
        vectors = torch.cat([self.model.encode(inputs) for inputs in groups])
        if len(groups) > 1:
            if len(vectors) != len(owner):
                raise DataError("a batch of items that are made up differently cannot be cut into smaller ones")
            order = owner.argsort(stable=True)
            vectors, owner = vectors[order], owner[order]
        if (items := int(owner[-1]) + 1) < len(owner):
            vectors = mean_of_parts(vectors, owner, items, self.model.normalise)
        return features | {"sentence_embedding": vectors}


def _as_features(rows: Sequence[Row], owners: np.ndarray) -> dict[str, Tensor]:
    """Rows as the flat dict of tensors that sentence-transformers moves and cuts.

    Those made up alike are a group: ``GROUP.PLACE.MODALITY`` holds the values of a column, ``GROUP.PLACE.mask`` its
    mask. ``OWNER`` is the item of each row, group after group.
    """
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        alike[tuple(modality for modality, _ in row)].append(number)
    features: dict[str, Tensor] = {}
    for group, numbers in enumerate(alike.values()):
        for place, (modality, column) in enumerate(pad_items([rows[number] for number in numbers]).columns):
            features |= {f"{group}.{place}.{modality}": column.values, f"{group}.{place}.mask": column.mask}
    return features | {OWNER: torch.from_numpy(owners[np.concatenate(list(alike.values()))])}


def _groups(features: Mapping[str, Tensor]) -> list[Inputs]:
    columns: dict[str, list[tuple[str, Sequences]]] = defaultdict(list)
    for key, values in features.items():
        group, _, place = key.rpartition(".")[0].partition(".")
        modality = key.rpartition(".")[2]
        if place and modality != "mask":
            columns[group].append((modality, Sequences(values, features[f"{group}.{place}.mask"])))
    return [Inputs(own) for own in columns.values()]


def register(_: ModuleType | None = None) -> None:
    """Let ``SentenceTransformer`` find the module by its name; ``import speechde`` has this called."""
    BaseModel._module_classes = MappingProxyType({**BaseModel._module_classes, MODULE: SpeechTextModule})


def _item(given: Any, row: int, lang: str | None) -> Item:
    """What is given as one item, called by what it is and its number."""
    parts = tuple(_parts(given))
    kinds = {part.modality for part in parts}
    called = CALLED[kinds.pop()] if len(kinds) == 1 else "input"
    return Item(*parts, id=f"{called} {row}", lang=lang)


def _parts(given: Any) -> Iterator[Part]:
    """The parts of one input.

    Raises:
        DataError: a list, which is no input; or a bare path of a clip or picture that is not there.
    """
    if isinstance(given, Mapping) and given.keys() and given.keys() <= KEYS.keys():
        for key, content in given.items():
            several = isinstance(content, (list, tuple)) and not is_clip(content)  # (samples, rate) is one clip
            for one in content if several else [content]:
                yield _part(key, one)
    elif isinstance(given, str):
        yield _part(_kind_of_string(given), given)
    elif isinstance(given, (list, tuple)):
        raise DataError(f"a {type(given).__name__} is not one input; a vector is of one item, such as "
                        "{'text': …, 'image': …}")  # fmt: skip
    else:
        picture = isinstance(given, PillowImage) or getattr(given, "ndim", 0) == 3
        yield _part("image" if picture else "audio", given)


def _part(key: str, content: Any) -> Part:
    if key == "text":
        return Text(content)
    if key == "audio":
        return Audio(content, SAMPLE_RATE)
    if isinstance(content, Tensor):  # torchvision has the channels first
        content = content.cpu().numpy()
        content = content.transpose(1, 2, 0) if content.ndim == 3 and content.shape[0] == 3 else content
    return Image(content)


def _kind_of_string(text: str) -> str:
    """``audio`` or ``image`` of a bare string that is the path of such a file, else ``text``.

    Raises:
        DataError: it is evidently meant to be one, and there is no such file.
    """
    kinds = {"audio": AUDIO, "image": PICTURES}
    kind = next((kind for kind, suffixes in kinds.items() if text.casefold().endswith(suffixes)), "text")
    if text.startswith("data:image/"):
        raise DataError("a picture in a data: string is not read; give {'image': bytes}, or its path")
    if kind == "text" or os.path.isfile(text):
        return kind
    if any(map(str.isspace, text)) and not any(separator in text for separator in "/\\"):
        return "text"  # a sentence that ends with the name of a file
    raise DataError(
        f"{text!r} looks like the path of a {CALLED[KEYS[kind]]}, and is no file; give {{{kind!r}: path}} for "
        f"{CALLED[KEYS[kind]]}s, which are files of this machine, or {{'text': …}} to embed the words themselves"
    )
