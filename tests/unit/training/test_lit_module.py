"""The training step: the frozen-text shortcut changes nothing, checkpoints are small, randomness is seeded by step."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from speechde.errors import DataError
from speechde.losses.contrastive import ContrastiveLoss
from speechde.losses.meaning import ABSENT
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import text_states
from speechde.models.frontends.base import pad_items
from speechde.models.frontends.units import UnitFrontend
from speechde.training import lit_module
from speechde.training.bank import TextBank
from speechde.training.lit_module import LitDualEncoder
from speechde.types import Batch, Rows

TEXTS = [np.array([1, 40, 41]), np.array([1, 50]), np.array([1, 60, 61, 62])]
ROWS = [2, 0, 2, 1]  # of the transcripts


def texts(ids):
    return pad_items([[("text", each)] for each in ids])


def batch():
    draw = np.random.default_rng(0)
    units = [draw.integers(0, 12, n).astype(np.int32) for n in (9, 14, 5, 7)]
    spoken = pad_items([[("text", np.array([1, 30])), ("speech", each)] for each in units])
    rows = Rows(spoken, texts([TEXTS[row] for row in ROWS]), torch.tensor(ROWS))
    return Batch([rows], torch.tensor(ROWS)[:, None].expand(-1, 2))


def with_pairs(source, english, ids):
    """The batch, and texts with their English, as further rows."""
    one = batch()
    return Batch([*one.rows, Rows(texts(source), texts(english))], torch.cat([one.meaning, torch.as_tensor(ids)]))


# two for each row: known transcripts and others; the last of row 0 is its positive, row 2 has one, and row 3 none
HARD = [[np.array([1, 90, 91]), TEXTS[2]], [TEXTS[1], TEXTS[0]], [TEXTS[2], TEXTS[2]], [TEXTS[1], TEXTS[1]]]
HARD_MEANING = [[90, 2], [1, 7], [8, ABSENT], [ABSENT, ABSENT]]


def with_negatives(known=False):
    """The batch with hard negatives; ``known``: all of them are transcripts, whose states may be looked up."""
    one = batch()
    hard = [text for some in HARD for text in some]
    places = [next((n for n, text in enumerate(TEXTS) if text is each), 0) for each in hard]
    (plain,), own = one.rows, texts([TEXTS[place] for place in places] if known else hard)
    rows = replace(plain, negatives=own, known_negatives=torch.tensor(places) if known else None)
    return Batch([rows], torch.cat([one.meaning, torch.tensor(HARD_MEANING)], 1))


@pytest.fixture
def make(tiny_llm):
    def build(freeze=("*",), dropout=0.0, drop=0.0, texts=TEXTS, steps=4, **options):
        folder = tiny_llm("gemma3_text")
        torch.manual_seed(0)
        backbone = Backbone.load(folder, audio_tokens=12, dropout=dropout)
        model = DualEncoder(backbone, {"speech": UnitFrontend(12, drop=drop)}, projection_gain=0.1)
        if freeze:
            backbone.freeze(list(freeze))
        return LitDualEncoder(model, ContrastiveLoss(), seed=0, steps=steps, lr=1e-2, backbone_lr=1e-3,
                              weight_decay=0.0, warmup_share=0.0,
                              text_states=texts and partial(text_states, ids=texts), **options)  # fmt: skip

    return build


def fit(module, epochs=1, steps=2, **options):
    loader = DataLoader([batch()] * steps, batch_size=None)
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, **options)  # fmt: skip
    trainer.fit(module, loader)
    return trainer


@pytest.fixture
def step():
    """Loss and gradients of one step outside a trainer."""

    def run(module, one=None):
        module.log = module.log_dict = lambda *a, **k: None
        module.zero_grad()
        loss = module.training_step(one or batch(), 0)
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}

    return run


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("negatives", [False, True])
def test_the_frozen_text_shortcut_gives_the_same_loss_and_gradients(make, step, dropout, negatives):
    fast, slow = make(dropout=dropout), make(dropout=dropout, texts=None)
    for module in (fast, slow):
        assert module.text_is_frozen
        module.on_fit_start()
        module.on_train_epoch_start()
    assert fast._text_states.shape == (3, 16) and slow._text_states is None
    one = with_negatives(known=True) if negatives else batch()
    (loss, gradients), (expected, others) = step(fast, one), step(slow, one)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    assert gradients.keys() == others.keys() == {"model.backbone.embedding.audio", "model.projection.weight"}
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, others[name], atol=1e-6, rtol=1e-4)


def test_a_bank_is_the_vectors_of_transcripts_that_are_not_in_the_batch(make, step):
    """Two of the five texts are in no row, one of them in another language."""
    every = [*TEXTS, np.array([1, 80]), np.array([1, 81, 82])]
    module = make(texts=every, bank=TextBank(["fr_fr"] * 4 + ["de_de"], list(range(5)), 5))
    module.on_fit_start()
    module.on_train_epoch_start()
    loss, gradients = step(module, replace(batch(), banked=True))
    model, (rows,) = module.model, batch().rows
    module.zero_grad()
    sides = model.encode(rows.query), model.encode(rows.positive), batch().meaning
    others = model.encode(texts([every[3]]))
    expected = module.loss(*sides, bank=others, bank_meaning=torch.tensor([3]))["loss"]
    expected.backward()
    found = {
        name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None
    }
    torch.testing.assert_close(loss, expected.detach(), atol=1e-6, rtol=1e-5)
    plain = module.loss(*sides)["loss"].detach()
    torch.testing.assert_close(step(module)[0], plain)  # a task that has none, though its positives are transcripts
    assert loss > plain + 1e-3
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, found[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("freeze", [(), ("*",)])
@pytest.mark.parametrize("kind", ["plain", "translated", "negatives"])
def test_micro_batches_give_the_plain_gradients(make, freeze, kind):
    """Dropout and dropped units included: 4 rows are 4 parts with a micro batch and without."""
    results = []
    for micro_batch in (None, 2):
        one = with_negatives() if kind == "negatives" else batch()
        module = make(freeze, dropout=0.4, drop=0.3, texts=None, micro_batch=micro_batch)
        if kind == "translated":
            pairs = [np.array([1, 70 + i]) for i in range(4)]
            one = with_pairs(pairs, pairs, torch.arange(8).reshape(4, 2) + 9)
        module.log_dict = lambda *a, **k: None
        module.on_train_epoch_start()
        module.on_train_batch_start(one, 0)
        loss = module.training_step(one, 0)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in module.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) > 2
    for plain, found in zip(*results, strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("freeze", [(), ("embedding.text.*",), ("model.layers.*",)])
def test_no_shortcut_when_any_weight_that_text_passes_is_trained(make, step, freeze):
    module = make(freeze)
    assert not module.text_is_frozen
    module.on_fit_start()
    assert module._text_states is None
    assert len(step(module)[1]) > 2


def test_modes(make):
    """A frozen LLM has no dropout; one that is trained has it from the first epoch on, however it was loaded."""
    for freeze, training in ((("*",), False), (("embedding.text.*",), True)):
        module = make(freeze)
        module.model.backbone.model.eval()
        module.on_train_epoch_start()
        assert {part.training for part in module.model.backbone.modules()} == {training}
        assert module.model.training and module.model.frontends.training


def test_randomness_is_seeded_by_step_alone(make):
    module = make()
    trainer = fit(module, steps=1)
    assert trainer.global_step == module.global_step == 1
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        module.on_train_batch_start(batch(), 0)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    module.seed = 1
    module.on_train_batch_start(batch(), 0)
    assert not torch.equal(torch.rand(3), drawn[0])


def test_two_runs_are_the_same_whatever_was_drawn_in_between(make):
    states = []
    for draws in (0, 13):
        module = make(
            ("embedding.text.*",), dropout=0.3, drop=0.3, dev_recall=lambda _, n=draws: float(len(torch.rand(n)))
        )
        fit(module, epochs=2)
        states.append(module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = make(("embedding.text.*",), dropout=0.0, drop=0.0)
    fit(other, epochs=2)
    assert any(not torch.equal(states[0][name], tensor) for name, tensor in other.state_dict().items())


def test_training_changes_what_is_trained_alone(make):
    module = make()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    fit(module)
    changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"model.backbone.embedding.audio", "model.projection.weight"}


def test_a_checkpoint_holds_no_frozen_weight_and_loads(make, tmp_path):
    module = make(("embedding.text.*", "model.layers.0.*"))
    trainer = fit(module)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    trained = {name for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    assert trained <= set(saved) and frozen.isdisjoint(saved)
    assert not any("embed_tokens" in name or "embedding.text" in name for name in saved)
    other = make(("embedding.text.*", "model.layers.0.*"))
    checkpoint = {"state_dict": dict(saved)}
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    assert all(torch.equal(a, other.state_dict()[name]) for name, a in module.state_dict().items())


def test_a_loss_that_is_not_finite_stops_the_run(make):
    module = make()
    module.model.projection.weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match=r"the loss became nan at step 0; lower optim\.lr"):
        fit(module)


@pytest.mark.parametrize("options", [{}, {"freeze": ()}, {"freeze": (), "micro_batch": 2}, {"drop": 0.3}])
def test_a_step_on_a_gpu_waits_for_nothing(make, as_on_a_device, monkeypatch, options):
    """Forward and backward pass, hard negatives, clipping and AdamW; transformers' layers read a mask of their own."""
    module, one = make(texts=None, **options), with_negatives()
    module.log = module.log_dict = lambda *a, **k: None
    module.on_train_epoch_start()
    optimiser = module.configure_optimizers()["optimizer"]
    loss = module.training_step(one, 0)
    read = []
    monkeypatch.setattr(lit_module, "padding_share", lambda parts: read.append(len(parts)))  # of lengths alone
    with as_on_a_device(*(side for rows in one.rows for side in (rows.query, rows.positive, rows.negatives))):
        module.training_step(one, 0).backward()
        module.configure_gradient_clipping(optimiser, 1.0)
        optimiser.step()
        with pytest.raises(AssertionError, match="waits for the device"):
            loss.item()
    assert read == [3]


def test_on_a_gpu_a_loss_that_is_not_finite_is_told_later_and_never_saved(make, as_on_a_device):
    as_on_a_device()
    module = make()
    module.log = module.log_dict = lambda *a, **k: None
    module.training_step(batch(), 0)
    module._check_finite()
    module.model.projection.weight.data.fill_(float("nan"))
    module.training_step(batch(), 0)  # step 0 of a module without a trainer
    module.model.projection.weight.data.fill_(1.0)
    module.training_step(batch(), 0)
    for reads in (module.on_train_epoch_end, lambda: module.on_save_checkpoint({"state_dict": {}})):
        with pytest.raises(DataError, match=r"the loss became nan at step 0; lower optim\.lr"):
            reads()


def test_a_sharded_model_needs_all_processes_to_be_alike(make, monkeypatch):
    """Else one would wait for a layer that another never runs."""
    module, asked = make(), []
    module.log_dict = lambda *a, **k: None
    monkeypatch.setattr(lit_module, "alike", lambda value: asked.append(value) or len(asked) > 1)
    module.training_step(with_negatives(), 0)
    assert not asked, "a model that is not sharded does not ask"
    monkeypatch.setattr(lit_module.sharding, "is_sharded", lambda model: True)
    with pytest.raises(DataError, match="step 0: the examples of one process are made up otherwise"):
        module.training_step(with_negatives(), 0)
    module.training_step(with_negatives(), 0)
    assert asked == [[({"speech"}, 4), (set(), 4), (set(), 8)]] * 2


@pytest.mark.parametrize("clip", [None, 0.01])
def test_gradients_are_clipped_and_their_norm_is_logged(make, clip):
    module, norms = make(), []
    module.on_before_optimizer_step = lambda _: norms.append(
        float(torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm())
    )
    clipped = []
    step = module.optimizer_step

    def optimizer_step(epoch, batch_idx, optimizer, closure):
        step(epoch, batch_idx, optimizer, closure)
        clipped.append(float(torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm()))

    module.optimizer_step = optimizer_step
    trainer = fit(module, steps=1, gradient_clip_val=clip)
    assert norms[0] > 0.01 and float(trainer.callback_metrics["train/gradient_norm"]) == pytest.approx(norms[0])
    assert clipped[0] == pytest.approx(clip or norms[0], rel=1e-3)


def test_dev_recall_is_logged_at_the_end_of_each_epoch(make):
    seen = []
    module = make(dev_recall=lambda model: seen.append(model) or len(seen) / 4)
    trainer = fit(module, epochs=3)
    assert seen == [module.model] * 3
    assert float(trainer.callback_metrics["dev/recall@1"]) == 0.75
    assert {"train/loss", "train/contrastive", "train/spread_out", "train/scale"} <= set(trainer.callback_metrics)


def test_warmup_is_a_share_of_the_steps(make):
    module = make(steps=40)
    assert module.warmup == 1
    options = module.configure_optimizers()
    assert options["lr_scheduler"]["interval"] == "step"
    assert {group["initial_lr"] for group in options["optimizer"].param_groups} == {1e-2}


def left_out(ids, i, j):
    """Whether either side of row i and either side of row j have one id."""
    return i != j and any(one == other for one in ids[i] for other in ids[j])


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("freeze", [(), ("*",)])
def test_translations_are_further_pairs_of_the_batch(make, freeze, mask):
    """Queries are speech, then texts; targets are transcripts, then English. No text meets its own copy as a negative.

    Row 4 translates the transcript of row 1 (0), and row 5 another text into the English of row 4.
    """
    source, english = [TEXTS[0], np.array([1, 71, 72])], [np.array([1, 80]), np.array([1, 80])]
    ids = [*((row, row) for row in ROWS), (0, 7), (8, 7)]
    one = with_pairs(source, english, ids[4:])
    module = make(freeze, texts=TEXTS if freeze else None)
    module.log_dict = module.log = lambda *a, **k: None
    module.loss = ContrastiveLoss("cosine", 0.5, spread_out_weight=0.0, mask_duplicates=mask)
    module.on_fit_start()
    model = module.model.eval()
    with torch.no_grad():
        queries = torch.cat([model.encode(rows.query) for rows in one.rows])
        targets = model.encode(texts([TEXTS[row] for row in ROWS] + english))
    expected = 0.0
    for left, right in ((queries, targets), (targets, queries)):
        for i in range(6):
            scores = [2 * torch.cosine_similarity(left[i], right[j], dim=0)
                      for j in range(6) if not (mask and left_out(ids, i, j))]  # fmt: skip
            own = 2 * torch.cosine_similarity(left[i], right[i], dim=0)
            expected += float(torch.logsumexp(torch.stack(scores), 0) - own) / 12
    assert [left_out(ids, 4, j) for j in range(6)] == [False, True, False, False, False, True]
    together = module.training_step(one, 0)
    assert float(together.detach()) == pytest.approx(expected, rel=1e-4)
    assert together != module.training_step(batch(), 0)


@pytest.mark.parametrize("freeze", [(), ("*",)])
def test_hard_negatives_are_further_answers_of_their_own_rows(make, freeze):
    """The second of row 0 means its positive; rows 2 and 3 have one and none."""
    one = with_negatives()
    module = make(freeze, texts=TEXTS if freeze else None)
    logged = {}
    module.log_dict = lambda values, **_: logged.update(values)
    module.loss = ContrastiveLoss("cosine", 0.5, spread_out_weight=0.0, directions="query")
    module.on_fit_start()
    model = module.model.eval()
    with torch.no_grad():
        queries, targets = model.encode(one.rows[0].query), model.encode(texts([TEXTS[row] for row in ROWS]))
        hard = model.encode(one.rows[0].negatives).unflatten(0, (4, 2))
    counted = {0: [0], 1: [0, 1], 2: [0], 3: []}
    expected = 0.0
    for i in range(4):
        own = [targets[j] for j in range(4) if j == i or ROWS[i] != ROWS[j]] + [hard[i, k] for k in counted[i]]
        scores = torch.stack([2 * torch.cosine_similarity(queries[i], each, dim=0) for each in own])
        expected += float(scores.logsumexp(0) - 2 * torch.cosine_similarity(queries[i], targets[i], dim=0)) / 4
    assert float(module.training_step(one, 0).detach()) == pytest.approx(expected, rel=1e-4)
    assert float(logged["train/false_negatives"]) == pytest.approx(1 / 5)
    module.training_step(batch(), 0)


def test_padding_counts_negatives_that_are_encoded_and_not_those_that_are_looked_up(make):
    shares = {}
    for known in (False, True):
        module = make()
        module.log_dict = lambda values, known=known, **_: shares.setdefault(known, values["train/padding_share"])
        module.on_fit_start()
        module.training_step(with_negatives(known), 0)
    module = make()
    module.log_dict = lambda values, **_: shares.setdefault("none", values["train/padding_share"])
    module.on_fit_start()
    module.training_step(batch(), 0)
    assert shares[True] == shares["none"] != shares[False]
