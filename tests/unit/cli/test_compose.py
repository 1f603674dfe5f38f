"""How ``train.py`` and ``evaluate.py`` end: inner and outer contexts, as Hydra's function has one of its own."""

from __future__ import annotations

import sys

import pytest

from speechde.cli.compose import GOES_ON, one_line_errors
from speechde.errors import INTERRUPTED, TERMINATED


class SIGTERMException(SystemExit):
    """As Lightning's, without a code."""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
        (SystemExit(TERMINATED), TERMINATED, "ended by SIGTERM"),
        (SIGTERMException(), TERMINATED, "ended by SIGTERM"),
    ],
)
def test_a_signal_is_said_once(capsys, end, code, said):
    with pytest.raises(SystemExit) as stopped, one_line_errors(), one_line_errors():
        raise end
    assert stopped.value.code == code and capsys.readouterr().err == f"{said}; {GOES_ON}\n"


def test_another_end_is_left_alone(capsys):
    with pytest.raises(SystemExit) as stopped, one_line_errors():
        sys.exit(3)
    assert stopped.value.code == 3 and not capsys.readouterr().err
