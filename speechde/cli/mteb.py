"""``speechde mteb RUN --tasks FleursA2TRetrieval.v2``: a trained model on tasks of mteb."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speechde.errors import AssetError, unknown_value
from speechde.install import install_command

EXAMPLES = ("speechde mteb runs/quickstart/default-s0 --tasks FleursA2TRetrieval.v2 --langs ro_ro --langs bg_bg",)


def mteb(
    run: Annotated[Path, typer.Argument(help="A run directory, or a model folder.")],
    tasks: Annotated[list[str], typer.Option(help="Name of a task; give the option once for each.")],
    langs: Annotated[list[str] | None, typer.Option(help="Subsets to keep, such as ro_ro; default: all.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where result files go; default: RUN/mteb.")] = None,
    batch_size: Annotated[int, typer.Option(help="Clips or texts read at once.")] = 32,
) -> None:
    """Run tasks of mteb on a trained model, write mteb's result files, and print the main scores."""
    try:
        from mteb import evaluate, get_task, get_tasks
        from mteb.cache import ResultCache

        from speechde.evaluation.mteb import MtebEncoder
    except ModuleNotFoundError as error:
        raise AssetError(f"{error}; install mteb with: {install_command('mteb')}") from error
    known = {task.metadata.name for task in get_tasks()}
    if unknown := [name for name in tasks if name not in known]:
        close = [name for name in known if unknown[0].casefold() in name.casefold()] or sorted(known)[:5]
        raise unknown_value("mteb task", unknown[0], close)
    folder = output or run / "mteb"
    chosen = [get_task(name, hf_subsets=langs) for name in tasks]
    results = evaluate(
        MtebEncoder(str(run)),
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
