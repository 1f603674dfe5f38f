"""Letters learned beside the contrastive loss: the loss is CTC's by its definition, and vectors do not depend on it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from speechde.config import build
from speechde.errors import ConfigError, DataError
from speechde.losses.contrastive import ContrastiveLoss
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.frontends.base import pad_items
from speechde.models.frontends.frames import ContinuousFrontend
from speechde.models.frontends.units import UnitFrontend
from speechde.training.letters import BLANK, Alphabet, LetterReader
from speechde.training.lit_module import LitDualEncoder
from speechde.types import Batch, Rows

TEXTS = {"a": "Ei!", "b": "so, so", "c": "Oh", "d": "…"}
LENGTHS = (9, 14, 5, 7)  # frames; of positions there are half as many


@pytest.fixture
def model(tiny_llm):
    torch.manual_seed(0)
    backbone = Backbone.load(tiny_llm("bert"))
    backbone.freeze(["*"])
    frontend = ContinuousFrontend(6, 16, 0.1, hidden=8, layers=2, heads=2, dropout=0.0)
    return DualEncoder(backbone, {"speech": frontend}, normalise=True)


@pytest.fixture
def reader(model):
    return LetterReader(model, len(Alphabet(TEXTS)), layer=1, upsample=3, weight=0.5)


@pytest.fixture
def spoken():
    draw = np.random.default_rng(0)
    clips = [draw.normal(size=(n, 6)).astype(np.float32) for n in LENGTHS]
    return pad_items([[("text", np.array([1, 30])), ("speech", clip)] for clip in clips])


def test_an_alphabet_is_that_of_normalised_text_in_any_order():
    alphabet = Alphabet(TEXTS)
    assert len(alphabet) == len(" ehios")
    assert list(alphabet.spelled("b")) == [6, 5, 1, 6, 5] and BLANK not in alphabet.spelled("b")
    assert len(alphabet.spelled("d")) == len(alphabet.spelled("no clip")) == 0
    again = Alphabet(dict(reversed(TEXTS.items())))
    assert all(np.array_equal(alphabet.spelled(clip), again.spelled(clip)) for clip in TEXTS)
    assert alphabet.batch("ab").values.tolist() == [[2, 4, 0, 0, 0], [6, 5, 1, 6, 5]]


@pytest.mark.parametrize("parts", [1, 3])
def test_the_loss_is_that_of_all_ways_to_read_the_letters(model, reader, spoken, parts):
    alphabet = Alphabet(TEXTS)
    short = spoken.rows(torch.tensor([2, 3]))  # three and four positions, of nine and twelve readings
    reader.head = nn.Linear(8, len(alphabet) + 1)
    reader.upsample = 1
    vectors, loss = reader.encode(model.encode, parts, short, alphabet.batch(["c", "a"]))
    torch.testing.assert_close(vectors, model.encode(short))
    taken = {}
    layer = model.frontends["speech"].layers[0]
    handle = layer.register_forward_hook(lambda _, __, output: taken.update(output=output))
    model.encode(short)
    handle.remove()
    probabilities = reader.head(taken["output"]).softmax(-1)
    expected = []
    for row, (clip, positions) in enumerate((("c", 3), ("a", 4))):
        letters = list(alphabet.spelled(clip))
        total = sum(
            torch.stack([probabilities[row, time, symbol] for time, symbol in enumerate(path)]).prod()
            for path in product(range(len(alphabet) + 1), repeat=positions)
            if collapsed(path) == letters
        )
        expected.append(-total.log() / len(letters))
    torch.testing.assert_close(loss, sum(expected) / 2)


def collapsed(path):
    """What a path of symbols reads: repeated ones once, without blanks."""
    return [symbol for before, symbol in zip((None, *path), path, strict=False) if symbol not in (before, BLANK)]


def test_rows_without_letters_count_for_nothing(model, reader, spoken):
    alphabet = Alphabet(TEXTS)
    _, whole = reader.encode(model.encode, 2, spoken, alphabet.batch(["a", "b", "d", "none"]))
    _, alone = reader.encode(model.encode, 1, spoken.rows(torch.tensor([0, 1])), alphabet.batch(["a", "b"]))
    torch.testing.assert_close(whole, alone)
    _, nothing = reader.encode(model.encode, 2, spoken, alphabet.batch(["d", "d", "d", "d"]))
    assert nothing.item() == 0


def test_a_step_adds_the_weighted_loss_and_trains_the_layer(model, reader, spoken):
    alphabet = Alphabet(TEXTS)
    texts = pad_items([[("text", np.array([1, 40 + i]))] for i in range(4)])
    rows = Rows(spoken, texts, letters=alphabet.batch("abca"))
    one = Batch([rows], torch.arange(4)[:, None])
    results = {}
    for name, own in (("with", reader), ("without", None)):
        options = {"seed": 0, "steps": 2, "lr": 1e-2, "backbone_lr": 0.0, "weight_decay": 0.0, "warmup_share": 0.0}
        module = LitDualEncoder(model, ContrastiveLoss(temperature=0.1, similarity="cosine"), reader=own, **options)
        logged = {}
        module.log_dict = lambda values, logged=logged, **_: logged.update(values)
        module.zero_grad()
        loss = module.training_step(one, 0)
        loss.backward()
        results[name] = loss.detach(), logged
    (loss, logged), (plain, before) = results["with"], results["without"]
    torch.testing.assert_close(loss, plain + 0.5 * logged["train/ctc"])
    assert logged["train/ctc"] > 0 and "train/ctc" not in before
    assert reader.head.weight.grad.abs().max() > 0
    assert not any("layers" in name for name, _ in reader.named_parameters())  # the layer is the model's alone


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainer": {"micro_batch": 8}, "frontend": {"kind": "continuous"}}, "trainer.micro_batch=8"),
        ({"trainer": {"strategy": "fsdp"}, "frontend": {"kind": "continuous"}}, "trainer.strategy=fsdp"),
        ({"frontend": {"kind": "discrete"}}, "frontend.kind=discrete"),
    ],
)
def test_settings_that_do_not_go_together(values, message):
    with pytest.raises(ConfigError, match=f"reads letters from the layers .* and {message} is set"):
        build({"ctc": {"weight": 1.0}, **values})
    build(values)


def test_a_layer_that_is_not_there(model):
    with pytest.raises(ConfigError, match=r"ctc.layer=3 is no layer of the speech adapter, which has 2; use 1 to 2"):
        LetterReader(model, 5, layer=3, upsample=3, weight=1.0)
    model.frontends["speech"] = UnitFrontend(4)
    with pytest.raises(ConfigError, match=r"which has 0; raise frontend.layers, or set ctc.weight=0"):
        LetterReader(model, 5, layer=1, upsample=3, weight=1.0)


def test_a_loss_of_letters_that_is_not_finite_ends_the_run(model, reader, spoken):
    alphabet = Alphabet(TEXTS)
    texts = pad_items([[("text", np.array([1, 40 + i]))] for i in range(4)])
    options = {"seed": 0, "steps": 2, "lr": 1e-2, "backbone_lr": 0.0, "weight_decay": 0.0, "warmup_share": 0.0}
    module = LitDualEncoder(model, ContrastiveLoss(), reader=reader, **options)
    module.log_dict = lambda *_, **__: None
    with torch.no_grad():
        reader.head.bias[0] = float("nan")
    with pytest.raises(DataError, match="the loss became nan at step 0"):
        module.training_step(Batch([Rows(spoken, texts, letters=alphabet.batch("abca"))], torch.arange(4)[:, None]), 0)
