"""Messages name the value, the allowed set and the fix; entry points can catch one base."""

from __future__ import annotations

import doctest

import pytest

from speechde import errors
from speechde.errors import AssetError, ConfigError, DataError, SpeechdeError, unknown_value


@pytest.mark.parametrize(
    ("error", "builtin"), [(ConfigError, ValueError), (DataError, ValueError), (AssetError, RuntimeError)]
)
def test_bases(error, builtin):
    assert issubclass(error, SpeechdeError) and issubclass(error, builtin)


def test_unknown_value_names_value_allowed_set_hint_and_fix():
    error = unknown_value("data.split", "tset", {"train", "test", "dev"}, fix="Set data.split=test.")
    assert isinstance(error, ConfigError)
    assert str(error) == (
        "data.split: 'tset' is not known; allowed: dev, test, train. Did you mean 'test'? Set data.split=test."
    )


def test_unknown_value_without_a_near_one_or_of_another_type():
    assert str(unknown_value("a.b", "zzz", ["mean"])) == "a.b: 'zzz' is not known; allowed: mean."
    assert str(unknown_value("a.b", 7, (1, 2))) == "a.b: 7 is not known; allowed: 1, 2."
    assert str(unknown_value("a.b", None, [])).startswith("a.b: None is not known")


def test_doctest():
    assert doctest.testmod(errors) == doctest.TestResults(failed=0, attempted=1)
