"""speechde: speech–text retrieval across languages, from a text LLM turned into a dual encoder."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechde.api import SpeechTextEncoder
    from speechde.types import Audio, Image, Item, Text, Video

__version__ = "0.1.0"
__all__ = ["Audio", "Image", "Item", "SpeechTextEncoder", "Text", "Video"]
_HOMES = dict.fromkeys(__all__, "speechde.types") | {"SpeechTextEncoder": "speechde.api"}

# OpenMP threads that wait for one another sleep: by default they spin, and of two jobs on the same cores each then
# keeps the other's threads from their work (benchmarks/neighbour.py). It is read when torch is loaded, so set before.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

with suppress(ModuleNotFoundError):  # wrapt comes with the extra sentence-transformers
    from wrapt import register_post_import_hook

    # once sentence-transformers is imported, before or after this package, it knows the module of our folders
    register_post_import_hook("speechde.export.sentence_transformers:register", "sentence_transformers")


def __getattr__(name: str) -> Any:
    """The public names on first use: torch and transformers take seconds, which ``import speechde`` should not."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
