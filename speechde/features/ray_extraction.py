"""Work done by a pool of Ray actors, on one machine or a cluster, speech features first; needs the extra ``ray``.

The missing pieces of a store are the rows of a Ray dataset, and the actors map over them. Each loads the encoder once,
on a GPU of its own where the cluster has GPUs, and writes its pieces into the cache folder, which all machines must
share; only clip counts come back. A piece is encoded by the same function as without Ray. ``search.ray_embed`` has
actors of its own in such a pool.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from speechde.errors import AssetError, ConfigError, SpeechdeError
from speechde.features.encoders import SpeechEncoder
from speechde.features.frames import View, encode_pieces
from speechde.features.pieces import Job
from speechde.install import install_command
from speechde.types import Utterance


def encode_with_ray(
    load: Callable[[], SpeechEncoder], key: dict, workers: int, jobs: Sequence[Job], view: View
) -> Iterator[int]:
    """Make pieces with ``workers`` actors; yields the number of clips of each piece as it is done, in any order.

    Args:
        load: makes the encoder, in the actor.
        key: what ``describe`` must say of it.

    Raises:
        ConfigError, SpeechdeError: as ``in_actors``; pieces that were finished stay.
    """
    yield from in_actors(_Actor, (load, key, view), [_row(job) for job in jobs], workers, "frontend.ray_workers")


def in_actors(
    actor: type, arguments: tuple, rows: Sequence[dict[str, str]], workers: int, option: str
) -> Iterator[int]:
    """What ``workers`` actors answer to each row, in any order.

    Connects to the cluster that ``RAY_ADDRESS`` names, or that runs on this machine, else starts Ray here for the time
    being.

    Args:
        actor: a class of which each worker makes one object, with ``arguments``; it is called with a dict of arrays,
            one row long, and returns ``{"done": [number]}``.
        option: that asked for them, for messages.

    Raises:
        ConfigError: Ray is not installed, or the cluster has fewer GPUs (or, without any, processors) than workers.
        SpeechdeError: an actor failed; what was finished stays.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report each start to its makers
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(f"{option} needs Ray: {install_command('ray')}; or set it to 0") from error
    own = not ray.is_initialized()
    if own:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        gpus, processors = (int(ray.cluster_resources().get(name, 0)) for name in ("GPU", "CPU"))
        if workers > (gpus or processors):
            found = f"{gpus} GPUs" if gpus else f"{processors} processors"
            raise ConfigError(f"{option}={workers} is more than the {found} that Ray has; use at most that")
        ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts clips
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        done = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map_batches(
            actor,
            fn_constructor_args=arguments,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        try:
            for row in done.iter_rows():
                yield row["done"]
        except ray.exceptions.RayError as error:
            text = re.sub(r"\x1b\[\d+m", "", str(error)).strip()
            root = re.search(r"^[\w.]+(Error|Exception): .+", text, re.MULTILINE)  # traces begin with the cause
            cause = root[0] if root else text.splitlines()[-1]
            raise SpeechdeError(f"a Ray worker failed ({cause}); start again, finished pieces are kept") from error
    finally:
        if own:
            ray.shutdown()


class _Actor:
    def __init__(self, load: Callable[[], SpeechEncoder], key: dict, view: View) -> None:
        self.encoder, self.view = load(), view
        if self.encoder.describe() != key:
            raise AssetError(f"the encoder of this worker is {self.encoder.describe()}, that of the driver {key}; "
                             "start the run on a machine like the workers")  # fmt: skip

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[int]]:
        jobs = [
            Job(Path(folder), [Utterance(**values) for values in json.loads(clips)])
            for folder, clips in zip(batch["folder"], batch["clips"], strict=True)
        ]
        return {"done": [sum(encode_pieces(self.encoder, [job], self.view)) for job in jobs]}


def _row(job: Job) -> dict[str, str]:
    """A job as text, with paths that hold in an actor, whose working directory may be another."""
    clips = [asdict(replace(u, audio=os.path.join(os.getcwd(), u.audio))) for u in job.members]
    return {"folder": str(job.folder.absolute()), "clips": json.dumps(clips)}
