"""A module imports only from lower floors; who may know Lightning, W&B and Hydra; no file over 400 lines.

Read from the syntax tree, so that nothing is imported and an import inside a function counts like any other. Floors are
packages; the few modules of a package that belong elsewhere are listed by name, and the longest entry that fits
decides. On one floor packages do not import each other, so there is no circle of them. Functions over 60 lines, or with
more than 8 parameters, are listed by name with their reason.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 400
MAX_FUNCTION, MAX_PARAMETERS = 60, 8

FLOORS = {
    0: ["types", "errors", "languages", "install", "schema", "config", "overrides", "cache", "text", "progress",
        "conditions", "groups"],
    1: ["losses", "distributed", "evaluation.metrics", "media", "weights", "versions"],
    2: ["models", "corpora", "features"],
    3: ["checkpoint", "chunks", "provenance"],
    4: ["evaluation", "api"],
    5: ["reporting", "search.vectors", "search.index", "search.kinds", "search.mining", "search.items"],
    6: ["training", "search", "export", "demo", "evaluation.mteb", "scoring"],
    7: ["cli", "train", "evaluate", "hydra_plugins"],
    8: ["__main__"],
}  # fmt: skip
SAME_FLOOR = {
    ("train", "cli.compose"),  # what makes one line of Hydra's errors
    ("evaluate", "cli.compose"),
}
LIGHTNING = ["training"]
HYDRA = ["cli", "train", "evaluate", "hydra_plugins"]

FLOOR_OF = {entry: floor for floor, entries in FLOORS.items() for entry in entries}


def module_name(path: Path) -> str:
    """``speechde/models/pooling.py`` → ``models.pooling``; the root scripts are ``train`` and ``evaluate``."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts[1:] if parts[0] == "speechde" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, entries) -> bool:
    return any(module == entry or module.startswith(entry + ".") for entry in entries)


def floor_of(module: str) -> int | None:
    while module:
        if module in FLOOR_OF:
            return FLOOR_OF[module]
        module = module.rpartition(".")[0]
    return None


def imports(tree: ast.AST, module: str, package: bool) -> list[str]:
    """Dotted names of everything imported; ``from a import b`` gives ``a`` and ``a.b``, relative ones resolved."""
    out = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            out += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = ["speechde", *(module.split(".") if module else [])]
                here = here[: len(here) - node.level + package]
                base = ".".join([*here, *([node.module] if node.module else [])])
            out += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return out


ENTRIES = [ROOT / "train.py", ROOT / "evaluate.py", *sorted(ROOT.glob("hydra_plugins/**/*.py"))]
SOURCES = sorted(ROOT.glob("speechde/**/*.py")) + ENTRIES
MODULES = {module_name(path): path for path in SOURCES}


def violations(module: str, imported: list[str], known=frozenset(MODULES)) -> list[str]:
    """What ``module`` may not import, in words; ``known`` are the modules of the package."""
    out = []
    targets = {name.removeprefix("speechde.") for name in imported if name.startswith("speechde.")} & set(known)
    for target in sorted(targets - {module, ""}):
        if target in {m.rpartition(".")[0] for m in known} and any(t.startswith(target + ".") for t in targets):
            continue  # ``from speechde.evaluation import metrics`` means the module and not its package
        own, other = floor_of(module), floor_of(target)
        heads = module.split(".")[0], target.split(".")[0]
        if other > own:
            out.append(f"{module} (floor {own}) imports {target} (floor {other})")
        elif other == own and heads[0] != heads[1] and own > 0 and (module, target) not in SAME_FLOOR:
            out.append(f"{module} imports {target}, another sub-package on floor {own}")
    roots = {name.split(".")[0] for name in imported}
    if roots & {"pytorch_lightning", "lightning", "wandb"} and not within(module, LIGHTNING):
        out.append(f"{module} imports Lightning or W&B")
    if roots & {"hydra", "omegaconf"} and not within(module, HYDRA):
        out.append(f"{module} imports Hydra")
    return out


def test_every_module_has_a_floor():
    assert [m for m in MODULES if m and floor_of(m) is None] == []


def test_no_circle_of_packages():
    """Also not one whose modules lie on different floors, and not one of names of types."""
    edges: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = imports(tree, module, path.name == "__init__.py")
        found = {name.split(".")[1] for name in names if name.startswith("speechde.")}
        edges.setdefault(module.split(".")[0], set()).update(found - {module.split(".")[0]})
    try:
        list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from None


@pytest.mark.parametrize("module", [m for m in MODULES if m])
def test_imports(module):
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert violations(module, imports(tree, module, path.name == "__init__.py")) == []


def test_benchmarks_are_out_of_reach_of_training():
    """Their texts are evaluated on alone: SIB-200 holds the test sentences of FLEURS in all of its languages."""
    users = {
        module
        for module, path in MODULES.items()
        if "speechde.corpora.benchmarks" in imports(ast.parse(path.read_text(encoding="utf-8")), module, False)
    }
    assert users == {"evaluation.text", "corpora.load"}  # the latter for breadth, which tests on them


def test_no_file_is_too_long():
    files = [p for folder in ("speechde", "tests", "benchmarks") for p in (ROOT / folder).glob("**/*.py")]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in files + SOURCES}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_allowed_exceptions_are_still_needed():
    for module, target in SAME_FLOOR:
        assert module in MODULES, f"{module} is gone; drop it from SAME_FLOOR"
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        assert f"speechde.{target}" in imports(tree, module, False), f"{module} no longer imports {target}"


# why a function is long, or takes many settings
LONG = {"training.fit.fit": "the arguments of Lightning's trainer, one a line"}
MANY = {
    "api.SpeechTextEncoder.encode_speech": "what callers may say of clips, each with its default",
    "chunks.in_chunks": "the options of all encode methods, handed on",
    "cli.contact_sheet.contact_sheet": "options of a command",
    "cli.data.manifest": "options of a command",
    "cli.data.stats": "options of a command",
    "cli.demo.demo": "options of a command",
    "cli.embed.embed": "options of a command",
    "cli.evaluate_parts.evaluate_parts": "options of a command",
    "cli.evaluate_text.evaluate_text": "options of a command",
    "cli.mine.mine": "options of a command",
    "cli.negatives.negatives": "options of a command",
    "cli.search.search": "options of a command",
    "corpora.bitext.read_bitext": "filters, each with its default",
    "corpora.breadth.breadth_corpus": "sizes and sources of the corpus, each with its default",
    "models.backbone.Backbone.load": "settings of an LLM, each with its default",
    "models.frontends.frames.ContinuousFrontend.__init__": "settings of an adapter, each with its default",
    "models.frontends.patches.PatchFrontend.__init__": "settings of an adapter, each with its default",
    "models.frontends.units.UnitFrontend.__init__": "settings of an adapter, each with its default",
    "models.prompt.Prompt.__init__": "templates and limits of what goes before items, each with its default",
    "search.embed.embed_items": "what is asked of a job, each with its default",
    "training.lit_module.LitDualEncoder.__init__": "settings of the optimiser, each by its name",
    "training.mixture.Task.__init__": "settings of a task, each with its default",
}


def functions(tree: ast.AST, prefix: str):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield f"{prefix}.{node.name}", node
            yield from functions(node, f"{prefix}.{node.name}")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}.{node.name}")


def test_long_functions_have_a_reason():
    long, many = set(), set()
    for module, path in MODULES.items():
        for name, node in functions(ast.parse(path.read_text(encoding="utf-8")), module):
            documented = node.body[0] if ast.get_docstring(node) else None
            lines = documented.end_lineno - documented.lineno + 1 if documented else 0
            if node.end_lineno - node.lineno + 1 - lines > MAX_FUNCTION:
                long.add(name)
            arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if len([a for a in arguments if a not in ("self", "cls")]) > MAX_PARAMETERS:
                many.add(name)
    assert long == LONG.keys() and many == MANY.keys()


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("speechde.corpora.manifest", {"torch", "sacrebleu", "transformers"}),
        ("speechde.scoring", {"pytorch_lightning", "wandb", "hydra"}),
        ("speechde.api", {"pytorch_lightning", "wandb", "hydra", "sacrebleu"}),
    ],
)
def test_what_importing_loads(module, unneeded):
    code = f"import sys, {module}; print(*sorted({unneeded!r} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("types", "from speechde.losses.contrastive import ContrastiveLoss", 1),
        ("losses.contrastive", "from speechde.losses.spread_out import spread_out", 0),
        ("losses.contrastive", "def f():\n    import speechde.models.backbone", 1),
        ("losses.contrastive", "from ..models.backbone import Backbone", 1),
        ("losses.contrastive", "from .spread_out import spread_out", 0),
        ("losses.contrastive", "from speechde.models import backbone", 1),
        ("models.dual_encoder", "from speechde.models.frontends.base import compact", 0),
        ("features.units", "from speechde.models.frontends.base import compact", 1),
        ("corpora.manifest", "from speechde.models.pooling import mean_pool", 1),
        ("corpora.manifest", "from speechde.evaluation import metrics", 0),
        ("corpora.manifest", "from speechde.reporting import report", 1),
        ("models.backbone", "import pytorch_lightning as pl", 1),
        ("training.optim", "import pytorch_lightning as pl", 0),
        ("evaluation.report", "from omegaconf import OmegaConf", 1),
        ("training.build", "from speechde.checkpoint.folder import TrainedModel", 0),
        ("training.recall", "from speechde.evaluation.metrics import ranks", 0),
        ("training.run", "from speechde.evaluation.run import evaluate_model", 0),
        ("training.run", "import hydra", 1),
        ("evaluation.run", "from speechde.checkpoint.folder import TrainedModel", 0),
        ("evaluation.run", "from speechde.training.build import build_model", 1),
        ("evaluation.run", "import wandb", 1),
        ("checkpoint.folder", "from speechde.reporting.report import markdown", 1),
        ("config", "from omegaconf import OmegaConf", 1),
        ("config", "from speechde.corpora.manifest import read_manifest", 1),
        ("train", "import hydra", 0),
    ],
)
def test_the_check_itself(module, source, count):
    known = frozenset(MODULES) | {"train", "training.optim", "evaluation.report"}
    assert len(violations(module, imports(ast.parse(source), module, False), known)) == count
