"""``override /hydra/sweeper: speechde_optuna``: a multirun whose points Optuna chooses (``conf/sweep/tune.yaml``).

Hydra accepts sweepers from the package ``hydra_plugins`` alone and imports this module at every start, so what is heavy
is imported in :meth:`OptunaSweeper.sweep`. hydra-optuna-sweeper, which does the same, needs Optuna 2 and counts its
trials anew whenever it is started; what is searched is written as there (``interval``, ``choice``, ``range``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

SETTINGS = {
    "_target_": "hydra_plugins.speechde_optuna.OptunaSweeper",
    "trials": 20,  # finished ones, over all starts
    "seed": 0,  # of the sampler
    "params": {},  # what is searched, as overrides
}
ConfigStore.instance().store(group="hydra/sweeper", name="speechde_optuna", node=SETTINGS)


class OptunaSweeper(Sweeper):
    """See the module."""

    def __init__(self, trials: int, seed: int, params: Mapping[str, str]) -> None:
        self.trials, self.seed, self.params = trials, seed, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra asks for."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run or resume the study, and write its table beside it."""
        from speechde.errors import AssetError, SpeechdeError
        from speechde.install import install_command

        try:
            try:
                import optuna  # noqa: F401
            except ModuleNotFoundError as error:
                raise AssetError(f"{error}; a search needs Optuna: {install_command('optuna')}") from error
            self._search(arguments)
        except SpeechdeError as error:
            sys.exit(f"error: {error}")

    def _search(self, arguments: list[str]) -> None:
        from speechde.cache import atomic_write, fingerprint
        from speechde.training.identity import asked
        from speechde.training.tuning import run_study, study_page

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        asked_for = [f"{key}={value}" for key, value in self.params.items()]
        overrides = {each.get_key_element(): each for each in parser.parse_overrides([*asked_for, *arguments])}
        space = {key: _distribution(each) for key, each in overrides.items() if each.is_sweep_override()}
        fixed = [f"{key}={each.get_value_element_as_str()}" for key, each in overrides.items() if key not in space]

        def objective(settings: Mapping[str, str]) -> float | None:
            job = [*fixed, *(f"{key}={value}" for key, value in settings.items())]
            (done,) = self.launcher.launch([job], initial_job_idx=0)
            return done.return_value

        recipe = self.config.hydra.runtime.choices.recipe
        settings = OmegaConf.to_container(self.config, resolve=False)
        settings.pop("hydra")
        found = {key: str(distribution) for key, distribution in space.items()}
        name = f"{recipe}-{fingerprint({'config': asked(settings), 'space': found, 'seed': self.seed})}"
        path = Path(self.config.runs_dir) / f"{name}.db"
        page = study_page(run_study(path, space, self.trials, self.seed, objective), f"python train.py recipe={recipe}")
        with atomic_write(path.with_suffix(".md")) as temporary:
            temporary.write_text(page, encoding="utf-8")
        print(f"{page}\nsearch: {path.with_suffix('.md')}")


def _distribution(override: Override):
    """Optuna's distribution of a sweep override: ``interval`` (log with ``tag(log,…)``), or a choice of values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if override.is_discrete_sweep():
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    value = override.value()
    whole = isinstance(value.start, int) and isinstance(value.end, int)  # int(interval(1,4))
    return (IntDistribution if whole else FloatDistribution)(value.start, value.end, log="log" in value.tags)
