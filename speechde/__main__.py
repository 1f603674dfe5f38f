"""``python -m speechde``: the command, where the installed script is not on the path."""

from __future__ import annotations

from speechde.cli.main import entry

entry()
