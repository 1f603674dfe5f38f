"""The settings of a trained model: what ``speechde.json`` of its folder holds, as dataclasses.

A key with a default was not in the folders of every version, and they mean the default; every other key is in all of
them. What a folder leaves out is left out again when its model is saved, and is not in its fingerprint: indexes that
were made with it stay valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from speechde.errors import AssetError, unknown_value
from speechde.features.settings import ImageSettings, SpeechSettings
from speechde.models.prompt import IMAGE_PREFIX, MAX_TOKENS

FETCH = "fetch the folder again"
RECORD = ("recipe", "mode", "seed", "seen")  # of ``training.record``: what evaluation and adaptation need
# of a frontend: read by training alone, so that models of equal vectors may differ in them
TRAINING_ONLY = ("dropout", "drop", "drop_span", "noise", "mask_features")
NEWER = "A newer version may have written it: update speechde, or fetch the folder again"


@dataclass(frozen=True, kw_only=True)
class UnitSettings:
    """Arguments of ``UnitFrontend``, less the width, which is that of the LLM."""

    kind: ClassVar[str] = "discrete"
    units: int
    drop: float
    drop_span: int
    layers: int = 0
    hidden: int = 384
    heads: int = 6
    dropout: float = 0.1
    embedding_std: float = 1.0


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """Arguments of ``ContinuousFrontend``, less the width, which is that of the LLM."""

    kind: ClassVar[str] = "continuous"
    frame_dim: int
    embedding_std: float
    hidden: int
    stride: int
    layers: int
    heads: int
    dropout: float
    drop: float
    drop_span: int
    noise: float
    downsample: str = "conv"
    mask_features: int = 0
    positions: bool = False


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """Arguments of ``PatchFrontend``, less the width, which is that of the LLM."""

    patch_dim: int
    embedding_std: float
    hidden: int
    layers: int
    heads: int
    dropout: float
    drop: float
    entry_layer: int
    stride: int = 1


FRONTENDS = {schema.kind: schema for schema in (UnitSettings, FrameSettings)}


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """Arguments of ``DualEncoder``, and the layer of the LLM at which speech enters."""

    dim: int | None
    projection_init: str
    normalise: bool
    projection_gain: float = 1.0
    speech_layer: int = 0


@dataclass(frozen=True, kw_only=True)
class PrefixSettings:
    """Arguments of ``Prompt``: templates and mode."""

    mode: str
    speech: str
    text: str
    image: str = IMAGE_PREFIX


GROUPS = {"head": HeadSettings, "prefix": PrefixSettings, "speech": SpeechSettings, "patches": PatchSettings,
          "image": ImageSettings}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a trained model.

    Args:
        attention: of the LLM, see ``speechde.models.attention``.
        frontend, speech: of speech; None of a model that does not hear.
        patches, image: of pictures; None of a model that does not see.
        max_tokens: of a text, prefix included.
        prompts: templates of named prompts (``Prompt.named``); empty: there are none.
        dims: sizes that its vectors were trained to be cut to, the width first; empty: the width alone.
        training: the record of the run that trained it, facts by name (``training.record``); empty: there is none.
        unstated: optional keys, by group and name, that its file leaves out.
    """

    attention: str
    head: HeadSettings
    prefix: PrefixSettings
    frontend: UnitSettings | FrameSettings | None = None
    speech: SpeechSettings | None = None
    patches: PatchSettings | None = None
    image: ImageSettings | None = None
    max_tokens: int = MAX_TOKENS
    prompts: dict = field(default_factory=dict)
    dims: tuple[int, ...] = ()
    training: dict = field(default_factory=dict)
    unstated: frozenset[tuple[str, str]] = field(default=frozenset(), compare=False, repr=False)

    @property
    def discrete(self) -> bool:
        """Whether the model reads units, and not frames."""
        return isinstance(self.frontend, UnitSettings)

    @classmethod
    def from_json(cls, values: Any, where: str | Path) -> Settings:
        """Settings as ``to_json`` gives them; ``where`` is their file, which errors name.

        Raises:
            AssetError: a key is missing, is not known, or has a value of another type; the message names it.
        """
        read = _copy(values, "", where)
        unstated = _left_out(cls, read, "")
        for name in ("frontend", *GROUPS):
            if name in read:
                group = _copy(read[name], name, where)
                schema = GROUPS.get(name) or _kind(group, where)
                unstated |= _left_out(schema, group, name)
                read[name] = _read(schema, group, f"{name}.", where)
        return replace(_read(cls, read, "", where), unstated=unstated)

    def to_json(self) -> dict[str, Any]:
        """What ``speechde.json`` holds, less its format."""
        values = {f.name: getattr(self, f.name) for f in _stated(Settings)} | {"dims": list(self.dims)}
        for name in ("frontend", *GROUPS):
            if values[name] is None:
                del values[name]
            else:
                values[name] = asdict(values[name])
        if self.frontend is not None:
            values["frontend"]["kind"] = self.frontend.kind
        if self.patches is None and self.prefix.image == IMAGE_PREFIX:
            del values["prefix"]["image"]
        for name in ("training", "prompts", "dims"):  # an older version reads what does not need a newer one
            if not values[name]:
                del values[name]
        for group, key in self.unstated:
            part, target = (getattr(self, group), values[group]) if group else (self, values)
            if getattr(part, key) == getattr(type(part), key):  # its default
                target.pop(key, None)
        return values

    def trained(self, where: str | Path) -> dict[str, Any]:
        """``training``, which is there.

        Raises:
            AssetError: no run trained the model, so that no language can be told from those it was trained on.
        """
        if missing := [key for key in RECORD if key not in self.training]:
            raise AssetError(
                f"{where} has no record of training (training lacks {', '.join(missing)} in speechde.json), so that "
                "seen languages cannot be told from others; give a model folder that a training run wrote"
            )
        return self.training

    def decisive(self) -> dict[str, Any]:
        """What of ``to_json`` decides the vectors of a model, and is in its fingerprint."""
        values = self.to_json()
        values.pop("training", None)
        values.pop("dims", None)  # what they are cut to is the width of the projection
        for medium in ("speech", "image"):
            values.get(medium, {}).pop("encoder", None)  # only its path
        if self.max_tokens == MAX_TOKENS:  # which folders do not all state
            values.pop("max_tokens", None)
        return values


def _stated(schema: type) -> list[Field]:
    """Keys that a file may hold."""
    return [f for f in fields(schema) if f.name != "unstated"]


def _left_out(schema: type, values: Mapping[str, Any], group: str) -> frozenset[tuple[str, str]]:
    return frozenset((group, f.name) for f in _stated(schema) if f.default is not MISSING and f.name not in values)


def _copy(values: Any, name: str, where: str | Path) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise AssetError(f"{where} is damaged: {name or 'it'} holds no settings; {FETCH}")
    return dict(values)


def _kind(frontend: dict[str, Any], where: str | Path) -> type:
    """Take the kind out of the settings of a frontend; it says which they are."""
    if "kind" not in frontend:
        raise AssetError(f"{where} lacks frontend.kind; {FETCH}")
    if (kind := frontend.pop("kind")) not in FRONTENDS:
        raise AssetError(f"{where}: {unknown_value('frontend.kind', kind, FRONTENDS)} {NEWER}")
    return FRONTENDS[kind]


def _read(schema: type, values: Mapping[str, Any], prefix: str, where: str | Path) -> Any:
    """An instance of a dataclass; numbers stay as they are written, and so does the fingerprint."""
    known = {f.name: f for f in _stated(schema)}
    required = [f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [prefix + key for key in required if key not in values]:
        raise AssetError(f"{where} lacks {', '.join(missing)}; {FETCH}")
    if unknown := [key for key in values if key not in known]:
        reason = unknown_value("the key", prefix + unknown[0], [prefix + key for key in known])
        raise AssetError(f"{where}: {reason} {NEWER}")
    hints = get_type_hints(schema)
    for key, value in values.items():
        if not _fits(value, hints[key]):
            allowed = hints[key] if get_args(hints[key]) else getattr(hints[key], "__name__", hints[key])
            raise AssetError(f"{where} is damaged: {prefix}{key}={value!r} is not of type {allowed}; {FETCH}")
    return schema(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_fits(item, get_args(hint)[0]) for item in value)
    if isinstance(value, bool):  # which is an int, in Python
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
