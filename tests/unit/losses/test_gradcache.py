"""Gradient caching and blocks change what is kept in memory and nothing else."""

from __future__ import annotations

import itertools
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from speechde.losses import contrastive, gradcache, spread_out
from speechde.losses.contrastive import ContrastiveLoss
from speechde.losses.gradcache import cached
from speechde.models.dual_encoder import in_buckets
from speechde.types import Inputs, Sequences

TIME = 6


class Encoder(nn.Module):
    def __init__(self, width=16, dropout=0.0):
        super().__init__()
        self.lower, self.upper = nn.Linear(3, width), nn.Linear(width, 4)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        total = 0.0
        for _, column in inputs.columns:
            hidden = self.dropout(torch.tanh(self.lower(column.values))) * column.mask.unsqueeze(-1)
            total = total + hidden.sum(1)
        return self.upper(total)


def rows(batch=10, time=TIME, seed=0):
    """Items of two parts."""
    generator = torch.Generator().manual_seed(seed)

    def column():
        lengths = torch.randint(1, time + 1, (batch,), generator=generator)
        lengths[0] = time
        mask = torch.arange(time) < lengths[:, None]
        return Sequences(torch.randn(batch, time, 3, generator=generator), mask, lengths)

    return Inputs([("text", column()), ("speech", column())])


def step(wrap, parts, dropout=0.0, autocast=False, batch=10, negatives=0, **options):
    """Loss and gradients of one step with two encoders, each batch encoded in ``parts``; negatives are texts."""
    torch.manual_seed(0)
    speech, text, loss = Encoder(dropout=dropout), Encoder(dropout=dropout), ContrastiveLoss("cosine", 0.1, **options)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        embeddings = [in_buckets(wrap(one), parts, rows(batch, seed=i)) for i, one in enumerate((speech, text))]
        meaning = torch.arange(batch)[:, None] % 7
        if negatives:
            hard = in_buckets(wrap(text), parts, rows(batch * negatives, seed=2))
            embeddings.append(hard.unflatten(0, (batch, negatives)))
            meaning = torch.cat([meaning, torch.arange(batch * negatives).reshape(batch, negatives)], 1)
        value = loss(*embeddings[:2], meaning, *embeddings[2:])["loss"]
    value.backward()
    parameters = [p for module in (speech, text, loss) for p in module.parameters() if p.requires_grad]
    return [value.detach(), *(p.grad for p in parameters)]


@pytest.mark.parametrize(
    "options",
    [
        {"mask_duplicates": False, "spread_out_weight": 0.0},
        {"mask_duplicates": True, "spread_out_weight": 0.5},
        {"learn_temperature": True},
        {"learn_temperature": True, "autocast": True, "dropout": 0.5},
        {"dropout": 0.5},
        {"negatives": 2, "dropout": 0.5, "hardness": 2.0},
        {"negatives": 1, "dims": (4, 2), "directions": "query"},
    ],
    ids=str,
)
def test_gradients_are_the_plain_ones(options):
    plain, found = step(lambda encode: encode, 3, **options), step(cached, 3, **options)
    assert len(plain) == 9 + ("learn_temperature" in options)
    for one, other in zip(plain, found, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-8)


def test_parts_do_not_matter():
    for one, other in zip(step(cached, 2), step(lambda encode: encode, 1), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_dropout_is_replayed_on_every_device(monkeypatch):
    """Checkpoint saves the random state of the devices of the tensors it is given; it does not look into objects."""
    given = []
    monkeypatch.setattr(gradcache, "checkpoint", lambda run, *inputs, **_: given.extend(inputs) or run(*inputs))
    one = rows()
    assert torch.equal(cached(encoder := Encoder())(one), encoder(one))
    expected = [tensor for _, column in one.columns for tensor in (column.values, column.mask)]
    assert len(given) == 4 and all(a is b for a, b in zip(given, expected, strict=True))


def test_names_and_lengths_reach_the_encoder():
    """Lengths are known on the host, and must not be asked of a GPU because a part is cached."""
    seen, one = [], rows()
    cached(lambda inputs: seen.append(inputs) or inputs.columns[0][1].values.sum((1, 2)))(one)
    assert [name for name, _ in seen[0].columns] == ["text", "speech"]
    assert all(a.lengths is b.lengths for (_, a), (_, b) in zip(seen[0].columns, one.columns, strict=True))


class Peak(TorchDispatchMode):
    """Most bytes of tensors made in it that were alive at once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.data_ptr() not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage.data_ptr())
                self.now += storage.nbytes()
                weakref.finalize(storage, self.free, storage.data_ptr(), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def free(self, pointer, size):
        self.known.discard(pointer)
        self.now -= size


def peak(batch, parts, wrap):
    model, inputs = Encoder(width=256), rows(batch, time=32)
    for _, column in inputs.columns:
        column.mask[:], column.lengths[:] = True, 32
    with Peak() as memory:
        embeddings = in_buckets(wrap(model), parts, inputs)
        ContrastiveLoss()(embeddings, embeddings.roll(1, 0), torch.arange(batch)[:, None])["loss"].backward()
    return memory.peak


def test_memory_is_that_of_one_part():
    plain, small, large = peak(64, 16, lambda encode: encode), peak(4, 1, lambda encode: encode), peak(64, 16, cached)
    assert plain > 5 * small
    assert large < 1.2 * small


@pytest.mark.parametrize(
    "meaning",
    [
        None,
        torch.arange(11)[:, None] % 7,
        torch.arange(33).reshape(11, 3) * 5 % 17,
        torch.zeros(11, 1, dtype=torch.int64),
    ],
    ids=["all", "some", "across columns", "none"],
)
def test_blocks_give_the_loss_and_gradients_of_the_whole_matrix(monkeypatch, meaning):
    results = []
    for block in (1024, 4):
        for module in (gradcache, contrastive, spread_out):
            monkeypatch.setattr(module, "BLOCK", block)
        torch.manual_seed(0)
        speech, text = (torch.randn(11, 5, requires_grad=True) for _ in range(2))
        loss = ContrastiveLoss("cosine", 0.1, learn_temperature=True, mask_duplicates=meaning is not None)
        out = loss(speech, text, torch.arange(11)[:, None] if meaning is None else meaning)
        out["loss"].backward()
        results.append([*out.values(), speech.grad, text.grad, loss.log_scale.grad])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_freed_memory_is_given_back_once_in_so_many_parts(monkeypatch):
    given = []
    monkeypatch.setattr(gradcache, "_malloc_trim", lambda: given.append)
    monkeypatch.setattr(gradcache, "_encoded", itertools.count(1))
    monkeypatch.setattr(gradcache, "PARTS", 4)
    step(cached, parts=5)
    assert given == [0] * (2 * 2 * 5 // 4)  # two encoders, each part encoded twice


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_giving_back_memory_asks_for_nothing_that_a_system_lacks(monkeypatch, platform):
    monkeypatch.setattr(gradcache.sys, "platform", platform)
    if platform != "linux":
        monkeypatch.setattr(gradcache.ctypes, "CDLL", None)
    assert gradcache._malloc_trim.__wrapped__()(0) in (0, 1)
