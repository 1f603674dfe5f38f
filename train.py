"""Train and evaluate a recipe: ``python train.py recipe=quickstart [key=value …]``; ``--help`` lists the groups."""

from dataclasses import asdict
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from speechde.cli.compose import one_line_errors, start
from speechde.config import RunConfig, build
from speechde.errors import SpeechdeError

# every key exists in the composed configuration, so that any can be set without Hydra's "+"
ConfigStore.instance().store("schema", asdict(RunConfig()))


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> float | None:
    """Compose, check, run; returns the dev R@1 (what a sweep optimises), or None after a plan or features alone."""
    with one_line_errors():
        values = OmegaConf.to_container(composed, resolve=True)
        values["run_name"] = values["run_name"] or "default"
        if not values["recipe_name"]:
            raise SpeechdeError("no recipe was named; add recipe=NAME, e.g. recipe=quickstart (--help lists them)")
        if values["init"] is not None:
            from speechde.training.stage import inherit

            values = inherit(values)
        config = build(values)
        from speechde.training.run import train  # takes seconds, which a typo should not cost

        return train(config).get("dev_recall@1")


if __name__ == "__main__":
    start(main, Path(__file__).with_name("conf"))
