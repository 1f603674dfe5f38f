"""A plan that is printed, once however many processes there are."""

from __future__ import annotations

from dataclasses import asdict

from pytorch_lightning.utilities import rank_zero_only

from speechde.config import RunConfig
from speechde.training.data import TrainingData, show
from speechde.training.plan.plan import Plan, format_plan, plan_run
from speechde.training.tasks import mixture, task_examples


def planned(config: RunConfig, data: TrainingData) -> Plan | None:
    """The plan of a run, printed; None on all processes but the first, and of runs on text alone, which have none."""
    if config.text_alone:
        steps = config.trainer.steps
        tasks = mixture(config, task_examples(config, (), data.pairs, data.files), steps=steps).tasks
        pairs = " or ".join(f"{size:,}" for size in dict.fromkeys(task.size for task in tasks))
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
