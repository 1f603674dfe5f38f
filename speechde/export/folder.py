"""A trained model as a folder: everything needed to embed new speech and text, without the training code.

    model.safetensors   all weights          speechde.json   settings and the training record
    config.json         of the LLM           tokenizer.json … of the LLM
    kmeans.safetensors  centroids (discrete frontend only)
    unit_bpe.model      SentencePiece model over units (with frontend.bpe only)

Every file is data: no code is stored and nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

from speechde.cache import atomic_directory
from speechde.errors import AssetError
from speechde.frontends.continuous import ContinuousFrontend
from speechde.frontends.encoders import SpeechEncoder, load_speech_encoder
from speechde.frontends.units import Quantiser, UnitFrontend
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.loading import untrained
from speechde.models.lora import merge_lora
from speechde.models.prompt import Prompt, max_tokens
from speechde.weights import resolve

FORMAT = 1


@dataclass
class TrainedModel:
    """A model, its prompt, its quantiser (discrete only) and the settings it was built with."""

    model: DualEncoder
    prompt: Prompt
    quantiser: Quantiser | None
    settings: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write the folder; nothing is left behind when writing fails. LoRA adapters are merged into the LLM first."""
        merge_lora(self.model.backbone)
        with atomic_directory(folder) as temporary:
            self.model.backbone.config.save_pretrained(temporary)
            self.prompt.tokenizer.save_pretrained(temporary)
            state = {name: tensor.detach().cpu().contiguous() for name, tensor in _state(self.model).items()}
            save_file(state, temporary / "model.safetensors", metadata={"format": "pt"})
            if self.quantiser is not None:
                self.quantiser.save(temporary)
            text = json.dumps({"format": FORMAT, **self.settings}, indent=2, ensure_ascii=False, sort_keys=True)
            (temporary / "speechde.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> TrainedModel:
        """Read what ``save`` wrote; embeddings are the same bit for bit.

        Raises:
            AssetError: the folder is not such a model, or was written by a newer version.
        """
        folder = Path(folder)
        settings = read_settings(folder)
        quantiser = None
        if settings["frontend"]["kind"] == "discrete":
            speech = settings["speech"]
            quantiser = Quantiser.load(folder, deduplicate=speech["deduplicate"], bpe=bool(speech.get("bpe")))
            if quantiser.tokens != settings["frontend"]["units"]:
                expected = settings["frontend"]["units"]
                raise AssetError(f"{folder} has a quantiser of {quantiser.tokens} tokens, and a model of {expected}")
        model = assemble(untrained(AutoConfig.from_pretrained(folder)), settings)
        missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        missing = [name for name in missing if name in _state(model)]
        if missing or unexpected:
            raise AssetError(f"{folder}/model.safetensors does not fit its config: {(missing + unexpected)[:3]} …")
        prompt = Prompt(
            AutoTokenizer.from_pretrained(folder), **settings["prefix"], max_tokens=max_tokens(model.backbone.config)
        )
        return cls(model.eval(), prompt, quantiser, settings)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of what decides the vectors: weights, quantiser and settings, but not the training record.

        A saved model has that of the model in memory, wherever its folder is and whatever it is called.
        """
        keys = ("frontend", "head", "attention", "prefix", "speech")
        decides = {key: self.settings[key] for key in keys}
        decides["speech"] = {
            key: value for key, value in decides["speech"].items() if key != "encoder"
        }  # only its path
        quantiser = None if self.quantiser is None else self.quantiser.hash
        digest = hashlib.sha256(json.dumps([decides, quantiser], sort_keys=True).encode())
        for name, tensor in sorted(_state(self.model).items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]


def find_model(name: str | Path) -> Path:
    """The model folder that a name means: itself, that of a run directory, or one of the hub (``org/name@revision``).

    Raises:
        AssetError: there is no such folder, or it cannot be fetched.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder / "model" if (folder / "model").is_dir() else folder
    if folder.is_absolute() or str(name).startswith("."):
        raise AssetError(f"{name} does not exist; give a model folder (runs/…/model) or a hub id (org/name)")
    return resolve(name)


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a model folder; its weights are not read.

    Raises:
        AssetError: the folder is not a model, or was written by a newer version.
    """
    try:
        settings = json.loads((folder / "speechde.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AssetError(f"{folder} is not a trained model: it has no speechde.json; give runs/…/model") from error
    if settings.pop("format", 0) != FORMAT:
        raise AssetError(f"{folder} has another format than {FORMAT}; load it with the version that wrote it")
    return settings


def model_folder(path: str | Path) -> Path:
    """The model folder of a run directory; any other path is taken to be a model folder itself."""
    path = Path(path)
    return path / "model" if (path / "model").is_dir() else path


def speech_encoder(settings: dict[str, Any], device: str | torch.device) -> SpeechEncoder:
    """The speech encoder whose frames a model reads.

    Raises:
        AssetError: it cannot be found, or its weights or layer are not those the model was trained with.
    """
    speech = settings["speech"]
    encoder = load_speech_encoder(resolve(speech["encoder"]), layer=speech["layer"], device=device)
    check_encoder(settings, encoder)
    return encoder


def check_encoder(settings: dict[str, Any], encoder: SpeechEncoder) -> None:
    """Refuse an encoder whose weights or layer are not those the model was trained with.

    Raises:
        AssetError: they differ. The number format may: features then differ by rounding.
    """
    expected, found = ({k: v for k, v in d.items() if k != "dtype"} for d in
                       (settings["speech"]["encoder_key"], encoder.describe()))  # fmt: skip
    if expected != found:
        raise AssetError(f"the model was trained on frames of {expected}; {settings['speech']['encoder']} is {found}")


def assemble(llm: torch.nn.Module, settings: dict[str, Any]) -> DualEncoder:
    """Put backbone, frontend and projection together from ``settings`` (keys ``frontend``, ``head``, ``attention``)."""
    arguments = dict(settings["frontend"])
    discrete = arguments.pop("kind") == "discrete"
    backbone = Backbone(llm, arguments["units"] if discrete else 0, settings["attention"])
    frontend = UnitFrontend(**arguments) if discrete else ContinuousFrontend(width=backbone.width, **arguments)
    return DualEncoder(backbone, frontend, **settings["head"])


def _state(model: DualEncoder) -> dict[str, torch.Tensor]:
    """The state dict with every tensor once: the text rows are both ``embedding.text`` and the LLM's own table."""
    seen: set[int] = set()
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen.add(tensor.data_ptr())
            state[name] = tensor
    return state
