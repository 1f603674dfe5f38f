"""Overrides on the command line: unknown keys are refused with those that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechde.errors import ConfigError
from speechde.overrides import check_overrides

GROUPS = [path.parent.name for path in Path(__file__).resolve().parents[2].glob("conf/*/*.yaml")]


@pytest.mark.parametrize(
    "argument",
    ["seed=3", "model.dim=8", "data.synthetic.share=0.5", "recipe=anything", "debug=smoke", "--help", "-m",
     "hydra.verbose=true", "+model.new=1", "data=manifest", "model.prefix.mode=none", "--config-name=x",
     "data@adapt.old=fleurs", "adapt.old=null", "adapt.old.path=x.tsv"],
)  # fmt: skip
def test_overrides_that_pass(argument):
    check_overrides([argument])


@pytest.mark.parametrize("group", sorted(set(GROUPS)))
def test_every_config_group_may_be_named(group):
    check_overrides([f"{group}=something"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sead=3", r"config key of the run: 'sead' is not known; allowed: .*recipe.*Did you mean 'seed'"),
        ("trainer.step=3", r"config key trainer: 'step' is not known; allowed: .*steps.*Did you mean 'steps'"),
        ("trainr.steps=3", r"config key of the run: 'trainr'.*Did you mean 'trainer'"),
        ("data.synthetic.shares=1", r"config key data\.synthetic: 'shares'"),
        ("adapt.old.paths=x", r"config key adapt\.old: 'paths' is not known; .*Did you mean 'path'"),
        ("seed.value=3", r"seed is a single value and has no key 'value'"),
    ],
)
def test_overrides_that_are_refused(argument, message):
    with pytest.raises(ConfigError, match=message):
        check_overrides(["recipe=quickstart", argument])
