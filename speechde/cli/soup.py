"""``speechde soup A B C --out M``: one model whose weights are the mean of those of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speechde.errors import ConfigError

EXAMPLES = (
    "speechde soup runs/finetune/a-s0 runs/finetune/b-s0 runs/finetune/c-s0 --out soup",
    "speechde soup A B C --weights 2,1,1 --out soup",
)


def soup(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Model folders, run directories, or hub ids (org/name).")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New model folder.")],
    weights: Annotated[str | None, typer.Option(help="One for each model, such as 2,1,1; default: all alike.")] = None,
) -> None:
    """Average the weights of trained models into a new model folder.

    The models have to be of one architecture, with equal settings, units and frame statistics; the first difference is
    named otherwise. It makes sense for models that were trained from the same one. The record and the card of the new
    folder name each model, its fingerprint and its weight.
    """
    from speechde.checkpoint.folder import check_free
    from speechde.checkpoint.soup import make_soup
    from speechde.progress import quiet_libraries
    from speechde.provenance import commit

    check_free(out)  # before the models are read
    quiet_libraries()
    made = make_soup(models, _numbers(weights), commit())
    made.save(out)
    print(f"{out}: the mean of {len(models)} models, {made.fingerprint}")


def _numbers(weights: str | None) -> list[float] | None:
    if weights is None:
        return None
    try:
        return [float(number) for number in weights.split(",")]
    except ValueError as error:
        raise ConfigError(f"--weights: {weights!r} is no list of numbers; write --weights 2,1,1") from error
