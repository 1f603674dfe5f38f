"""The losses of the tiny recipes are those that they had before a run could have several tasks."""

from __future__ import annotations

import pytest

from speechde.features.windows import FORCED
from speechde.training import run
from speechde.training.lit_module import LitDualEncoder

LOSSES = {
    "stamps": [4.0690989, 3.7527938, 4.0021811, 3.7110720, 3.5763946, 4.5905995],
    "quickstart_narrow": [1.4720223, 1.4208158, 1.5475810, 1.4478993, 1.4335902, 1.4220896],
}


@pytest.mark.parametrize("recipe", LOSSES)
def test_first_losses(tiny_run, monkeypatch, recipe):
    """Clips at their own speed, and with noise: how a clip is made faster is not what this is about."""
    monkeypatch.setenv(FORCED, "0")
    real, losses = LitDualEncoder.training_step, []

    def step(self, batch, index):
        loss = real(self, batch, index)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(LitDualEncoder, "training_step", step)
    length = {"trainer__steps": 6, "trainer__eval_every": 6}
    run.train(tiny_run(recipe, frontend__speeds=[1.0], frontend__snrs=[10.0], **length))
    assert losses == pytest.approx(LOSSES[recipe], rel=1e-4)
