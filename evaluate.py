"""Evaluate a trained model.

    python evaluate.py checkpoint=runs/quickstart/default-s0/model data=manifest data.path=clips.tsv

``checkpoint`` is a model folder, or a run directory that holds one. Other keys are those of train.py.
"""

from dataclasses import asdict
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from speechde.cache import expanded
from speechde.cli.compose import one_line_errors, start
from speechde.config import RunConfig, build
from speechde.errors import ConfigError

# every key exists in the composed configuration, so that any can be set without Hydra's "+"
ConfigStore.instance().store("schema", asdict(RunConfig()))


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(composed: DictConfig) -> None:
    """Compose, check, evaluate, write ``results/`` beside the model (or into ``report_dir``)."""
    with one_line_errors():
        values = OmegaConf.to_container(composed, resolve=True)
        checkpoint = values.pop("checkpoint")
        if not checkpoint:
            raise ConfigError("checkpoint is not set; give checkpoint=runs/…/model")
        config = build(values)
        from speechde.scoring import evaluate  # takes seconds, which a typo should not cost

        evaluate(config, expanded(checkpoint))


if __name__ == "__main__":
    start(main, Path(__file__).with_name("conf"), groups=("data", "eval"), strings=("checkpoint",))
