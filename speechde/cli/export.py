"""``speechde export MODEL --to sentence-transformers|onnx|hub``: a trained model for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechde.cli.options import Dim
from speechde.errors import ConfigError, unknown_value

if TYPE_CHECKING:
    from speechde.checkpoint.folder import TrainedModel

TARGETS = ("sentence-transformers", "onnx", "hub")
EXAMPLES = (
    "speechde export runs/quickstart/default-s0 --to sentence-transformers --out model",
    "speechde export runs/stamps/default-s0 --to onnx --out onnx",
    "speechde export M --to onnx --out small --dim 128",
    "speechde export runs/quickstart/default-s0 --to hub --repo org/name --private",
)


def export(
    model: Annotated[str, typer.Argument(help="Model folder, run directory, or hub id (org/name).")],
    to: Annotated[str, typer.Option("--to", help=f"One of {', '.join(TARGETS)}.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New folder; for all but hub.")] = None,
    repo: Annotated[str | None, typer.Option(help="For hub: org/name.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Of a new repository of the hub.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch of the hub's repository; default: the main one.")] = None,
    dim: Dim = None,
) -> None:
    """Write a trained model for another tool, or upload it.

    sentence-transformers: a whole model folder, which SentenceTransformer(FOLDER) loads after import speechde.

    onnx: text.onnx and speech.onnx, checked against onnxruntime, with tokenizer and prefixes.

    hub: the model folder with its card, as one commit. The token is HF_TOKEN's, or that of hf auth login.
    """
    if to not in TARGETS:
        raise unknown_value("--to", to, TARGETS)
    needed, given, stray = ("--repo", repo, out) if to == "hub" else ("--out", out, repo)
    if given is None or stray is not None:
        other = {"--repo": "--out", "--out": "--repo"}[needed]
        raise ConfigError(f"--to {to} needs {needed}" + (f", and has no {other}" if stray is not None else ""))
    from speechde.checkpoint.folder import TrainedModel, find_model

    folder = find_model(model)
    trained = TrainedModel.load(folder)
    _complete_card(trained, folder)
    trained = trained.cut_to(dim)
    if to == "hub":
        from speechde.api import SpeechTextEncoder

        print(SpeechTextEncoder(trained, "cpu").push_to_hub(repo, private=private or None, revision=revision))
    elif to == "onnx":
        from speechde.export.onnx import export_onnx

        for file, difference in export_onnx(trained, out).items():
            print(f"{out / file}: at most {difference:.1e} from PyTorch")
    else:
        trained.save(out)
        print(f'{out}: import speechde; SentenceTransformer("{out}")')


def _complete_card(trained: TrainedModel, folder: Path) -> None:
    """Folders of earlier versions have no card; the results of their run lie beside them."""
    from speechde.reporting.archive import METRICS, read_metrics

    results = folder.parent / "results" / METRICS
    if trained.card is None and results.is_file():
        from speechde.checkpoint.card import model_card

        trained.card = model_card(trained, read_metrics(results))
