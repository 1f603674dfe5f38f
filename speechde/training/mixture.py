"""Which examples make a batch: a pure function of seed and step, so that a resumed run draws what it would have drawn.

A run trains on tasks; a batch holds examples of one, which is drawn by the tasks' rates. Within a task a batch holds
examples of one stratum, the language of its clips: with the language named in the prompt, clips of other languages are
trivial negatives, and a batch of them teaches little. And it holds fixed shares of the sources: recorded and synthetic
speech, translations.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from speechde.errors import ConfigError, DataError


class Row(NamedTuple):
    """One example of a batch: its task, its place in the examples of the task, and which version of it is read.

    ``bare``: without the prompts of its task.
    """

    task: int
    example: int
    view: int
    bare: bool = False


@dataclass(frozen=True)
class Share:
    """The part of each batch that examples of one source take; what has no share takes the rest.

    Args:
        fraction: 0 to 1.
        apart: that fraction of the batches is of this source alone, and the others have none of it. Texts to be read
            aloud differ in style from transcripts, so that in a batch of both, each kind is a trivial negative of the
            other.
        elsewhere: where the stratum of a batch has none of this source, another stratum gives its part.
    """

    fraction: float
    apart: bool = False
    elsewhere: bool = False


class Task:
    """A stream of training examples, and how a batch of it is drawn.

    Args:
        name: of messages.
        strata, sources: of each example.
        batch_size: examples a batch; a stratum with fewer gives smaller batches.
        rate: how often the task is drawn, relative to others.
        one_stratum: all examples of a batch share their stratum, but for those from elsewhere.
        exponent: strata are drawn with probability ∝ examples ** exponent (0 = all alike, 1 = as in the data).
        shares: by source.
        views: number of versions of each example that has no share (speeds of recorded clips), drawn alike.
        group: strata that together are drawn with probability ``group_share``, all others with the rest.
        bare: the share of the examples that are read without the prompts of the task.
        lengths: of each example, in any unit; None: not known.
        length_bins: parts of each stratum and source by length, of equal size, as many as leave enough for a batch; a
            batch is of one of them. Among sentences of 1 to 20 s the length alone gives most negatives away.

    Raises:
        ConfigError: a fraction is impossible, or a batch would be too small to compare anything.
        DataError: there is no example.
    """

    def __init__(
        self,
        name: str,
        strata: Sequence[str],
        sources: Sequence[str],
        *,
        batch_size: int,
        rate: float = 1.0,
        one_stratum: bool = True,
        exponent: float = 0.5,
        shares: Mapping[str, Share] | None = None,
        views: int = 1,
        group: Collection[str] = (),
        group_share: float = 0.0,
        bare: float = 0.0,
        lengths: Sequence[int] | None = None,
        length_bins: int = 1,
    ) -> None:
        shares = dict(shares or {})
        if batch_size < 2:
            raise ConfigError(f"{name}: batch_size={batch_size}; a contrastive batch needs at least 2 examples")
        for source, share in shares.items():
            if not 0 <= share.fraction <= 1:
                raise ConfigError(f"{name}: the share of {source} is {share.fraction}; it must be from 0 to 1")
        self.name, self.rate, self.views, self.one_stratum, self.bare = name, rate, views, one_stratum, bare
        strata, sources = np.asarray(strata, str), np.asarray(sources, str)
        self.length_bins = length_bins if lengths is not None else 1
        self._lengths = np.asarray(lengths if self.length_bins > 1 else (), np.int64)
        present = [str(source) for source in np.unique(sources)]
        beside = {source: shares.get(source, Share(0)).elsewhere for source in present}
        self._beside = {
            source: (_by_stratum(strata, sources == source), round(batch_size * shares[source].fraction))
            for source in present
            if beside[source]
        }
        self.size = batch_size - sum(count for _, count in self._beside.values())
        if self.size < 2:
            raise ConfigError(
                f"{name}: the shares of {', '.join(self._beside)} leave {self.size} of {batch_size} examples of a "
                "batch for the rest; leave at least 2"
            )
        self._shares = {source: share for source, share in shares.items() if source in present and not share.elsewhere}
        main = [source for source in present if not beside[source]]
        if not main:
            raise DataError(
                f"{name}: no training example; check data.seen, the train split, and what was left out above"
            )
        rest = np.isin(sources, [source for source in main if source not in self._shares])
        self._pools = {"": _by_stratum(strata, rest)}  # what has no share, first
        self._pools |= {source: _by_stratum(strata, sources == source) for source in self._shares}
        self.strata = sorted({stratum for pool in self._pools.values() for stratum in pool})
        counts = [sum(len(pool.get(s, ())) for pool in self._pools.values()) for s in self.strata]
        self.exponent, self.probabilities = exponent, _probabilities(counts, exponent)
        inside = np.isin(self.strata, list(group))
        if inside.any() and not inside.all():
            for part, share in ((inside, group_share), (~inside, 1 - group_share)):
                self.probabilities[part] *= share / self.probabilities[part].sum()

    def draw(self, rng: np.random.Generator) -> list[list[tuple[int, int]]]:
        """``(example, view)`` of a batch, in parts: first what comes of its strata, then what comes from elsewhere."""
        if self.one_stratum:
            sizes = {self.strata[int(rng.choice(len(self.probabilities), p=self.probabilities))]: self.size}
        else:
            drawn = rng.multinomial(self.size, self.probabilities)
            sizes = {stratum: int(size) for stratum, size in zip(self.strata, drawn, strict=True) if size}
        fractions = self._fractions(rng)
        chosen: list[tuple[int, int]] = []
        for stratum, size in sizes.items():
            point = rng.random() if self.length_bins > 1 else 0.0  # one for all sources: they are about as long
            for source, count in self._counts(stratum, size, fractions).items():
                pool = self._of_a_length(self._pools[source].get(stratum, _NONE), count, point)
                picked = rng.choice(pool, count, replace=False)
                views = 1 if source else self.views
                chosen += [(int(index), int(rng.integers(views))) for index in picked]
        beside = (self._from_elsewhere(rng, *part, list(sizes)) for part in self._beside.values())
        return [chosen, *beside]

    def _of_a_length(self, pool: np.ndarray, count: int, point: float) -> np.ndarray:
        """The bin of a pool at ``point``, from 0 for its shortest examples to 1, with ``count`` of them at least."""
        bins = min(self.length_bins, len(pool) // max(1, count))
        if bins < 2:
            return pool
        ordered = pool[np.argsort(self._lengths[pool], kind="stable")]
        return np.array_split(ordered, bins)[int(point * bins)]

    def _fractions(self, rng: np.random.Generator) -> dict[str, float]:
        """Of this batch: as configured, or all or nothing of the sources that are kept apart."""
        mixed = {source: share.fraction for source, share in self._shares.items() if not share.apart}
        fractions, below = dict(mixed), 0.0
        if apart := [source for source, share in self._shares.items() if share.apart]:
            point = rng.random()
            for source in apart:
                fraction = self._shares[source].fraction
                fractions[source] = float(below <= point < below + fraction)
                below += fraction
            if point < below:  # of that source alone
                fractions |= dict.fromkeys(mixed, 0.0)
        return fractions

    def _from_elsewhere(
        self, rng: np.random.Generator, pools: Mapping[str, np.ndarray], count: int, strata: list[str]
    ) -> list[tuple[int, int]]:
        """``count`` examples of the stratum of the batch where there are any, of a drawn one where there are none."""
        if not count:
            return []
        probabilities = _probabilities(map(len, pools.values()), self.exponent)
        if self.one_stratum:
            own = [stratum for stratum in strata if stratum in pools]
            taken = own[0] if own else list(pools)[int(rng.choice(len(pools), p=probabilities))]
            drawn = [count * (stratum == taken) for stratum in pools]
        else:
            drawn = rng.multinomial(count, probabilities)
        chosen = []
        for pool, size in zip(pools.values(), drawn, strict=True):
            picked = rng.choice(pool, min(int(size), len(pool)), replace=False)
            chosen += [(int(index), 0) for index in picked]
        return chosen

    def _counts(self, stratum: str, size: int, fractions: Mapping[str, float]) -> dict[str, int]:
        """How many of ``size`` examples of a stratum each source gives; ``""`` is what has no share."""
        pools = {source: len(pool.get(stratum, _NONE)) for source, pool in self._pools.items()}
        counts = {source: round(size * fractions[source]) if pools[source] else 0 for source in self._shares}
        rest = size - sum(counts.values())
        if not pools[""] and (others := [source for source in counts if pools[source]]):
            counts[others[0]] += rest
            rest = 0
        return {source: min(count, pools[source]) for source, count in {"": rest, **counts}.items()}

    def effective_epochs(self, steps: float, source: str = "") -> dict[str, float]:
        """Expected number of times each example of a source is drawn in ``steps`` of the task, by stratum.

        Exact for the exponent, the shares, one or several strata a batch, and strata smaller than their part of it. All
        examples of one source and stratum are drawn alike; strata without one are left out. ``""`` is what has no
        share. Examples from elsewhere are not counted.
        """
        epochs = {}
        for name, probability in zip(self.strata, self.probabilities, strict=True):
            examples = len(self._pools.get(source, {}).get(name, _NONE))
            if not examples:
                continue
            if self.one_stratum:
                drawn = probability * self._expected(name, self.size, source)
            else:  # the part of one stratum in a multinomial draw is binomial
                drawn = sum(
                    _binomial(size, self.size, probability) * self._expected(name, size, source)
                    for size in range(self.size + 1)
                )
            epochs[name] = float(steps * drawn / examples)
        return epochs

    def _expected(self, stratum: str, size: int, source: str) -> float:
        """``_counts`` on average over the kinds of batch."""
        mixed = {name: share.fraction for name, share in self._shares.items() if not share.apart}
        apart = {name: share.fraction for name, share in self._shares.items() if share.apart}
        kinds = [(fraction, {each: float(each == name) for each in self._shares}) for name, fraction in apart.items()]
        kinds.append((1 - sum(apart.values()), {**mixed, **dict.fromkeys(apart, 0.0)}))
        return sum(weight * self._counts(stratum, size, fractions)[source] for weight, fractions in kinds)


class Mixture(Sampler[list[Row]]):
    """The batches of one epoch of a fixed number of steps.

    Args:
        tasks: with their rates.
        steps: batches an epoch.
    """

    def __init__(self, tasks: Sequence[Task], *, steps: int, seed: int) -> None:
        if not tasks or not all(task.rate > 0 for task in tasks):
            rates = {task.name: task.rate for task in tasks}
            raise ConfigError(f"tasks with the rates {rates}: there must be a task, and every rate above 0")
        self.tasks, self.steps, self.seed = list(tasks), steps, seed
        rates = np.array([task.rate for task in tasks], float)
        self.probabilities = rates / rates.sum()
        self.first, self.rank, self.ranks, self.equal = 0, 0, 1, False

    def start(self, step: int, rank: int = 0, ranks: int = 1, equal: bool = False) -> None:
        """Choose what the next iteration draws: from global ``step`` to the end of its epoch, the part of a rank.

        With ``equal`` all ranks have as many examples as each other, which costs a batch at most ``ranks - 1`` of those
        of its strata, and as many of those from elsewhere.
        """
        self.first, self.rank, self.ranks, self.equal = step, rank, ranks, equal

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Row]]:
        end = (self.first // self.steps + 1) * self.steps
        for step in range(self.first, end):
            yield self.batch(step, self.rank, self.ranks, self.equal)

    def batch(self, step: int, rank: int = 0, ranks: int = 1, equal: bool = False) -> list[Row]:
        """The part of a rank of the batch of one global step: together the ranks have each example once.

        ``equal`` as in ``start``.

        Raises:
            DataError: a rank would have no example of the batch's stratum.
        """
        rng = np.random.default_rng([self.seed, step])
        number = int(rng.choice(len(self.tasks), p=self.probabilities)) if len(self.tasks) > 1 else 0
        first, *others = self.tasks[number].draw(rng)
        if len(first) < ranks:
            name = self.tasks[number].name
            raise DataError(
                f"a batch of {name} has {len(first)} examples for {ranks} processes: its language has no more; use "
                f"fewer processes, tasks.{name}.one_language=false, or leave the language out of data.seen"
            )
        rows = [[Row(number, *key) for key in part] for part in (first, *others)]
        if bare := self.tasks[number].bare:
            rows = [[row._replace(bare=bool(rng.random() < bare)) for row in part] for part in rows]
        if equal:
            rows = [part[: len(part) - len(part) % ranks] for part in rows]
        return [row for part in rows for row in part[rank::ranks]]

    def effective_epochs(self, total_steps: int, source: str = "") -> list[dict[str, float]]:
        """``Task.effective_epochs`` of each task in ``total_steps`` of the mixture."""
        shares = zip(self.tasks, self.probabilities, strict=True)
        return [task.effective_epochs(total_steps * share, source) for task, share in shares]


_NONE = np.empty(0, np.int64)


def _by_stratum(strata: np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Places of the chosen examples by stratum, in the order of the alphabet."""
    places = np.flatnonzero(chosen)
    names, which, counts = np.unique(strata[places], return_inverse=True, return_counts=True)
    pools = np.split(places[np.argsort(which, kind="stable")], np.cumsum(counts)[:-1])
    return dict(zip(map(str, names), pools, strict=False))


def _probabilities(counts: Iterable[int], exponent: float) -> np.ndarray:
    """Probabilities ∝ counts ** exponent."""
    weights = np.fromiter(counts, np.float64) ** exponent
    return weights / weights.sum()


def _binomial(k: int, n: int, p: float) -> float:
    """Probability of ``k`` successes in ``n`` trials, through logarithms: binomial coefficients overflow a float."""
    if p >= 1:
        return float(k == n)
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p))
