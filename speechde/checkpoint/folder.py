"""A trained model as a folder: everything needed to embed new speech and text, without the training code.

    model.safetensors   all weights          speechde.json   settings, encoders of media and hashes, training record
    config.json         of the LLM           tokenizer.json … of the LLM, with the audio tokens
    prefixes.json       prefix of speech, of text and of pictures in each language
    kmeans.safetensors  centroids (discrete frontend only)
    unit_bpe.model      SentencePiece model over units (with frontend.bpe only)
    README.md           the model card
    modules.json, config_sentence_transformers.json: how sentence-transformers loads the folder

Every file is data: no code is stored and nothing is pickled. The encoders of speech and of pictures are named, not
stored: many models share one, and it has a licence of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

from speechde.cache import atomic_directory, atomic_write, check_readable, expanded
from speechde.checkpoint import card
from speechde.checkpoint.settings import Settings
from speechde.errors import AssetError, ConfigError, DataError, SpeechdeError
from speechde.features.units import Quantiser
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.frontends.base import Frontend
from speechde.models.frontends.frames import ContinuousFrontend
from speechde.models.frontends.patches import PatchFrontend
from speechde.models.frontends.units import UnitFrontend
from speechde.models.loading import untrained
from speechde.models.lora import merge_lora
from speechde.models.prompt import Prompt
from speechde.models.vocabulary import with_audio_tokens
from speechde.weights import resolve

FORMAT = 2
READ = (1, FORMAT)
MODULE = "speechde.export.sentence_transformers.SpeechTextModule"


@dataclass
class TrainedModel:
    """A model, its prompt, its quantiser (discrete only), the settings it was built with, and its card."""

    model: DualEncoder
    prompt: Prompt
    quantiser: Quantiser | None
    settings: Settings
    card: str | None = None

    def cut_to(self, dim: int | None) -> TrainedModel:
        """The same model with vectors of ``dim`` components, one of the sizes that it was trained at; None: as it is.

        It has a fingerprint of its own, and may be saved and exported like any other.

        Raises:
            ConfigError: it was not trained at that size.
        """
        width, settings = self.model.dim, self.settings
        if dim is None or dim == width:
            return self
        if dim not in settings.dims:
            sizes = ", ".join(map(str, settings.dims or [width]))
            raise ConfigError(
                f"dim={dim}: this model was trained for vectors of {sizes} components; choose one of them, or train a "
                f"model with {dim} in loss.dims"
            )
        head, smaller = replace(settings.head, dim=dim), tuple(size for size in settings.dims if size <= dim)
        settings = replace(settings, head=head, dims=smaller)
        return replace(self, model=self.model.cut_to(dim), settings=settings, card=None)

    def save(self, folder: str | Path) -> None:
        """Write the folder; nothing is left behind when writing fails. LoRA adapters are merged into the LLM first.

        Raises:
            DataError: there are files already.
        """
        folder = Path(folder)
        check_free(folder)
        with atomic_directory(folder) as temporary:
            self.write(temporary)
            similarity = "cosine" if self.model.normalise else "dot"
            _write_json(temporary / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": MODULE}])
            _write_json(
                temporary / "config_sentence_transformers.json",
                {
                    "model_type": "SentenceTransformer",
                    "prompts": self.prompt.openings(),
                    "similarity_fn_name": similarity,
                },
            )
            (temporary / card.FILE).write_text(self.card or card.model_card(self), encoding="utf-8")

    def write(self, folder: Path) -> None:
        """Write what ``load`` reads into an existing folder."""
        merge_lora(self.model.backbone)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in _state(self.model).items()}
        with atomic_write(folder / "model.safetensors") as temporary:
            save_file(state, temporary, metadata={"format": "pt"})
        self.model.backbone.config.save_pretrained(folder)
        self.write_inputs(folder)

    def write_inputs(self, folder: Path) -> None:
        """Write what turns texts and clips into the model's input: tokenizer, prefixes, quantiser and settings."""
        embedding = self.model.backbone.embedding
        tokenizer = with_audio_tokens(self.prompt.tokenizer, embedding.text_tokens, len(embedding.audio))
        tokenizer.save_pretrained(folder)
        if self.quantiser is not None:
            self.quantiser.save(folder)
        _write_json(folder / "speechde.json", {"format": FORMAT, **self.settings.to_json()})
        _write_json(folder / "prefixes.json", self.prompt.prefixes())

    @classmethod
    def load(cls, folder: str | Path) -> TrainedModel:
        """Read what ``save`` wrote; embeddings are the same bit for bit.

        Raises:
            AssetError: the folder is not such a model, is damaged, or was written by a newer version.
            PermissionError: this user may not read one of its files.
        """
        folder = Path(folder)
        settings = read_settings(folder)
        quantiser = None
        try:
            if settings.discrete:
                speech, expected = settings.speech, settings.frontend.units
                quantiser = Quantiser.load(folder, deduplicate=speech.deduplicate, bpe=bool(speech.bpe))
                if quantiser.tokens != expected:
                    raise AssetError(
                        f"{folder} has a quantiser of {quantiser.tokens} tokens, and a model of {expected}"
                    )
            model = assemble(untrained(AutoConfig.from_pretrained(folder)), settings)
            missing, unexpected = model.load_state_dict(stored_weights(folder), strict=False)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
            if isinstance(error, SpeechdeError):
                raise
            check_readable(*folder.iterdir())
            raise AssetError(f"{folder} is incomplete or damaged: {error}; fetch it again") from error
        missing = [name for name in missing if name in _state(model)]
        if missing or unexpected:
            raise AssetError(f"{folder}/model.safetensors does not fit its config: {(missing + unexpected)[:3]} …")
        prompt = Prompt(
            tokenizer,
            **asdict(settings.prefix),
            max_tokens=settings.max_tokens,
            positions=model.backbone.positions,
            table=_read_json(folder / "prefixes.json"),
            named=settings.prompts,
        )
        text = folder / card.FILE
        return cls(model.eval(), prompt, quantiser, settings, text.read_text("utf-8") if text.is_file() else None)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of what decides the vectors: weights, quantiser and settings, but not the training record.

        A saved model has that of the model in memory, wherever its folder is and whatever it is called.
        """
        quantiser = None if self.quantiser is None else self.quantiser.hash
        digest = hashlib.sha256(json.dumps([self.settings.decisive(), quantiser], sort_keys=True).encode())
        for name, tensor in sorted(_state(self.model).items()):
            name = name.replace("frontends.speech.", "frontend.")  # as in the first format: indexes stay valid
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]


def check_free(folder: Path) -> None:
    """Refuse a folder to save to that holds files already.

    Raises:
        DataError: it does, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not empty; delete it, or save to another folder")


def stored_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a model folder of any format: the first knew no other frontend than that of speech."""
    path = folder / "model.safetensors"
    return {re.sub(r"^frontend\.", "frontends.speech.", name): tensor for name, tensor in load_file(path).items()}


def model_folder(path: str | Path) -> Path:
    """The model folder of a run directory; any other path is taken to be a model folder itself."""
    path = Path(path)
    return path / "model" if (path / "model").is_dir() else path


def find_model(name: str | Path) -> Path:
    """The model folder that a name means: itself, that of a run directory, or one of the hub (``org/name@revision``).

    Raises:
        AssetError: there is no such folder, or it cannot be fetched.
    """
    folder = expanded(name)
    if folder.is_dir():
        return model_folder(folder)
    if folder.is_absolute() or str(name).startswith("."):
        raise AssetError(f"{name} does not exist; give a model folder (runs/…/model) or a hub id (org/name)")
    return resolve(name)


def read_settings(folder: Path) -> Settings:
    """The settings of a model folder; its weights are not read.

    Raises:
        AssetError: the folder is not a model, is damaged, or was written by a newer version.
    """
    path = folder / "speechde.json"
    values = _read_json(path)
    if values is None and (folder / "checkpoints").is_dir():
        raise AssetError(f"the run {folder} is not done: it has no model yet; start its command again, which goes on")
    if values is None:
        raise AssetError(f"{folder} is not a trained model: it has no speechde.json; give runs/…/model")
    if isinstance(values, dict) and (found := values.pop("format", 0)) not in READ:
        known = " or ".join(map(str, READ))
        raise AssetError(f"{folder} has another format than {known} ({found}); load it with the version that wrote it")
    return Settings.from_json(values, path)


def languages_heard(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Languages whose speech a model was trained on (``Settings.training``), synthetic speech last."""
    return (*record["seen"], *record.get("seen_synthetic", ()))


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    """None where there is no such file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AssetError(f"{path} is damaged: {error}; fetch the folder again") from error


def assemble(llm: torch.nn.Module, settings: Settings) -> DualEncoder:
    """Put backbone, frontends and projection together."""
    head = asdict(settings.head)
    layer = head.pop("speech_layer")
    backbone = Backbone(llm, settings.frontend.units if settings.discrete else 0, settings.attention)
    frontends: dict[str, Frontend] = {}
    if settings.frontend is not None:
        arguments = asdict(settings.frontend) | {"width": backbone.width, "entry_layer": layer}
        frontends["speech"] = (UnitFrontend if settings.discrete else ContinuousFrontend)(**arguments)
    if settings.patches is not None:
        frontends["image"] = PatchFrontend(width=backbone.width, **asdict(settings.patches))
    return DualEncoder(backbone, frontends, **head)


def _state(model: DualEncoder) -> dict[str, torch.Tensor]:
    """The state dict with every tensor once: the text rows are both ``embedding.text`` and the LLM's own table."""
    seen: set[int] = set()
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen.add(tensor.data_ptr())
            state[name] = tensor
    return state
