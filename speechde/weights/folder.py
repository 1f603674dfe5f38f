"""A checkpoint folder in the ordinary transformers layout: config.json, *.safetensors, tokenizer or feature extractor.

Only safetensors are read. A pickled checkpoint runs code when it is opened, so a folder that holds nothing else is
refused, with the conversion to do.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PretrainedConfig

from speechde.cache import atomic_write, check_readable, sha256_file
from speechde.errors import AssetError

SOURCE_FILE = "speechde_source.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_folder(folder: Path, weights: bool = True) -> Path:
    """Return ``folder`` if it holds config.json and safetensors weights; ``AssetError`` with the fix otherwise.

    ``weights=False`` asks for config.json alone. Raises ``PermissionError`` for a file that may not be read.
    """
    if not (folder / "config.json").is_file():
        raise AssetError(f"{folder} holds no config.json; give a folder written by save_pretrained.")
    if weights and not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        found = f"only pickled weights ({', '.join(pickles)})" if pickles else "no weights"
        raise AssetError(
            f"{folder} holds {found}; *.safetensors is required. Convert a checkpoint you trust with "
            "AutoModel.from_pretrained(...).save_pretrained(folder, safe_serialization=True)."
        )
    check_readable(folder / "config.json", *folder.glob("*.safetensors"))
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model, in name order: one file, or the shards that the index lists."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if missing:
            raise AssetError(f"{index} lists {', '.join(missing)}, not found in the folder; complete the download.")
        return [folder / name for name in names]
    return sorted(check_folder(folder).glob("*.safetensors"))


def weights_hash(folder: str | Path) -> str:
    """64 hex digits that name the weights in ``folder``: SHA-256 of its one safetensors file, or over its shards.

    Taken from the record written at conversion, unless the weights were written or put there after it; computed
    otherwise, once per process and file version.
    """
    folder = Path(folder)
    files = weight_files(folder)
    record = folder / SOURCE_FILE
    stats = [path.stat() for path in files]
    if record.is_file() and all(_is_newer(record.stat(), stat) for stat in stats):
        return json.loads(record.read_text(encoding="utf-8"))["sha256"]
    digests = [_file_hash(path, stat.st_size, stat.st_ctime_ns) for path, stat in zip(files, stats, strict=True)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def save_model(folder: Path, config: PretrainedConfig, tensors: dict[str, torch.Tensor], half: bool = True) -> None:
    """Write config.json and model.safetensors, each tensor as float16 unless a value overflows it.

    Most sources are float16 or 4 to 8 bit, so float16 keeps what they hold at half the size of float32. config.json
    says float32, because a half-precision forward pass must be asked for: Gemma's activations overflow float16.

    Args:
        half: False writes the tensors as they are, of a source that holds more.
    """
    config.dtype = torch.float32
    config.to_json_file(folder / "config.json", use_diff=False)
    written = {name: _half(tensor) if half else tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_write(folder / "model.safetensors") as temporary:
        save_file(written, temporary, metadata={"format": "pt"})


def _half(tensor: torch.Tensor) -> torch.Tensor:
    fits = tensor.abs().max() <= torch.finfo(torch.float16).max
    return tensor.to(torch.float16 if fits else torch.float32).contiguous()


def _is_newer(record: os.stat_result, weights: os.stat_result) -> bool:
    # A copy may keep the time of modification, never that of change.
    return record.st_mtime_ns >= weights.st_mtime_ns and record.st_ctime_ns >= weights.st_ctime_ns


@lru_cache(maxsize=64)
def _file_hash(path: Path, size: int, ctime_ns: int) -> str:
    return sha256_file(path)
