"""What a corpus holds: clips, hours, transcripts, repeats and losses, per language and split.

A repeat is a recording beyond the first of its transcript: it is one more query for the same gallery item at
evaluation, and a false negative inside a training batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from speechde.corpora.examples_file import FileExamples, clips_of, pair_name, pictures_of
from speechde.media.audio import duration
from speechde.progress import progress
from speechde.types import SPLITS, Corpus, Utterance


def durations(utterances: Iterable[Utterance]) -> dict[str, float]:
    """Seconds of each clip by id, as the corpus or else the header of its file states them; some may have neither."""
    utterances = list(utterances)
    found = {}
    with progress("headers", len(utterances), "clips") as advance:
        for u in utterances:
            if (seconds := duration(u.audio) if u.seconds is None else u.seconds) is not None:
                found[u.id] = seconds
            advance(1)
    return found


def corpus_statistics(corpus: Corpus, seconds: Mapping[str, float] | None = None) -> dict:
    """Counts of a corpus as plain JSON values.

    ``seconds`` maps utterance ids to durations; ``hours`` is null wherever one of its clips has none. Each row counts
    ``clips``, ``sentences`` (unique, whatever their language), ``transcripts`` (unique texts), ``duplicates`` (clips -
    transcripts), ``synthetic`` and ``hours``. The rows are ``languages[lang][split]`` (with ``role``),
    ``splits[split]`` and ``total``.
    """
    parts: dict[tuple[str, str], list[Utterance]] = {}
    for utterance in corpus.utterances:
        parts.setdefault((utterance.lang, utterance.split), []).append(utterance)
    languages: dict[str, dict] = {}
    roles = {lang: role for role, langs in corpus.roles.items() for lang in langs}
    for lang in dict.fromkeys([*roles, *sorted(lang for lang, _ in parts)]):
        languages[lang] = {"role": roles.get(lang, "none")}
        languages[lang] |= {split: _row(parts.get((lang, split), ()), seconds) for split in SPLITS}
    return {
        "name": corpus.name,
        "licence": corpus.licence,
        "languages": languages,
        "splits": {split: _row(corpus.select(split), seconds) for split in SPLITS},
        "total": _row(corpus.utterances, seconds),
        "dropped": corpus.dropped_counts(),
        "noted": corpus.noted_counts(),
    }


def examples_statistics(examples: FileExamples) -> dict:
    """Counts of a file of examples as plain JSON values.

    Each row of ``strata[stratum][split]``, ``splits[split]`` and ``total`` counts ``examples``, ``negatives`` (hard
    ones), ``duplicates`` (examples less different pairs of query and positive), different ``clips`` and ``pictures``,
    and examples by ``sources``.
    """
    parts: dict[tuple[str, str], list[tuple]] = {}
    for example, stratum, split in zip(examples, examples.strata, examples.splits, strict=True):
        files = tuple(clip for clip, _ in clips_of(example)), tuple(pictures_of(example))
        row = (pair_name(example), len(example.negatives), *files, example.source)
        parts.setdefault((stratum, split), []).append(row)
    strata = sorted({stratum for stratum, _ in parts})

    def counts(stratum: str | None, split: str | None) -> dict:
        rows = [row for (of, part), some in parts.items() if of == (of if stratum is None else stratum)
                and part == (part if split is None else split) for row in some]  # fmt: skip
        return {
            "examples": len(rows),
            "negatives": sum(negatives for _, negatives, *_ in rows),
            "duplicates": len(rows) - len({pair for pair, *_ in rows}),
            "clips": len({clip for _, _, clips, *_ in rows for clip in clips}),
            "pictures": len({picture for *_, pictures, _ in rows for picture in pictures}),
            "sources": dict(Counter(source for *_, source in rows)),
        }

    return {
        "name": examples.path.name,
        "strata": {stratum: {split: counts(stratum, split) for split in SPLITS} for stratum in strata},
        "splits": {split: counts(None, split) for split in SPLITS},
        "total": counts(None, None),
        "dropped": dict(Counter(dropped.reason for dropped in examples.dropped).most_common()),
    }


def format_examples(stats: dict) -> str:
    """The result of ``examples_statistics`` as a plain-text table."""
    head = ("stratum", "split", "sources", "examples", "negatives", "repeats", "clips", "pictures")
    rows = [(stratum or "-", split, *_example_cells(parts[split])) for stratum, parts in stats["strata"].items()
            for split in SPLITS if parts[split]["examples"]]  # fmt: skip
    rows += [("all", split, *_example_cells(row)) for split, row in stats["splits"].items()]
    rows.append(("all", "all", *_example_cells(stats["total"])))
    return "\n".join([stats["name"], *_table(head, rows, 3), f"dropped: {_listed(stats['dropped'])}"])


def _example_cells(row: dict) -> tuple[str, ...]:
    sources = ", ".join(f"{source or '-'} {count}" for source, count in row["sources"].items()) or "-"
    return sources, *(str(row[key]) for key in ("examples", "negatives", "duplicates", "clips", "pictures"))


def format_statistics(stats: dict) -> str:
    """The result of ``corpus_statistics`` as a plain-text table."""
    head = ("language", "role", "split", "clips", "sentences", "texts", "repeats", "synthetic", "hours")
    rows = [
        (lang, parts["role"], split, *_cells(parts[split]))
        for lang, parts in stats["languages"].items()
        for split in SPLITS
        if parts[split]["clips"]
    ]
    rows += [("all", "", split, *_cells(row)) for split, row in stats["splits"].items()]
    rows.append(("all", "", "all", *_cells(stats["total"])))
    asides = [f"dropped: {_listed(stats['dropped'])}"]
    if stats["noted"]:
        asides.append(f"used, but noted: {_listed(stats['noted'])}")
    licence = f" (licence {stats['licence']})" if stats["licence"] else ""
    return "\n".join([f"{stats['name']}{licence}", *_table(head, rows, 3), *asides])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], words: int) -> list[str]:
    """Aligned lines; the first ``words`` columns on the left, numbers on the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, tuple("-" * width for width in widths), *rows]
    ]
    return [line.rstrip() for line in lines]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {n}" for reason, n in counts.items()) or "nothing"


def _row(utterances: Iterable[Utterance], seconds: Mapping[str, float] | None) -> dict:
    utterances = list(utterances)
    transcripts = len({(u.lang, u.text) for u in utterances})
    known = seconds is not None and all(u.id in seconds for u in utterances)
    return {
        "clips": len(utterances),
        "sentences": len({u.sentence_id for u in utterances}),
        "transcripts": transcripts,
        "duplicates": len(utterances) - transcripts,
        "synthetic": sum(u.synthetic for u in utterances),
        "hours": sum(float(seconds[u.id]) for u in utterances) / 3600 if known else None,
    }


def _cells(row: dict) -> tuple[str, ...]:
    hours = "-" if row["hours"] is None else f"{row['hours']:.2f}"
    return *(str(row[key]) for key in ("clips", "sentences", "transcripts", "duplicates", "synthetic")), hours
