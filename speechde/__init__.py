"""speechde: speech–text retrieval across languages, from a text LLM turned into a dual encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechde.api import SpeechTextEncoder

__version__ = "0.1.0"
__all__ = ["SpeechTextEncoder"]


def __getattr__(name: str) -> Any:
    """``SpeechTextEncoder`` on first use: torch and transformers take seconds, which ``import speechde`` should not."""
    if name == "SpeechTextEncoder":
        from speechde.api import SpeechTextEncoder

        return SpeechTextEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
