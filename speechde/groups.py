"""Rows that are one by what they share, directly or by way of others."""

from __future__ import annotations

from collections.abc import Hashable, Iterable


def joined(rows: Iterable[Iterable[Hashable]]) -> list[int]:
    """The number of the first row of each row's group; rows that share a key are in one, as union-find says.

    >>> joined([["a"], ["b", "c"], ["c"], ["d", "a"]])
    [0, 1, 1, 0]
    """
    first: dict[Hashable, int] = {}
    parents: list[int] = []

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    for number, keys in enumerate(rows):
        parents.append(number)
        for key in keys:
            one, other = sorted((root(number), root(first.setdefault(key, number))))
            parents[other] = one
    return [root(number) for number in range(len(parents))]
