"""What a corpus holds: clips, hours, transcripts, repeats and losses, per language and split.

A repeat is a recording beyond the first of its transcript: it is one more query for the same gallery item at
evaluation, and a false negative inside a training batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, tuple("-" * width for width in widths), *rows]
    ]
    asides = [f"dropped: {_listed(stats['dropped'])}"]
    if stats["noted"]:
        asides.append(f"used, but noted: {_listed(stats['noted'])}")
    licence = f" (licence {stats['licence']})" if stats["licence"] else ""
    return "\n".join([f"{stats['name']}{licence}", *(line.rstrip() for line in lines), *asides])


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
