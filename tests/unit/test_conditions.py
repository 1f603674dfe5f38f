"""Names of conditions, in a configuration and on the command line."""

from __future__ import annotations

import pytest

from speechde.conditions import CLEAN, Condition, parse
from speechde.config import build
from speechde.errors import ConfigError

NAMES = ["clean", "snr20", "snr-5", "snr2.5", "ssn0", "telephone", "speed0.8", "speed1.2", "speed2"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_and_written_alike(name):
    assert parse(name).name == name


def test_what_is_one_condition_has_one_name():
    assert parse("snr20.0") == Condition("snr", 20.0) and parse("snr-0").name == "snr0"
    assert build({"eval": {"conditions": ["snr5", "clean", "snr5.0"]}}).eval.degraded == [Condition("snr", 5.0)]


@pytest.mark.parametrize(
    "name", ["", "noise", "snr", "snr61", "snr-31", "snr1e1", "snrnan", "speed", "speed0", "speed0.4", "speed2.1",
             "speed0.805", "speed-1", "telephone8", "clean1", "SNR10", "snr 10", "snr10,snr5", "babble10"]
)  # fmt: skip
def test_others_are_refused_with_those_that_are_allowed(name):
    with pytest.raises(ConfigError, match=r"eval\.conditions: .* is not known; allowed: clean, snrN .*speedX .*teleph"):
        build({"eval": {"conditions": [name]}})


def test_clean_alone_is_the_default():
    config = build({})
    assert config.eval.conditions == [CLEAN.name] and config.eval.degraded == []


def test_on_the_command_line(recipe_values):
    values = recipe_values("quickstart", f"eval.conditions=[{','.join(NAMES)}]")
    assert build(values).eval.conditions == NAMES
