"""What all steps of a run know: its configuration, where it lies, how long it took, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pytorch_lightning.loggers import Logger

from speechde.cache import cache_root
from speechde.config import RunConfig
from speechde.provenance import Clock, check_writable, facts
from speechde.training import launch
from speechde.training.directory import locked
from speechde.training.recall import CutTexts
from speechde.training.tracking import build_loggers


@dataclass
class Session:
    """One start of a run. ``cut`` collects the texts that are longer than the model reads."""

    config: RunConfig
    directory: Path
    cut: CutTexts = field(default_factory=CutTexts)

    def __post_init__(self) -> None:
        self.facts, self.clock = facts(self.config), Clock(self.directory)
        self.cache = Path(self.config.cache_dir) if self.config.cache_dir else cache_root()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage that the first process does first, and whose result the others find in the cache."""
        with self.clock(name), launch.first_rank_first():
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else works on the run meanwhile, and what it will write can be written."""
        with locked(self.directory):
            check_writable(self.config.report_dir, self.config.archive_dir)
            yield

    @cached_property
    def loggers(self) -> list[Logger]:
        """A CSV and Weights & Biases, as asked for."""
        config = self.config
        name = f"{config.recipe_name}/{config.run_name}"
        return build_loggers(config.logger, self.directory, name, self.facts["config"])
