"""Dynamic time warping between recordings (Sakoe and Chiba 1978), many pairs at once.

The cost of two frames is one minus their cosine. Steps are to the next frame of one side, or of both; the distance is
the least sum of costs on a path from both first frames to both last ones, divided by the frames of both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from speechde.progress import progress

CELLS = 16_000_000  # costs held at once, of one query with a part of the gallery


def dtw_distances(queries: Sequence[np.ndarray], gallery: Sequence[np.ndarray]) -> np.ndarray:
    """``(n, m)`` float32 distances between frames ``(time, dim)``; on the GPU when there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lengths = np.array([len(item) for item in gallery])
    out = np.empty((len(queries), len(gallery)), np.float32)
    step = max(1, CELLS // (lengths.max() * max(len(query) for query in queries)))
    order = np.argsort(lengths, kind="stable")
    with progress("dtw", len(queries) * len(order), "pairs") as advance:
        for start in range(0, len(order), step):
            part = order[start : start + step]
            items = torch.zeros(len(part), int(lengths[part].max()), gallery[0].shape[1], device=device)
            for row, i in enumerate(part):
                items[row, : lengths[i]] = _unit(gallery[i], device)
            ends = torch.from_numpy(lengths[part]).to(device)
            for row, query in enumerate(queries):
                cost = 1 - _unit(query, device) @ items.transpose(1, 2)  # (items, query frames, item frames)
                out[row, part] = (_path_costs(cost, ends) / (len(query) + ends)).cpu().numpy()
                advance(len(part))
    return out


def _path_costs(cost: Tensor, ends: Tensor) -> Tensor:
    """``(items, n, longest)`` costs and the frames of each item → ``(items,)`` costs of the best paths.

    Cells are visited by anti-diagonal: those of one depend on the two before it alone. A row of ``last`` and
    ``before`` is one diagonal, by query frame, behind a border of infinity.
    """
    items, n, longest = cost.shape
    before, last = torch.full((2, items, n + 1), torch.inf, device=cost.device)
    before[:, 0] = 0.0  # in front of both first frames
    result = torch.empty(items, device=cost.device)
    for diagonal in range(n + longest - 1):
        low, high = max(0, diagonal - longest + 1), min(n, diagonal + 1)
        frame = torch.arange(low, high, device=cost.device)
        arrived = torch.minimum(torch.minimum(last[:, low:high], last[:, low + 1 : high + 1]), before[:, low:high])
        now = torch.full_like(last, torch.inf)
        now[:, low + 1 : high + 1] = cost[:, frame, diagonal - frame] + arrived
        before, last = last, now
        done = ends == diagonal - n + 2
        result[done] = now[done, n]
    return result


def _unit(frames: np.ndarray, device: str) -> Tensor:
    return F.normalize(torch.from_numpy(np.asarray(frames, np.float32)).to(device), dim=-1)
