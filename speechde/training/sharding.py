"""Fully sharded training (FSDP2, ``torch.distributed.fsdp.fully_shard``): for an LLM that is trained and does not fit.

Every process holds a share of each weight, of its gradient and of the optimiser's state, and gathers the weights of one
layer at a time. The numbers are those of DDP up to rounding: gradients are averaged over the processes in both.
Checkpoints are gathered into the file that one process would write, so that any number of processes can go on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from speechde.models.dual_encoder import DualEncoder

ENTRIES = ("encode", "states")  # the ways in, since nothing calls forward


def shard(model: DualEncoder, mesh: DeviceMesh) -> DualEncoder:
    """Shard a model in place, layer by layer, and return a whole one that has the weights as they were.

    The whole one takes no memory of its own beyond those weights, and is where the trained weights are put in the end.
    """
    shared = {id(p): nn.Parameter(p.data, p.requires_grad) for p in model.parameters()}
    whole = deepcopy(model, shared)
    empty = {p for p in model.parameters() if not p.numel()}  # the audio rows of a continuous frontend
    # units of their own: the rest is freed when the backward pass has reached an input of it that has a gradient
    for unit in (*model.backbone.layers, *model.frontends.values(), model.projection):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=empty)
    for name in ENTRIES:
        register_fsdp_forward_method(model, name)
    return whole


def is_sharded(model: nn.Module) -> bool:
    """Whether every process has to take part when the model embeds something."""
    return isinstance(model, FSDPModule)


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor, gathered where it is sharded; every process has to take part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def average(parameters: list[nn.Parameter]) -> None:
    """Mean over the processes of the gradients of parameters that are not sharded."""
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def clip_gradients(parameters: list[nn.Parameter], norm: float) -> Tensor:
    """Clip sharded and whole gradients together to a total norm (0: not at all), and return the norm there was."""
    trained = [p for p in parameters if p.grad is not None]
    kinds = [[p for p in trained if isinstance(p.grad, DTensor) is kind] for kind in (True, False)]
    norms = [torch.nn.utils.get_total_norm([p.grad for p in kind]) for kind in kinds if kind]
    total = torch.stack([whole_tensor(one) for one in norms]).norm()
    for kind in kinds:
        if norm and kind:
            torch.nn.utils.clip_grads_with_norm_(kind, norm, total)
    return total


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with checkpoints of our own.

    Lightning numbers the optimiser's parameters by their order in the model, where an ordinary optimiser numbers them
    by their order in its groups: its checkpoints fit no run of one process with several groups, nor the reverse.
    """

    def __init__(self, processes: int, environment: ClusterEnvironment, timeout: timedelta) -> None:
        super().__init__(processes, 1, save_distributed_checkpoint=False, timeout=timeout)
        self.cluster_environment = environment

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole on the first process; without its tensors on the others, who only help to gather them."""
        state = getattr(optimizer, "optimizer", optimizer).state_dict()
        whole: dict[int, dict[str, Tensor]] = {}
        for number, values in state["state"].items():
            gathered = {name: whole_tensor(value) for name, value in values.items()}
            if self.is_global_zero:
                whole[number] = {name: value.cpu() for name, value in gathered.items()}
        return {**state, "state": whole}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The file, read by every process."""
        return torch.load(checkpoint_path, mmap=True, map_location="cpu", weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each process keeps its share."""
        own = self.model.state_dict()
        state = {name: _share(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.model.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each process keeps its share."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            numbers = [number for group in state["param_groups"] for number in group["params"]]
            for number, parameter in zip(numbers, parameters, strict=True):
                own = state["state"].get(number, {})
                own |= {name: _share(value, parameter) for name, value in own.items() if value.shape == parameter.shape}
            optimizer.load_state_dict(state)


def _share(whole: Tensor, like: Tensor | None) -> Tensor:
    """This process's share, sharded as ``like`` is."""
    return distribute_tensor(whole, like.device_mesh, like.placements) if isinstance(like, DTensor) else whole
