"""A soup: one model whose weights are the mean of those of several (Wortsman et al. 2022, arXiv 2203.05482).

Models that were trained from the same one, with other data, seeds or settings of training, often lie in one basin of
the loss: the mean of their weights is a model, better than each where they differ, and as fast as one. Gemini Embedding
ends that way (arXiv 2503.07891, section 3.3). Of models that started apart the mean means nothing: their units, frame
statistics, prefixes, tokenizers and shapes have to be equal here, and where these differ, the first difference is
named. That two folders began from the same weights cannot be seen in them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from speechde.checkpoint.card import run_name
from speechde.checkpoint.folder import TrainedModel, find_model, stored_weights
from speechde.checkpoint.settings import TRAINING_ONLY
from speechde.corpora.fingerprint import flat
from speechde.errors import ConfigError
from speechde.features.settings import less_dtype
from speechde.types import SPLITS

RECIPE = "soup"


def make_soup(
    sources: Sequence[str | Path], weights: Sequence[float] | None = None, commit: str = "unknown"
) -> TrainedModel:
    """The mean of model folders, ready to be saved; its record names each of them.

    The mean is taken in float64 and rounded to the number format of the folders, so that a soup of one model, or of
    copies of it, is that model bit for bit. One model at a time is in memory beside the first.

    Args:
        sources: model folders, run directories or hub ids, of one architecture and equal settings.
        weights: one for each, positive; they are divided by their sum. None: all alike.
        commit: of the code, for the record.

    Raises:
        AssetError: a folder is no model, is damaged, or has no record of training.
        ConfigError: no model, weights that do not fit, or models that differ; the message names the first difference.
    """
    shares = _shares(sources, weights)
    folders = [find_model(source) for source in sources]
    first: TrainedModel | None = None
    ingredients = []
    for source, folder, share in zip(sources, folders, shares, strict=True):
        trained = TrainedModel.load(folder)
        record = trained.settings.trained(folder)
        if first is None:
            first = trained
        else:
            _refuse_another(first, trained, sources[0], source)
        ingredients.append(
            {"source": str(source), "fingerprint": trained.fingerprint, "weight": share, "record": record}
        )
    first.model.load_state_dict(mean_of([stored_weights(folder) for folder in folders], shares), strict=False)
    first.settings = replace(first.settings, training=soup_record(ingredients, commit))
    first.card = None
    return first


def mean_of(states: Sequence[Mapping[str, torch.Tensor]], shares: Sequence[float]) -> dict[str, torch.Tensor]:
    """The weighted mean of state dicts of the same names and shapes; each tensor in the number format it has."""
    mean = {}
    for name, tensor in states[0].items():
        if tensor.is_floating_point():
            total = tensor.double() * shares[0]  # and not zeros, which would make 0 of −0: a mean of one is that one
            for state, share in zip(states[1:], shares[1:], strict=True):
                total.add_(state[name], alpha=share)
            tensor = total.to(tensor.dtype)
        mean[name] = tensor
    return mean


def soup_record(ingredients: Sequence[Mapping[str, Any]], commit: str) -> dict[str, Any]:
    """The record of training of a soup.

    It has heard what any of its ingredients has heard; zero-shot are languages that none was trained on. Counts of data
    are stated where all agree. ``soup`` lists ``source``, ``fingerprint``, ``weight`` and ``record`` of each.
    """
    records = [one["record"] for one in ingredients]
    seen = _all(records, "seen")
    synthetic = [lang for lang in _all(records, "seen_synthetic") if lang not in seen]
    first = records[0]
    return {
        "recipe": RECIPE,
        "overrides": "+".join(f"{one['weight']:.3g}*{run_name(one['record'])}" for one in ingredients),
        "mode": first["mode"],
        "seed": first["seed"],
        "seen": seen,
        "seen_synthetic": synthetic,
        "zero_shot": [lang for lang in _all(records, "zero_shot") if lang not in {*seen, *synthetic}],
        "commit": commit,
        **({"llm": first["llm"]} if "llm" in first else {}),
        "data": _data([record.get("data", {}) for record in records]),
        "soup": [dict(one) for one in ingredients],
    }


def _shares(sources: Sequence[str | Path], weights: Sequence[float] | None) -> list[float]:
    if not sources:
        raise ConfigError("a soup of no model; name one model folder or more")
    if weights is None:
        weights = [1.0] * len(sources)
    if len(weights) != len(sources):
        raise ConfigError(f"{len(weights)} weights for {len(sources)} models; give one for each, in their order")
    if bad := [weight for weight in weights if not (weight > 0 and math.isfinite(weight))]:
        raise ConfigError(f"the weight {bad[0]} is not a positive number; leave the model out, or give one above 0")
    most = max(weights)  # whose sum may be above what a number can be
    shares = [weight / most for weight in weights]
    return [share / math.fsum(shares) for share in shares]


def _refuse_another(first: TrainedModel, other: TrainedModel, first_name: str | Path, name: str | Path) -> None:
    """Raise ``ConfigError`` with the first difference of two models that rules out a mean."""
    one, two = _decisive(first), _decisive(other)
    for key in dict.fromkeys([*one, *two]):
        if one.get(key) != two.get(key):
            raise ConfigError(
                f"{name} cannot be averaged with {first_name}: its {key} is {two.get(key)!r} and not "
                f"{one.get(key)!r}; average models that were trained from one model (init=MODEL)"
            )


def _decisive(trained: TrainedModel) -> dict[str, Any]:
    """What has to be equal, by dotted name: all that decides the vectors, but for the weights that are trained."""
    settings = asdict(replace(trained.settings, training={}, unstated=frozenset()))
    frontend, speech = settings.pop("frontend"), settings.pop("speech")  # a model without speech has none
    patches, image = settings.pop("patches"), settings.pop("image")
    kind = trained.settings.frontend.kind if frontend else "none"
    encoder = {"encoder_key": less_dtype(speech["encoder_key"])} if speech else {}
    config = trained.model.backbone.config.to_dict()
    return dict(
        flat({
            "mode": trained.settings.training["mode"],
            "frontend": {"kind": kind}
            | {key: value for key, value in (frontend or {}).items() if key not in TRAINING_ONLY},
            "speech": {key: value for key, value in (speech or {}).items() if key != "encoder"} | encoder,
            "patches": {key: value for key, value in (patches or {}).items() if key not in TRAINING_ONLY},
            "image": {"encoder_key": less_dtype(image["encoder_key"])} if image else {},
            **settings,
            "llm": {key: value for key, value in config.items() if _shapes(key)},
            "tokenizer": _hash([trained.prompt.tokenizer.backend_tokenizer.to_str().encode()]),
            "prefixes": trained.prompt.prefixes(),
            "quantiser": trained.quantiser and trained.quantiser.hash,
            "weights": {name: f"{p.dtype} {tuple(p.shape)}" for name, p in trained.model.named_parameters()},
            "statistics": {name: _hash([_bytes(buffer)]) for name, buffer in trained.model.named_buffers()},
        })
    )  # fmt: skip


def _shapes(key: str) -> bool:
    """Whether a key of an LLM's config is about the model, not about its training or what wrote the file."""
    return "dropout" not in key and key != "transformers_version" and not key.startswith("_")


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _hash(blocks: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(blocks)).hexdigest()[:16]


def _all(records: Iterable[Mapping[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(lang for record in records for lang in record.get(key, ())))


def _data(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    corpora = dict.fromkeys(part["corpus"] for part in parts if "corpus" in part)
    data: dict[str, Any] = {"corpus": "+".join(corpora)} if corpora else {}
    data["licences"] = {name: text for part in parts for name, text in part.get("licences", {}).items()}
    return data | dict(_agreed(parts))


def _agreed(parts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Counts of the splits that all have alike; of others no sum would be right: clips may be shared."""
    for split in SPLITS:
        if all(split in part and part[split] == parts[0][split] for part in parts):
            yield split, parts[0][split]
