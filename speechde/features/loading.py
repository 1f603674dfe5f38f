"""The encoder of one medium out of a checkpoint folder, alone or inside a larger model, with all of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, __version__
from transformers.utils import logging

from speechde.cache import fingerprint
from speechde.errors import AssetError

VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


@dataclass(frozen=True)
class Tower:
    """Where a larger model keeps an encoder.

    Args:
        called: what messages call it.
        configs: attributes of the larger model's configuration that may be the encoder's own.
        names: patterns that bring the weights of the whole to the names of the part.
        unused: the end of the names of weights that may be missing.
        options: arguments of the class of each model type that has some.
    """

    called: str
    configs: tuple[str, ...]
    names: Mapping[str, str]
    unused: str | tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def load_tower(folder: Path, tower: Tower, dtype: torch.dtype, meta: bool) -> PreTrainedModel:
    """The encoder of a checkpoint, every weight of it (none with ``meta``); nothing else of a larger model.

    Raises:
        AssetError: transformers cannot read it, the larger model has no such encoder, or weights are missing.
    """
    config, inside = _config(folder, tower)
    options: dict[str, Any] = dict(tower.options.get(config.model_type, {}))
    if meta:
        with torch.device("meta"):
            return AutoModel.from_config(config, dtype=dtype, **options)
    if inside:
        options["key_mapping"] = tower.names
    # transformers lists the weights of the rest of the model; what must not be missing is checked here
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, info = AutoModel.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, RuntimeError) as error:
        raise AssetError(f"{folder} does not hold a {config.model_type} encoder: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(name for name in info["missing_keys"] if not name.endswith(tower.unused)):
        raise AssetError(f"{folder} lacks {len(missing)} weights of a {config.model_type}: {', '.join(missing[:3])} …")
    return model


def _config(folder: Path, tower: Tower) -> tuple[PretrainedConfig, bool]:
    """The configuration of the encoder, and whether it is inside a larger model."""
    try:
        config = AutoConfig.from_pretrained(folder)
    except ValueError as error:
        raise AssetError(f"{folder}/config.json cannot be read by transformers {__version__}; upgrade it") from error
    if (name := next((name for name in tower.configs if hasattr(config, name)), None)) is None:
        return config, False
    if (own := getattr(config, name)) is None:
        raise AssetError(f"{folder} holds a model without a {tower.called} ({name} is empty); use another size")
    return own, True


def settings_hash(folder: Path) -> str:
    """Names what config.json and the file of the pre-processing say, which the weights do not tell."""
    files = ("config.json", "preprocessor_config.json", "processor_config.json")
    found = {}
    for name in files:
        if (folder / name).is_file():
            values = json.loads((folder / name).read_text(encoding="utf-8"))
            found[name] = {key: value for key, value in values.items() if key not in VOLATILE}
    return fingerprint(found)
