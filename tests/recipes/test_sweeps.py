"""Every point of every committed sweep composes, passes the typed configuration, and has a run directory of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from speechde.config import build

ROOT = Path(__file__).resolve().parents[2]
TUNE = "tune"  # its points are chosen while it runs
SWEEPS = sorted(path.stem for path in (ROOT / "conf/sweep").glob("*.yaml") if path.stem != TUNE)


def points(sweep):
    """The override lists that ``python train.py -m +sweep=NAME`` runs, as Hydra splits them."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = compose("config", [f"+sweep={sweep}"], return_hydra_config=True).hydra
    asked = [f"{key}={value}" for key, value in hydra.sweeper.params.items()]
    parsed = OverridesParser.create().parse_overrides([f"+sweep={sweep}", *asked])
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    return batch


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_point_composes(sweep):
    found = set()
    for overrides in points(sweep):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = compose("config", overrides, return_hydra_config=True)
        name, recipe = composed.hydra.job.override_dirname, composed.hydra.runtime.choices.recipe
        values = OmegaConf.to_container(composed, resolve=False)
        values.pop("hydra")
        config = build(values | {"recipe_name": recipe, "run_name": name})
        assert config.logger.group == f"sweep-{sweep}" and recipe.startswith("ablation")
        assert "sweep" not in name
        found.add((recipe, name, config.seed))
    assert len(found) == len(points(sweep))


def test_a_search_looks_at_dev_of_seen_languages_alone():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", [f"+sweep={TUNE}"], return_hydra_config=True)
    sweeper = composed.hydra.sweeper
    assert sweeper._target_.endswith("OptunaSweeper") and len(sweeper.params) == 5
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in sweeper.params.items()])
    assert all(override.is_sweep_override() for override in parsed)
    values = OmegaConf.to_container(composed, resolve=False)
    values.pop("hydra")
    config = build(values | {"recipe_name": "quickstart", "run_name": "default"})
    assert (config.eval.split, config.eval.languages, config.runs_dir) == ("dev", "seen", "runs/tune")
    assert config.trainer.steps % config.trainer.eval_every == 0


def test_points_are_what_the_sweeps_say():
    counts = {sweep: len(points(sweep)) for sweep in SWEEPS}
    assert counts["languages"] == 14 and counts["units"] == 5
    assert counts["base"] == counts["init"] == counts["frontend"] == 3
    assert counts["ateb_base"] == 12 and counts["ateb_answers"] == 4 and counts["ateb_arms"] == 8


def test_points_of_ateb_differ_from_their_base_alone():
    """Every point changes something of a point of the base, whose overrides are among its own."""
    names = {}
    for sweep in (sweep for sweep in SWEEPS if sweep.startswith("ateb_")):
        for overrides in points(sweep):
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                composed = compose("config", overrides, return_hydra_config=True)
            names.setdefault(sweep, set()).add(composed.hydra.job.override_dirname)
    base = names.pop("ateb_base")
    assert base == {f"ateb.task:{name}" for name in ("creak", "diasafety", "fever_symmetric", "xstest")}
    every = [name for some in names.values() for name in some]
    assert len(set(every)) == len(every) and all(any(own in name for own in base) for name in every)


def test_make_runs_every_sweep():
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    made = {line.partition(" := ")[0]: line.partition(" := ")[2].split() for line in lines if " := " in line}
    assert sorted(made["SWEEPS"] + made["ATEB"] + made["TRAINING"]) == SWEEPS
    assert all(name.startswith("ateb_") for name in made["ATEB"])
    assert all(name.startswith("training_") for name in made["TRAINING"])
    page = "".join((ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("sweeps", "ateb"))
    assert all(f"| `{sweep}` |" in page for sweep in SWEEPS)
