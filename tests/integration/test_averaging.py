"""A run that keeps an average of its weights: which it is, what is chosen by it, and that it survives a stop."""

from __future__ import annotations

import pytest
import torch

from speechde.checkpoint.folder import TrainedModel
from speechde.config import build
from speechde.errors import ConfigError
from speechde.training import run
from speechde.training.averaging import averaged_weights
from speechde.training.lit_module import LitDualEncoder
from speechde.training.recall import DevRecall

LENGTH = {"trainer__steps": 6, "trainer__eval_every": 2}
EMA = {"trainer__average__kind": "ema", "trainer__average__decay": 0.75}
TAIL = {"trainer__average__kind": "tail", "trainer__average__last": 2}
WHOLE, FROZEN = (
    {"model__freeze": []},
    {},
)  # all of the LLM is trained, its text rows by two names; or as the recipe has it


@pytest.fixture
def watched(monkeypatch):
    """``(after each step, at each dev evaluation)``: copies of the trained weights."""
    steps, evaluations = [], []
    step, recall = LitDualEncoder.optimizer_step, DevRecall.__call__

    def copy(model):
        return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def after(self, *args, **kwargs):
        step(self, *args, **kwargs)
        steps.append(copy(self.model))

    def evaluated(self, model):
        evaluations.append(copy(model))
        return recall(self, model) + len(evaluations)  # the last checkpoint is the best

    monkeypatch.setattr(LitDualEncoder, "optimizer_step", after)
    monkeypatch.setattr(DevRecall, "__call__", evaluated)
    return steps, evaluations


def checkpoint(config, name="last"):
    return torch.load(run.run_directory(config) / f"checkpoints/{name}.ckpt", weights_only=True)


def assert_close(found, expected):
    assert found.keys() == expected.keys() and len(found) > 2
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)


def mean_at(evaluation, steps, kind):
    """The average by its definition."""
    if kind == "tail":
        kept = [steps[3], steps[5]][: max(0, evaluation)] or [steps[1]]
        return {name: torch.stack([one[name] for one in kept]).mean(0) for name in steps[0]}
    mean = dict(steps[0])
    for weights in steps[1 : 2 * evaluation + 2]:
        mean = {name: 0.75 * mean[name] + 0.25 * weights[name] for name in mean}
    return mean


@pytest.mark.parametrize("options", [EMA, TAIL], ids=["ema", "tail"])
@pytest.mark.parametrize("trained", [WHOLE, FROZEN], ids=["whole", "frozen"])
@pytest.mark.parametrize("recipe", ["stamps", "quickstart_narrow"])
def test_dev_recall_and_the_model_are_of_the_average(tiny_run, watched, recipe, trained, options):
    config = tiny_run(recipe, **LENGTH, **options, **trained)
    run.train(config)
    steps, evaluations = watched
    for number, found in enumerate(evaluations):
        assert_close(found, mean_at(number, steps, config.trainer.average.kind))
    stored = TrainedModel.load(run.run_directory(config) / "model").model.state_dict()
    final = {name: stored[name] for name in evaluations[-1]}
    assert_close(final, evaluations[-1])
    assert any(not torch.equal(final[name], steps[-1][name]) for name in final)
    last = checkpoint(config)["state_dict"]
    for name, tensor in steps[-1].items():
        assert torch.equal(last[f"model.{name}"], tensor), "training goes on from the weights themselves"


@pytest.mark.parametrize("options", [EMA, TAIL], ids=["ema", "tail"])
def test_training_itself_is_not_changed(tiny_run, tmp_path, options):
    runs = [tiny_run(runs_dir=str(tmp_path / str(n)), **LENGTH, **more) for n, more in enumerate(({}, options))]
    for config in runs:
        run.train(config)
    plain, averaged = (checkpoint(config) for config in runs)
    assert all(torch.equal(tensor, averaged["state_dict"][name]) for name, tensor in plain["state_dict"].items())
    assert "average" not in plain and not averaged_weights(plain)
    trained = {name.removeprefix("model.") for name in averaged["state_dict"] if name.startswith("model.")}
    assert set(averaged_weights(averaged)) <= trained, "frozen weights are in no checkpoint"


@pytest.mark.parametrize("options", [EMA, TAIL], ids=["ema", "tail"])
@pytest.mark.parametrize("stop", ["in an epoch", "in an evaluation"])
def test_an_interrupted_run_has_the_same_average(tiny_run, tmp_path, monkeypatch, options, stop):
    options = LENGTH | options | WHOLE | {"trainer__eval_every": 3, "trainer__save_every": 2}
    options |= {"trainer__steps": 9, "frontend__drop": 0.3}
    whole, cut = (tiny_run(runs_dir=str(tmp_path / name), **options) for name in ("whole", "cut"))
    run.train(whole)
    target, name, count = (LitDualEncoder, "training_step", 9) if stop == "in an epoch" else (DevRecall, "__call__", 3)
    real, calls = getattr(target, name), []

    def stopped(self, *args):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return real(self, *args)

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, SystemExit)):
        patch.setattr(target, name, stopped)
        run.train(cut)
    assert checkpoint(cut)["global_step"] == 8
    run.train(cut)
    for name in ("last", "best"):
        one, other = (checkpoint(config, name) for config in (whole, cut))
        assert one["average"]["updates"] == other["average"]["updates"]
        one, other = (each["average"]["weights"] for each in (one, other))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    one, other = (TrainedModel.load(run.run_directory(config) / "model").fingerprint for config in (whole, cut))
    assert one == other


def test_a_tail_that_has_not_begun_is_the_weights(tiny_run, watched):
    """The best checkpoint may be one of before."""
    config = tiny_run(**LENGTH, **TAIL)
    run.train(config)
    steps, evaluations = watched
    assert all(torch.equal(tensor, steps[1][name]) for name, tensor in evaluations[0].items())


def test_adapters_are_averaged(tiny_run, watched):
    config = tiny_run(model__lora={"rank": 2}, **LENGTH, **EMA)
    run.train(config)
    steps, evaluations = watched
    assert any("lora_" in name for name in steps[0])
    assert_close(evaluations[-1], mean_at(2, steps, "ema"))


def test_a_checkpoint_with_the_average_of_another_model_is_refused(tiny_run, monkeypatch):
    config = tiny_run(**LENGTH, **EMA)
    run.train(config)
    path = run.run_directory(config) / "checkpoints/last.ckpt"
    state = checkpoint(config)
    state["average"]["weights"].popitem()
    state["global_step"] = 4
    torch.save(state, path)
    (run.run_directory(config) / "results/metrics.json").unlink()  # or it would not be looked at again
    with pytest.raises(ConfigError, match="has an average of another model; delete the run directory"):
        run.train(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"average": {"kind": "swa"}}, r"trainer\.average\.kind: 'swa' is not known; allowed: ema, none, tail"),
        ({"average": {"decay": 1.0}}, r"trainer\.average\.decay=1\.0 is outside \(0, 1\)"),
        ({"average": {"last": 0}}, r"trainer\.average\.last=0 is outside"),
        ({"average": {"kind": "ema"}, "strategy": "fsdp"}, r"set trainer\.strategy=ddp, or average finished models"),
        (
            {"average": "ema"},
            r"trainer\.average='ema' is not a group of settings; set its keys: trainer\.average\.kind",
        ),
    ],
)
def test_settings_that_make_no_sense(values, message):
    with pytest.raises(ConfigError, match=message):
        build({"trainer": values})
