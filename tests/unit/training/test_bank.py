"""Which transcripts a batch is compared with beside its own."""

from __future__ import annotations

import pytest
import torch

from speechde.config import build
from speechde.errors import ConfigError
from speechde.losses.contrastive import ContrastiveLoss
from speechde.losses.meaning import ABSENT
from speechde.training import run
from speechde.training.bank import TextBank

LANGS = ["fr_fr", "fr_fr", "de_de", "fr_fr", "ru_ru", "de_de"]
MEANINGS = [10, 11, 12, 13, 14, 15]


def drawn(bank, known, seed=0):
    torch.manual_seed(seed)
    places, meanings = bank(torch.tensor(known))
    return dict(zip(places.tolist(), meanings.tolist(), strict=True))


@pytest.mark.parametrize(("known", "own"), [([0, 1], {0, 1, 3}), ([2], {2, 5}), ([4, 3], {0, 1, 3, 4})])
def test_only_transcripts_of_the_languages_of_the_batch_count(known, own):
    found = drawn(TextBank(LANGS, MEANINGS, 100), known)
    assert found.keys() == set(range(6)), "no draw has more than there are"
    assert {place for place, meaning in found.items() if meaning != ABSENT} == own
    assert all(found[place] == MEANINGS[place] for place in own)


def test_no_transcript_of_another_language_is_taken_while_there_are_own_ones():
    bank = TextBank(LANGS, MEANINGS, 2)
    seen = [drawn(bank, [0], seed) for seed in range(30)]
    assert all(len(one) == 2 and one.keys() <= {0, 1, 3} for one in seen)
    assert {place for one in seen for place in one} == {0, 1, 3}, "each is drawn now and then"
    assert drawn(bank, [0], 7) == drawn(bank, [0], 7)


def test_it_is_in_no_checkpoint():
    assert not TextBank(LANGS, MEANINGS, 2).state_dict()


@pytest.mark.parametrize(("task", "named"), [
    ({"one_language": False}, "one_language=false"), ({"shares": {"translation": 0.2}}, "shares.translation"),
])  # fmt: skip
def test_batches_of_several_languages_have_none(task, named):
    """It knows the words of a transcript, not what they mean in other languages."""
    speech = {"examples": "clips"} | task
    message = rf"loss\.bank=8 .* tasks\.speech\.{named} is set; drop that, or set loss.bank=0"
    with pytest.raises(ConfigError, match=message):
        build({"tasks": {"speech": speech}, "loss": {"bank": 8}})
    build({"tasks": {"speech": speech}, "loss": {"bank": 0}})


def test_a_text_side_that_moves_has_none(tiny_run, monkeypatch):
    """And that is said before any clip is encoded."""
    monkeypatch.setattr(run, "read_features", None)
    with pytest.raises(ConfigError, match=r"loss\.bank=2048 needs .*; set model\.freeze=\['\*'\] .*, or loss\.bank=0"):
        run.train(tiny_run("quickstart", model__freeze=["embedding.text.*"]))


def test_a_bank_waits_for_no_gpu(as_on_a_device):
    bank, known = TextBank(["fr_fr"] * 4, [1, 2, 3, 4], 3), torch.tensor([0, 1])
    loss, sides = ContrastiveLoss(), torch.randn(3, 2, 4)
    with as_on_a_device():
        _, meaning = bank(known)
        losses = loss(*sides[:2], known[:, None] + 1, bank=sides.flatten(0, 1)[:3], bank_meaning=meaning)
        with pytest.raises(AssertionError, match="waits for the device"):
            losses["loss"].item()
