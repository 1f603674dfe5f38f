"""What a run is: ``run.json``, written before its first step and compared whenever its directory is used again.

A run directory is named by what the command line changed. A recipe that was edited, a manifest with other rows or
another quantiser gives the same name, and a checkpoint of the one is garbage for the other: unit 17 is another sound.

    version         of the code (``speechde.versions``)
    config          what was asked
    data            a hash of the clips, texts and lengths that are trained on and that choose the checkpoint
    translations    a hash of the translation pairs
    files           hashes of the files of examples
    speech encoder  weights and layer
    image encoder   weights, where there is one
    quantiser       its hash
    frozen weights  a hash of the weights that no checkpoint holds
    initial model   the fingerprint of the model that it starts from (``init``)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from speechde.cache import atomic_write
from speechde.checkpoint.folder import TrainedModel, read_settings
from speechde.config import RunConfig, build
from speechde.config.earlier import as_today
from speechde.corpora.bitext import TextPair
from speechde.corpora.fingerprint import PLACES, flat, hash_of, sources
from speechde.errors import ConfigError, DataError
from speechde.features.settings import less_dtype
from speechde.types import Utterance
from speechde.versions import VERSION, void

FILE = "run.json"
# settings that no number of a run depends on
OUTSIDE = ("run_name", "runs_dir", "cache_dir", "report_dir", "archive_dir", "threads", "logger", "plan", "plan_only")
# how the steps are taken, where things lie (what lies there has a hash of its own), and what is evaluated afterwards
FREE = (
    "eval", "trainer.devices", "trainer.strategy", "trainer.accelerator", "trainer.micro_batch", "trainer.save_every",
    "trainer.resume", "frontend.shard", "frontend.ray_workers", "frontend.encoder", "image.encoder", "model.source",
    "model.gradient_checkpointing", "model.attn_implementation", "init",
)  # fmt: skip


def asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers of a run depend on, of its configuration as a dict."""
    return {key: value for key, value in config.items() if key not in OUTSIDE}


def asked_before(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """``asked`` of a run of an older version: settings that came later have the values that change nothing."""
    try:
        return asked(asdict(build(as_today(config))))
    except ConfigError:  # a setting that is gone
        return None


def of_config(config: RunConfig) -> dict[str, Any]:
    """What is known of a run before anything is read."""
    return {"version": VERSION, "config": asked(asdict(config))}


def of_run(
    config: RunConfig,
    clips: Mapping[str, Sequence[Utterance]],
    seconds: Mapping[str, float],
    pairs: Sequence[TextPair],
    built: TrainedModel,
) -> dict[str, Any]:
    """All of it.

    Args:
        clips: those of training and of dev, by split.
        seconds: length of each clip, by id.
        built: the model, before training.
    """
    return of_config(config) | {
        "data": {split: hash_of(_clip(u, seconds.get(u.id)) for u in some) for split, some in clips.items()},
        "translations": hash_of((p.lang, p.text, p.english) for p in pairs) if pairs else None,
        "files": {name: value for name, value in sources(config).items() if name.startswith("tasks.")},
        "speech encoder": built.settings.speech and less_dtype(built.settings.speech.encoder_key),
        **({"image encoder": less_dtype(seen.encoder_key)} if (seen := built.settings.image) else {}),
        "quantiser": built.quantiser and built.quantiser.hash,
        "frozen weights": _frozen(built.model),
        **({"initial model": TrainedModel.load(config.model.source).fingerprint} if config.init else {}),
    }


def refuse_started(config: RunConfig, directory: Path) -> None:
    """Refuse, before anything is read, to train where another run was trained, or one that is not to be resumed.

    Raises:
        ConfigError: see ``refuse_another``; or the directory holds a run and ``trainer.resume`` is false.
    """
    if config.plan_only or config.frontend.share:
        return
    if not config.trainer.resume and has_weights(directory):
        raise ConfigError(f"{directory} holds a run already; resume it (trainer.resume=true), or delete it")
    refuse_another(directory, of_config(config))


def check(directory: Path, identity: Mapping[str, Any]) -> None:
    """``refuse_another``, and write ``run.json`` where there is none."""
    refuse_another(directory, identity)
    if not (directory / FILE).is_file() or not has_weights(directory):
        with atomic_write(directory / FILE) as temporary:
            temporary.write_text(json.dumps(identity, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def refuse_another(directory: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to go on with what a run directory holds, unless it is the run that is asked for, as far as is known.

    Raises:
        ConfigError: it holds weights of another run; every difference is named.
        DataError: its ``run.json`` is damaged.
    """
    if not has_weights(directory):
        return
    ways = f"train it elsewhere (run_name=NAME), or delete {directory} to train anew"
    if (before := _stored(directory)) is None:
        raise ConfigError(f"{directory} holds a run of a version that did not record what it is, half done; {ways}")
    if changed := list(_differences(before, identity)):
        listed = "".join(f"\n  {line}" for line in changed)
        raise ConfigError(f"{directory} holds another run than is asked for:{listed}\nundo the change, {ways}")


def has_weights(directory: Path) -> bool:
    """Whether a run directory holds anything that was trained."""
    return any((directory / "checkpoints").glob("*.ckpt")) or (directory / "model").is_dir()


def _stored(directory: Path) -> dict[str, Any] | None:
    """``run.json``, or what the model of a run of before says; None where nothing does."""
    path = directory / FILE
    if path.is_file():
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}); delete {directory} to train anew") from error
    folder = directory / "model"
    return {"version": 1, "config": read_settings(folder).training["config"]} if folder.is_dir() else None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """``name: old → new`` of every setting, and of what else both know of."""
    old, new = (_settings(one["config"]) for one in (before, now))
    known = [name for name in now if name in before and name not in ("version", "config")]
    for one, identity in ((old, before), (new, now)):
        one |= flat({name: identity[name] for name in known})
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            yield f"{name}: {old.get(name)} → {new.get(name)}"
    if fault := void(before["version"], before["config"]):
        yield f"version: {before['version']} → {now['version']} ({fault})"


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a trained model depends on, by dotted name."""
    free = (*FREE, *(f"{group}.{place}" for group in ("data", "adapt.old") for place in PLACES))
    named = flat(asked_before(config) or config)
    return {name: value for name, value in named if not any(f"{name}.".startswith(f"{one}.") for one in free)}


def _clip(u: Utterance, seconds: float | None) -> tuple:
    length = None if seconds is None else round(seconds, 3)
    return (u.id, u.lang, u.text, u.sentence_id, u.translation, u.synthetic, length)


def _frozen(model: torch.nn.Module) -> str:
    """Of the parameters that no checkpoint holds."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
