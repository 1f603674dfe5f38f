"""Without a process group nothing is exchanged; with one, see tests/distributed."""

from __future__ import annotations

import torch

from speechde import distributed


def test_alone():
    tensors = torch.randn(3, 2, requires_grad=True), torch.arange(3)
    assert all(one is other for one, other in zip(distributed.gather(*tensors), tensors, strict=True))
    assert (distributed.rank(), distributed.world_size(), distributed.active()) == (0, 1, False)
    assert distributed.from_first(0.5) == 0.5 and distributed.alike([1, {2}])
