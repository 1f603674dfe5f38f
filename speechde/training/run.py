"""One training run, end to end.

    corpus ─► items ─► feature extractor ─► frontend ─► one LLM ─► one vector ─► retrieval ─► report

The run directory, ``runs/<recipe>/<overrides>-s<seed>/``, is named by what was asked for and never by the clock, so a
run that was killed resumes where it stopped, and a finished one is not run again.
"""

from __future__ import annotations

import pytorch_lightning as pl

from speechde.config import RunConfig
from speechde.features.sets import build_encoder, build_vision
from speechde.progress import quiet_libraries
from speechde.provenance import set_numerics
from speechde.training import identity, launch, stage
from speechde.training.build import build_model
from speechde.training.data import read_data, show_corpus
from speechde.training.directory import run_directory
from speechde.training.finished import finished
from speechde.training.fit import train_model
from speechde.training.outcome import evaluate_run
from speechde.training.plan.plan import make_plan, save_plan, stated_sets
from speechde.training.plan.shown import answer, planned, shown
from speechde.training.prepare import encode_share, read_features, usable_data
from speechde.training.session import Session
from speechde.training.tasks import task_prompts


def train(config: RunConfig) -> dict:
    """Run everything and return ``metrics.json`` as a dict (see docs/protocol.md).

    A run that has all its results is not run again (see ``training.finished``). A plan is printed first; ``plan_only``
    stops there and returns ``{"plan": …}``. With ``frontend.shard`` only that share of the clips is encoded, and the
    dict is empty (see docs/scale.md); so it is on all processes but the first.
    """
    set_numerics(config)
    quiet_libraries()
    task_prompts(config)  # one that is none is refused before anything is read
    directory = run_directory(config)
    identity.refuse_started(config, directory)
    if done := finished(config, directory):
        return done
    pl.seed_everything(config.seed, verbose=False)
    if sizes := stated_sets(config):
        return answer(shown(make_plan(config, sizes)))
    session = Session(config, directory)
    launch.connect()
    with session.stage("fetch"):
        data = read_data(config, session.cache)
    show_corpus(data.corpus)
    plan = planned(config, data)
    if config.plan_only:
        return answer(plan)
    with session.stage("fetch"):
        encoder, vision = build_encoder(config.frontend), build_vision(config.image)
        initial = stage.initial_model(config, encoder, vision) if config.init else None
    if config.frontend.share:
        return encode_share(config, data, encoder, session.cache)
    with session.held():
        if plan is not None:
            save_plan(plan, directory / "plan.json")
        features = read_features(session, data, encoder, initial and initial.quantiser, vision)
        if initial:
            model = stage.next_model(config, initial, encoder, features, vision)
        else:
            model = build_model(config, encoder, features, vision)
        data = usable_data(data, features, config.trainer.max_seconds, model)
        best = train_model(session, data, features, model)
        return {} if best is None else evaluate_run(session, data, features, model, encoder, best)
