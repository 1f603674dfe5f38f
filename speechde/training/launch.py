"""Which processes train together, and what they wait for.

``torchrun`` and ``srun`` start the processes and decide how many there are; with plain ``python train.py`` Lightning
starts ``trainer.devices`` of them when training begins. Each process runs the whole of ``training.run``: what is made
before training (features, k-means, text states) is made by the first and read from the cache by the others, and what
comes after training is done by the first alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy

from speechde import distributed
from speechde.features.encoders import fast_dtype
from speechde.training.sharding import ShardedStrategy

PATIENCE = timedelta(days=7)  # the others wait while the first encodes a corpus


def cluster() -> ClusterEnvironment:
    """How this process was started. A batch script on SLURM without ``srun`` is one ordinary process."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if "SLURM_STEP_ID" in os.environ and SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def processes(devices: int) -> tuple[int, int]:
    """Processes on each machine, and machines; ``devices`` of one machine where no launcher decides."""
    environment = cluster()
    if not environment.creates_processes_externally or isinstance(environment, LightningEnvironment):
        return devices, 1
    world = environment.world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or world // int(os.environ.get("SLURM_NNODES", 1)))
    return local, world // local


def precision(requested: str) -> str:
    """``trainer.precision``, with ``auto`` decided by what is here."""
    if requested != "auto":
        return requested
    return "bf16-mixed" if fast_dtype() == torch.bfloat16 else "32-true"


def trainer_options(devices: int, strategy: str = "ddp") -> dict:
    """Arguments of Lightning's ``Trainer`` about processes; ``devices`` counts where no launcher decides.

    ``strategy`` is ``ddp`` or ``fsdp``; one process has no use for either.
    """
    environment = cluster()
    devices, nodes = processes(devices)
    if devices * nodes == 1:
        return {"devices": 1}
    if strategy == "fsdp":
        shared = ShardedStrategy(devices * nodes, environment, PATIENCE)
    else:
        # parameters that a rank leaves unused are no error: an LLM may have some that no embedding goes through
        shared = DDPStrategy(cluster_environment=environment, find_unused_parameters=True, timeout=PATIENCE)
    # the sampler gives every rank its part of a batch
    return {"devices": devices, "num_nodes": nodes, "strategy": shared, "use_distributed_sampler": False}


def connect() -> None:
    """Make the process group of ``torchrun`` or ``srun`` before training, so that ``first_rank_first`` can wait.

    Lightning goes on with it. Without either there is nothing to do: Lightning starts the other processes later.
    """
    environment = cluster()
    if isinstance(environment, LightningEnvironment) or environment.world_size() == 1 or dist.is_initialized():
        return
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(environment.local_rank())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, rank=environment.global_rank(), world_size=environment.world_size(), timeout=PATIENCE
    )


def disconnect() -> None:
    """End the process group; the evaluation is the first rank's alone."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def first_rank_first() -> Iterator[None]:
    """The first rank runs the block, then all others; they find in the cache what it made."""
    if distributed.rank() > 0:
        _wait()
    yield
    if distributed.active() and distributed.rank() == 0:
        _wait()


def _wait() -> None:
    dist.all_reduce(torch.zeros(1))  # of the CPU: dist.barrier would ask for a GPU where there are any
