"""Evaluate a trained model.

    python evaluate.py checkpoint=runs/quickstart/default-s0/model data=manifest data.path=clips.tsv

``checkpoint`` is a model folder, or a run directory that holds one. Other keys are those of train.py.
"""

import sys
from dataclasses import asdict
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from speechde.config import RunConfig, build
from speechde.errors import ConfigError, SpeechdeError
from speechde.overrides import check_overrides

# every key exists in the composed configuration, so that any can be set without Hydra's "+"
ConfigStore.instance().store("schema", asdict(RunConfig()))


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(composed: DictConfig) -> None:
    """Compose, check, evaluate, write ``results/`` beside the model (or into ``report_dir``)."""
    from speechde.training.run import evaluate

    values = OmegaConf.to_container(composed, resolve=True)
    checkpoint = values.pop("checkpoint")
    try:
        if not checkpoint:
            raise ConfigError("checkpoint is not set; give checkpoint=runs/…/model")
        evaluate(build(values), Path(checkpoint))
    except SpeechdeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    try:
        check_overrides([a for a in sys.argv[1:] if not a.startswith("checkpoint=")])
    except SpeechdeError as error:
        sys.exit(f"error: {error}")
    main()
