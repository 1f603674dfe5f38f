"""Training pairs per second on text and text, against sentence-transformers' trainer, a batch of 64 at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.engines import dual_encoder, sentence_transformer, train_ours, train_peer
from benchmarks.harness import Result, check_equal, matrix_rate, paired
from benchmarks.inputs import Inputs, of_one_length, plain_prompt, repeated
from speechde.models.dual_encoder import DualEncoder
from speechde.training.plan.costs import stack

# bfloat16 products of other shapes round differently; the first step starts from equal weights
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
LOSSES = {False: "MultipleNegativesSymmetricRankingLoss", True: "CachedMultipleNegativesSymmetricRankingLoss"}


def run(inputs: Inputs) -> Iterator[Result]:
    """A row for each backbone, and one of texts of equal length, where there is no padding to save."""
    for name, folder in inputs.backbones.items():
        yield row(inputs, f"training_{name}", folder, inputs.pairs, 64, 3)
    texts = of_one_length(folder := inputs.backbones["e5"], [text for pair in inputs.pairs for text in pair])
    pairs = list(zip(texts, [*texts[1:], texts[0]], strict=True))  # of any meaning
    made = row(inputs, "training_e5_equal", folder, pairs, 64, 3)
    yield replace(made, what=f"{made.what}, equal lengths", target=1.2)


def row(
    inputs: Inputs, name: str, folder: Path, texts: Sequence, batch: int, steps: int, micro_batch: int | None = None
) -> Result:
    """``steps`` of ``batch`` pairs, in rounds A B A B; with ``micro_batch``, gradient caching on both sides."""
    if inputs.tiny:
        batch, steps, micro_batch = 8, 2, micro_batch and 4
    pairs = repeated(texts, batch * steps)
    losses: dict[str, list[list[float]]] = {"ours": [], "peer": []}

    def ours() -> float:
        trained = train_ours(dual_encoder(folder), folder, pairs, batch, inputs.dtype, micro_batch)
        losses["ours"].append(trained.losses)
        return batch / trained.seconds

    def peer() -> float:
        model = sentence_transformer(folder)
        trained = train_peer(model, pairs, batch, inputs.dtype, inputs.scratch, micro_batch)
        losses["peer"].append(trained.losses)
        return batch / trained.seconds

    runs = paired(ours, peer, rounds=1 if inputs.tiny else 2, warm_up=False)  # the first step is not counted
    difference = check_equal(f"{name}: losses", losses["ours"][0], losses["peer"][0], TOLERANCE[inputs.dtype])
    flops, lengths = _work(dual_encoder(folder), inputs, folder, pairs)
    rate = matrix_rate(inputs.dtype)
    facts = {
        "batch": batch, "micro_batch": micro_batch, "steps": steps, "dtype": inputs.dtype_name,
        "tokens a text": lengths, "losses ours": losses["ours"][0], "losses peer": losses["peer"][0],
        "largest relative difference of losses": difference, "matrix rate, GFLOP/s": rate / 1e9,
        "useful GFLOP a pair": flops / 1e9,
    }  # fmt: skip
    result = Result(name, f"training, text–text, batch {batch}, {inputs.dtype_name}: {folder.name}",
                    f"sentence-transformers trainer, {LOSSES[bool(micro_batch)]}", "pairs/s", runs, 3.0,
                    facts=facts)  # fmt: skip
    facts["share of matrix rate"] = {side: getattr(result, side) * flops / rate for side in ("ours", "peer")}
    return result


def _work(model: DualEncoder, inputs: Inputs, folder, pairs) -> tuple[float, dict[str, float]]:
    """FLOPs a pair without padding and without a second forward pass, and the lengths."""
    prompt, layers = plain_prompt(folder, model.backbone), stack(model.backbone)
    lengths = sorted(len(prompt.text_ids(text, None)) for pair in pairs for text in pair)
    flops = sum(map(layers.training, lengths)) / len(pairs)
    at = {"mean": sum(lengths) / len(lengths), "median": lengths[len(lengths) // 2], "longest": lengths[-1]}
    return flops, at
