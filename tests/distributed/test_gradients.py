"""Two gloo processes with B pairs each give the loss and the gradients of one process with 2B.

This file is also the program of the two processes: ``test_gradients.py RANK STORE OUT``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from speechde.distributed import gather
from speechde.losses.contrastive import ContrastiveLoss
from speechde.losses.gradcache import cached
from speechde.losses.meaning import ABSENT
from speechde.models.dual_encoder import in_buckets
from speechde.types import Inputs, Sequences

# ids shared on one rank and across both, in one column and across columns
MEANING = torch.tensor([[4, 4], [1, 7], [4, 9], [2, 1], [1, 8], [3, 4], [5, 6], [6, 2]])
# of two hard negatives a row: what the row means, what another row means, absent ones; row 6 is alone on a rank
AGAINST = torch.tensor([[40, 4], [7, 9], [41, 42], [43, ABSENT], [8, 45], [44, 6], [ABSENT] * 2, [ABSENT] * 2])
LOSSES = {
    "plain": {"similarity": "cosine", "temperature": 0.1, "mask_duplicates": False, "spread_out_weight": 0.0},
    "duplicate mask": {"similarity": "cosine", "temperature": 0.1, "spread_out_weight": 0.0},
    "spread-out": {"similarity": "dot", "spread_out_weight": 0.7},
    "learned temperature": {"similarity": "cosine", "temperature": 0.1, "learn_temperature": True},
    "negatives": {"similarity": "cosine", "temperature": 0.1, "learn_temperature": True, "hardness": 2.0},
    "negatives of prefixes": {"similarity": "cosine", "temperature": 0.1, "dims": (6, 3), "directions": "query"},
}
SPLITS = {"4+4": [0, 1, 0, 1, 0, 1, 0, 1], "6+2": [0, 0, 1, 0, 0, 1, 0, 0], "7+1": [0, 0, 0, 0, 0, 0, 1, 0]}
CASES = [(loss, split, parts) for loss in LOSSES for split in SPLITS for parts in (None, 3)]


class Encoder(nn.Module):
    """Two modalities, one shared head, and the loss with its temperature; rows of unequal length."""

    def __init__(self, loss: str, parts: int | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.speech, self.text = nn.Linear(5, 8), nn.Linear(3, 8)
        self.head, self.loss, self.parts = nn.Linear(8, 6), ContrastiveLoss(**LOSSES[loss]), parts

    def encode(self, layer: nn.Module, inputs: Inputs) -> torch.Tensor:
        def run(part):
            ((_, column),) = part.columns
            hidden = torch.tanh(layer(column.values)) * column.mask.unsqueeze(-1)
            return self.head(hidden.sum(1) / column.mask.sum(1, keepdim=True))

        return run(inputs) if self.parts is None else in_buckets(cached(run), self.parts, inputs)

    def forward(self, speech: Inputs, text: Inputs, meaning: torch.Tensor, hard: Inputs | None = None) -> torch.Tensor:
        sides = [self.encode(self.speech, speech), self.encode(self.text, text), meaning]
        if hard is not None:
            sides.append(self.encode(self.text, hard).unflatten(0, (len(meaning), -1)))
        return self.loss(*gather(*sides))["loss"]


def step(model: nn.Module, rows: list[int], negatives: bool) -> dict[str, torch.Tensor]:
    """Loss and gradients of some rows of the data."""
    generator = torch.Generator().manual_seed(1)
    inputs = []
    for modality, dim, each in (("speech", 5, 1), ("text", 3, 1), ("text", 3, 2)):
        values = torch.randn(len(MEANING) * each, 4, dim, generator=generator)
        lengths = torch.randint(1, 5, (len(MEANING) * each,), generator=generator)
        own = [row * each + place for row in rows for place in range(each)]
        column = Sequences(values[own], (torch.arange(4) < lengths[:, None])[own])
        inputs.append(Inputs([(modality, column)]))
    speech, text, hard = inputs
    if negatives:
        loss = model(speech, text, torch.cat([MEANING, AGAINST], 1)[rows], hard)
    else:
        loss = model(speech, text, MEANING[rows])
    loss.backward()
    named = {name.removeprefix("module."): p for name, p in model.named_parameters() if p.requires_grad}
    return {"loss": loss.detach(), **{name: parameter.grad for name, parameter in named.items()}}


def main(rank: str, store: str, out: str) -> None:
    dist.init_process_group("gloo", f"file://{store}", rank=int(rank), world_size=2, timeout=timedelta(seconds=60))
    results = []
    for loss, split, parts in CASES:
        rows = [row for row, owner in enumerate(SPLITS[split]) if owner == int(rank)]
        results.append(step(DistributedDataParallel(Encoder(loss, parts)), rows, "negatives" in loss))
    torch.save(results, out)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What each of two processes found, case by case."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, __file__]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder / "store"), str(folder / f"{rank}.pt")], env=environment)
        for rank in (0, 1)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    return dict(zip(CASES, zip(*ranks, strict=True), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_ranks_are_one_with_the_whole_batch(of_two, case):
    expected = step(Encoder(case[0], None), list(range(len(MEANING))), "negatives" in case[0])
    assert ("loss.log_scale" in expected) == LOSSES[case[0]].get("learn_temperature", False)
    for found in of_two[case]:
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert value.abs().max() > 1e-4, f"{name} tests nothing"
            torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-4)


if __name__ == "__main__":
    main(*sys.argv[1:])
