"""Text embeddings per second, a realistic mix of lengths, against ``SentenceTransformer.encode`` on the same weights.

Both sort by length; texts of one length leave padding out of the comparison. In bfloat16 each side runs as its own
documentation says: ``SpeechTextEncoder(dtype=…)``, and weights loaded in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.engines import sentence_transformer
from benchmarks.harness import Result, check_equal, matrix_rate, paired, timed
from benchmarks.inputs import Inputs, of_one_length, plain_prompt, repeated
from speechde.api import SpeechTextEncoder
from speechde.checkpoint.folder import TrainedModel
from speechde.checkpoint.settings import HeadSettings, PrefixSettings, Settings, UnitSettings
from speechde.features.settings import SpeechSettings
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.training.plan.costs import stack

# of unit vectors; bfloat16 has 8 bits, and pooling and normalisation are float32 here, but not in the peer
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def run(inputs: Inputs) -> Iterator[Result]:
    """A row for each number format, and one of texts of equal length."""
    for dtype in dict.fromkeys((torch.float32, inputs.dtype)):
        yield _row(inputs, dtype, equal=False)
    yield _row(inputs, inputs.dtype, equal=True)


def _row(inputs: Inputs, dtype: torch.dtype, equal: bool) -> Result:
    format_name = str(dtype).removeprefix("torch.")
    folder = inputs.backbones["e5"]
    mixed = [text for both in zip(inputs.pairs, inputs.short, strict=False) for pair in both for text in pair]
    texts = repeated(of_one_length(folder, mixed) if equal else mixed, 16 if inputs.tiny else 384)
    encoder, model = text_encoder(folder, dtype), sentence_transformer(folder, dtype, projection=False)
    vectors: dict[str, np.ndarray] = {}

    def ours() -> float:
        seconds, vectors["ours"] = timed(lambda: encoder.encode_text(texts))
        return len(texts) / seconds

    def peer() -> float:
        seconds, vectors["peer"] = timed(lambda: model.encode(texts))
        return len(texts) / seconds

    runs = paired(ours, peer, rounds=1 if inputs.tiny else 3)
    difference = check_equal("text embeddings", vectors["ours"], vectors["peer"], TOLERANCE[dtype], 1.0)
    layers, prompt = stack(encoder.trained.model.backbone), encoder.trained.prompt
    lengths = [len(prompt.text_ids(text, None)) for text in texts]
    flops, rate = sum(map(layers.forward, lengths)) / len(texts), matrix_rate(dtype)
    name, what, target = ("_equal", ", equal lengths", 1.2) if equal else ("", "", 2.0)
    result = Result(f"text_embedding_{format_name}{name}", f"text embeddings, {format_name}{what}: {folder.name}",
                    "SentenceTransformer.encode", "texts/s", runs, target)  # fmt: skip
    result.facts = {
        "texts": len(texts), "tokens a text": sum(lengths) / len(texts), "largest difference": difference,
        "least cosine": float((vectors["ours"] * vectors["peer"]).sum(1).min()), "matrix rate, GFLOP/s": rate / 1e9,
        "share of matrix rate": {side: getattr(result, side) * flops / rate for side in ("ours", "peer")},
    }  # fmt: skip
    return result


def text_encoder(folder: Path, dtype: torch.dtype) -> SpeechTextEncoder:
    """An encoder of text alone, with the identity as its projection."""
    backbone = Backbone.load(folder)
    model = DualEncoder(backbone, {}, projection_init="identity", normalise=True)
    settings = Settings(  # of speech that it does not read
        frontend=UnitSettings(units=0, drop=0.0, drop_span=1),
        attention=backbone.attention,
        head=HeadSettings(dim=None, projection_init="identity", normalise=True),
        prefix=PrefixSettings(mode="none", speech="", text=""),
        speech=SpeechSettings(encoder="", encoder_key={}, layer=-1, rate=25.0, trim_db=40.0, deduplicate=True),
    )
    return SpeechTextEncoder(TrainedModel(model, plain_prompt(folder, backbone), None, settings), "cpu", dtype)
