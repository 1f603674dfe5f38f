"""``speechde mteb RUN --tasks FleursA2TRetrieval.v2``: a trained model on tasks of mteb."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from speechde.cli.options import Dim
from speechde.errors import AssetError, ConfigError, unknown_value
from speechde.install import install_command

EXAMPLES = ("speechde mteb runs/quickstart/default-s0 --tasks FleursA2TRetrieval.v2 --langs ro_ro --langs bg_bg",)


def mteb(
    run: Annotated[Path, typer.Argument(help="A run directory, or a model folder.")],
    tasks: Annotated[list[str], typer.Option(help="Name of a task; give the option once for each.")],
    langs: Annotated[list[str] | None, typer.Option(help="Subsets to keep, such as ro_ro; default: all.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where result files go; default: RUN/mteb.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips or texts read at once.")] = 32,
    dim: Dim = None,
) -> None:
    """Run tasks of mteb on a trained model, write mteb's result files, and print the main scores."""
    try:
        from mteb import evaluate, get_task, get_tasks
        from mteb.cache import ResultCache

        from speechde.evaluation.mteb import MtebEncoder
    except ModuleNotFoundError as error:
        raise AssetError(f"{error}; install mteb with: {install_command('mteb')}") from error
    known = {task.metadata.name: task.metadata for task in get_tasks()}
    for name in tasks:
        if name not in known:
            raise ConfigError(
                f"mteb task: {name!r} is not known; the nearest of {len(known):,} are: "
                + ", ".join(nearest(name, known))
            )
        if unknown := [lang for lang in langs or () if lang not in known[name].hf_subsets]:
            raise unknown_value(f"subset of {name}", unknown[0], known[name].hf_subsets)
    folder = output or run / "mteb"
    chosen = [get_task(name, hf_subsets=langs) for name in tasks]
    results = evaluate(
        MtebEncoder(str(run), dim=dim),
        chosen,
        cache=ResultCache(folder),
        encode_kwargs={"batch_size": batch_size},
        show_progress_bar=False,
    )
    for result in results.task_results:
        print(
            f"{result.task_name}: {result.get_score():.4f} (mean of {get_task(result.task_name).metadata.main_score})"
        )
    print(f"results: {folder}")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to five names that are spelled nearly so, or have it as a part; upper case is not looked at."""
    plain = {other.casefold(): other for other in sorted(known)}
    part = [other for other in plain if name.casefold() in other]
    close = get_close_matches(name.casefold(), plain, n=5, cutoff=0.5)
    return [plain[other] for other in dict.fromkeys([*sorted(part, key=len), *close])][:5] or ["none"]
