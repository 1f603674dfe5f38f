"""``python -m benchmarks.profiles``: where a training step and an embedding spend their time, by torch's profiler."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.engines import dual_encoder, sentence_transformer, train_ours, train_peer
from benchmarks.inputs import Inputs, real
from benchmarks.text_embedding import text_encoder

ROWS = 15


def table(function: Callable[[], object]) -> str:
    """Operators by their own time, of a second call."""
    function()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        function()
    return found.key_averages().table(sort_by="self_cpu_time_total", row_limit=ROWS, max_name_column_width=40)


def show(inputs: Inputs, texts: int = 128, batch: int = 64) -> None:
    """Print the table of each side of ``training_e5`` (one step) and of ``text_embedding``."""
    folder, dtype = inputs.backbones["e5"], inputs.dtype
    pairs = list(inputs.pairs[:batch])
    ours, peer = dual_encoder(folder), sentence_transformer(folder)
    encoder, model = text_encoder(folder, dtype), sentence_transformer(folder, dtype, projection=False)
    mixed = [text for pair in inputs.pairs[: texts // 2] for text in pair]
    for title, function in (
        ("training step, speechde", lambda: train_ours(ours, folder, pairs, batch, dtype)),
        ("training step, sentence-transformers", lambda: train_peer(peer, pairs, batch, dtype, inputs.scratch)),
        ("text embedding, speechde", lambda: encoder.encode_text(mixed)),
        ("text embedding, sentence-transformers", lambda: model.encode(mixed)),
    ):
        print(f"\n{title}, {inputs.dtype_name}\n{table(function)}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="speechde-benchmarks-") as folder:
        show(real(Path(folder)))
