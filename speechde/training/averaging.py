"""An average of the weights that training goes through, which is what is evaluated and kept in the end.

    ema     moves towards the weights after every step: mean ← decay · mean + (1 − decay) · weights
    tail    the mean of the weights at the last ``last`` dev evaluations, as they come; before these, the weights alone

Both are kept by ``torch.optim.swa_utils.AveragedModel``, here of the trained parameters alone: a frozen LLM is its own
mean, and a copy of it would cost its memory. Lightning's ``WeightAveraging`` copies the whole module with all that
hangs on it, and swaps weights around validation loops, of which this training has none. Of LoRA the mean is that of
its two factors.

Training itself goes on from the weights as they are; the average is beside them in every checkpoint (``KEY``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from speechde.config import AverageConfig
from speechde.errors import ConfigError

KEY = "average"  # of a checkpoint


class WeightAverage:
    """The average of a model's trained weights.

    Args:
        evaluations: how many dev evaluations the run has; the last is at its end.
    """

    def __init__(self, config: AverageConfig, evaluations: int) -> None:
        self.every_step = config.kind == "ema"
        self.first = max(0, evaluations - config.last)  # evaluation of the tail, from 0
        self.update_rule = get_ema_multi_avg_fn(config.decay) if self.every_step else get_swa_multi_avg_fn()
        self.trained = nn.ParameterList()  # those of the model itself
        self.names: dict[str, int] = {}  # a row of ``trained`` may go by two names: the text rows do
        self.average: AveragedModel | None = None
        self._stored: Mapping[str, Any] | None = None

    def start(self, model: nn.Module) -> None:
        """Begin with the weights of a model that is where it is trained, or go on from those of a checkpoint.

        Raises:
            ConfigError: the checkpoint has the average of another model.
        """
        named = {n: p for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
        rows = {parameter: row for row, parameter in enumerate(dict.fromkeys(named.values()))}
        self.names = {name: rows[parameter] for name, parameter in named.items()}
        self.trained = nn.ParameterList(rows)
        self.average = AveragedModel(self.trained, multi_avg_fn=self.update_rule)
        if (stored := self._stored) is None:
            return
        self._stored = None
        if stored["weights"].keys() != self.names.keys():
            raise ConfigError("the checkpoint has an average of another model; delete the run directory")
        self.average.n_averaged.fill_(stored["updates"])
        with torch.no_grad():
            for name, row in self.names.items():
                self.average.module[row].copy_(stored["weights"][name])

    def after_step(self) -> None:
        """Of the optimiser."""
        if self.every_step:
            self._update()

    def before_evaluation(self, number: int) -> None:
        """Of dev evaluation ``number``, from 0."""
        if not self.every_step and number >= self.first:
            self._update()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average for its weights, where there is one yet, and its own again afterwards."""
        if not self.average.n_averaged:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: ``weights`` by name, and of how many ``updates`` they are the average."""
        weights = {name: self.average.module[row].detach() for name, row in self.names.items()}
        return {"updates": int(self.average.n_averaged), "weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Taken over by ``start``: checkpoints are read before the model is where it is trained."""
        self._stored = state

    def _update(self) -> None:
        self.average.update_parameters(self.trained)

    @torch.no_grad()
    def _swap(self) -> None:
        for own, mean in zip(self.trained, self.average.module, strict=True):
            before = own.clone()
            own.copy_(mean)
            mean.copy_(before)


def averaged_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The average in a checkpoint by the names of the model's parameters; empty where there is none, or none yet."""
    average = checkpoint.get(KEY)
    return dict(average["weights"]) if average and average["updates"] else {}
