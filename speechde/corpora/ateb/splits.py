"""Which rows train, choose a checkpoint, and test: fixed for everybody, so that no seed of a run moves a test row.

Where a set has splits they are kept. A dev split that it lacks is cut from train, and a set of one file is cut in
three, by a hash of each row's family (``Row.family``): twins, contrasts and answers to one question stay together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from speechde.corpora.ateb.rows import Row
from speechde.corpora.leaks import LATER
from speechde.types import SPLITS, Dropped

DEV_SHARE = 0.1  # of train, where a set has no dev split
OWN_SHARES = {"train": 0.5, "dev": 0.1, "test": 0.4}  # of a set of one file
WHOLE = "whole"  # the split of that file
_SEED = "speechde ateb 0"


@dataclass
class Rows:
    """Rows of a set by split, and what was left out."""

    splits: dict[str, list[Row]]
    dropped: list[Dropped] = field(default_factory=list)


def split_rows(found: Mapping[str, Sequence[Row]], elsewhere: Iterable[Row] = ()) -> Rows:
    """Rows by split, less repeats and leaks, which ``dropped`` lists.

    A row whose input and answers were there before is a repeat; one of train (of dev) whose input is in dev or test (in
    test), whatever its answers, is a leak, and so is one of a family there: another answer to one context.

    Args:
        found: rows by ``train``, ``dev``, ``test``, or ``WHOLE``.
        elsewhere: rows of other sets that are tested on too.
    """
    splits: dict[str, list[Row]] = {split: list(found.get(split, ())) for split in SPLITS}
    for row in found.get(WHOLE, ()):
        splits[_drawn(row, OWN_SHARES)].append(row)
    if not splits["dev"] and WHOLE not in found:
        whole, splits["train"] = splits["train"], []
        for row in whole:
            splits[_drawn(row, {"train": 1 - DEV_SHARE, "dev": DEV_SHARE})].append(row)
    out = Rows(splits)
    tested = list(elsewhere)
    for split in reversed(SPLITS):
        later = [*tested, *(row for other in LATER[split] for row in splits[other])] if split != "test" else []
        inputs, families = {row.asked for row in later}, {row.group for row in later if row.group}
        kept: dict[tuple, Row] = {}
        for row in splits[split]:
            if row.asked in inputs:
                out.dropped.append(Dropped(row.id, f"{split} input is in a later split"))
            elif row.group in families:
                out.dropped.append(Dropped(row.id, f"{split} row is of a family of a later split"))
            elif kept.setdefault((row.asked, frozenset(row.answers), row.part), row) is not row:
                out.dropped.append(Dropped(row.id, f"{split} row is a repeat"))
        splits[split] = list(kept.values())
    return out


def _drawn(row: Row, shares: Mapping[str, float]) -> str:
    """A split by the hash of the row's family."""
    digest = blake2b(f"{_SEED}\0{row.family}".encode(), digest_size=8).digest()
    place, end = int.from_bytes(digest, "little") / 2**64, 0.0
    for split, share in shares.items():
        end += share
        if place < end:
            return split
    return split
