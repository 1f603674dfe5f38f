"""A plan that is printed, once however many processes there are."""

from __future__ import annotations

from dataclasses import asdict

from pytorch_lightning.utilities import rank_zero_only

from speechde.config import RunConfig
from speechde.training.data import TrainingData, show
from speechde.training.plan.costs import streams
from speechde.training.plan.plan import Plan, format_plan, plan_run


def planned(config: RunConfig, data: TrainingData) -> Plan | None:
    """The plan of a run, printed; None on all processes but the first, and of runs on text alone, which have none."""
    if config.without_speech:
        steps = config.trainer.steps
        pairs = " or ".join(f"{size:,}" for size in dict.fromkeys(one.batch_size for one in streams(config)))
        sizes = ", ".join(f"{len(file):,} of {name}" for name, file in data.files.items())
        show(f"plan: {steps:,} steps × {pairs} pairs, of examples: {sizes}")
        return None
    plan = rank_zero_only(plan_run)(config, data.training, data.dev, data.whole, data.pairs)
    return plan and shown(plan)


def shown(plan: Plan) -> Plan:
    """A plan, printed."""
    show(format_plan(plan))
    return plan


def answer(plan: Plan | None) -> dict:
    """What a run that ends with its plan returns."""
    return {"plan": asdict(plan)} if plan else {}
