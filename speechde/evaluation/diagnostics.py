"""What the scores do not show: the geometry of the embeddings, and where a run fails (``docs/protocol.md``).

- *Modality gap* (Liang et al. 2022): distance between the mean speech and the mean text vector.
- *Alignment* and *uniformity* (Wang and Isola 2020): mean squared distance of a recording to its transcript, and the
  log mean Gaussian potential of all pairs of different vectors; lower is better in both.
- *Hubness* (Radovanović et al. 2010): skewness of how often each transcript is among the ten nearest of a recording;
  0 is even, far above it a few transcripts are near everything.
- *xsim* (Artetxe and Schwenk 2019; LASER): error rate of retrieval by margin, the cosine of a pair against the mean
  cosine of each to its nearest on the other side. Far below the error rate of plain retrieval, hubs are to blame.
- Recall@1 by clip length, in quarters of each language's clips; and the worst queries with what they retrieved.

All vectors are scaled to unit length. No score matrix larger than ``BLOCK * BLOCK`` (or one row) is held.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from speechde.evaluation.metrics import BLOCK, TIE
from speechde.evaluation.retrieval import DOCUMENT, QUERY, Remembered, Results, Retrieval
from speechde.evaluation.speech import ROLES

HUB_K = 10
MARGIN_K = 4  # neighbours in a margin, as in LASER
WORST = 10
SCALARS = ("modality_gap", "alignment", "uniformity_speech", "uniformity_text", "hubness", "xsim")


def modality_gap(speech: np.ndarray, text: np.ndarray) -> float:
    """Distance between the means of ``speech (n, dim)`` and ``text (m, dim)``; 0 to 2."""
    return float(np.linalg.norm(unit(speech).mean(axis=0) - unit(text).mean(axis=0)))


def alignment(speech: np.ndarray, text: np.ndarray) -> float:
    """Mean squared distance between the rows of ``speech (n, dim)`` and ``text (n, dim)``; 0 to 4."""
    return float(((unit(speech) - unit(text)) ** 2).sum(axis=1).mean())


def uniformity(vectors: np.ndarray) -> float | None:
    """Log of the mean of ``exp(-2 |x - y|²)`` over pairs of rows of ``vectors (n, dim)``; −8 to 0, None of one row."""
    vectors, total = unit(vectors), 0.0
    if len(vectors) < 2:
        return None
    for part in _parts(len(vectors), len(vectors)):
        total += float(np.exp(4 * (vectors[part] @ vectors.T) - 4, dtype=np.float64).sum())
    # The diagonal is one each.
    return float(np.log(max(total - len(vectors), np.finfo(float).tiny) / (len(vectors) * (len(vectors) - 1))))


def hubness(queries: np.ndarray, gallery: np.ndarray, k: int = HUB_K) -> float | None:
    """Skewness of the number of ``queries (n, dim)`` that have each item of ``gallery (m, dim)`` among their ``k``
    nearest; None where it cannot vary (``k`` items or fewer, or all alike)."""
    queries, gallery = unit(queries), unit(gallery)
    if len(gallery) <= k:
        return None
    times = np.zeros(len(gallery))
    for part in _parts(len(queries), len(gallery)):
        nearest = np.argpartition(-(queries[part] @ gallery.T), k - 1, axis=1)[:, :k]
        times += np.bincount(nearest.ravel(), minlength=len(gallery))
    spread = times.std()
    return float(((times - times.mean()) ** 3).mean() / spread**3) if spread > 0 else None


def xsim(queries: np.ndarray, gallery: np.ndarray, own: np.ndarray, k: int = MARGIN_K) -> float:
    """Share of ``queries (n, dim)`` whose item of highest ratio margin in ``gallery (m, dim)`` is not ``own (n,)``.

    The margin is ``cos(x, y)`` over the mean of both sides' mean cosine to their ``k`` nearest. A tie with an incorrect
    item, up to rounding, is an error.
    """
    queries, gallery = unit(queries), unit(gallery)
    near, far = _mean_of_nearest(queries, gallery, k), _mean_of_nearest(gallery, queries, k)
    wrong = 0
    for part in _parts(len(queries), len(gallery)):
        margins = queries[part] @ gallery.T / ((near[part, None] + far) / 2)
        rows = np.arange(len(margins))
        right = margins[rows, own[part]].copy()
        margins[rows, own[part]] = -np.inf
        wrong += int((~(margins.max(axis=1) < right - TIE)).sum())
    return wrong / len(queries)


def _mean_of_nearest(vectors: np.ndarray, others: np.ndarray, k: int) -> np.ndarray:
    """``(n,)`` mean cosine of each row to its ``k`` nearest of ``others`` (all, where there are fewer)."""
    k = min(k, len(others))
    parts = _parts(len(vectors), len(others))
    return np.concatenate([np.partition(vectors[p] @ others.T, -k, axis=1)[:, -k:].mean(axis=1) for p in parts])


def recall_by_length(seconds: np.ndarray, hits: np.ndarray) -> list[dict]:
    """Recall@1 in quarters of the clips by length: ``seconds`` (shortest, longest), ``queries``, ``recall@1``."""
    order = np.argsort(seconds, kind="stable")
    quarters = [part for part in np.array_split(order, 4) if len(part)]
    return [
        {
            "seconds": [float(seconds[part[0]]), float(seconds[part[-1]])],
            "queries": len(part),
            "recall@1": float(np.mean(hits[part])),
        }
        for part in quarters
    ]


def diagnose(
    tasks: Sequence[Retrieval], embed: Remembered, results: Results, seconds: Mapping[str, float] | None = None
) -> dict:
    """The content of ``diagnostics.json``: numbers per language, and their means per role.

    Args:
        tasks: those of ``audio_to_text`` are used; ``embed`` has their vectors, ``results`` their ranks.
        seconds: length of the clips by the id of their item; without it there is no recall by length.
    """
    languages = {}
    for task in tasks:
        if task.name != "audio_to_text":
            continue
        audio, text = embed(task.queries, QUERY), embed(task.gallery, DOCUMENT)
        own = np.searchsorted(task.relevance.gallery, task.relevance.query)
        values = (
            modality_gap(audio, text),
            alignment(audio, text[own]),
            uniformity(audio),
            uniformity(text),
            hubness(audio, text),
            xsim(audio, text, own),
        )
        row = {"role": task.role, **{name: _finite(v) for name, v in zip(SCALARS, values, strict=True)}}
        timed = np.flatnonzero([query.id in (seconds or {}) for query in task.queries])
        if len(timed):
            lengths = np.array([seconds[task.queries[i].id] for i in timed])
            row["recall_by_length"] = recall_by_length(lengths, results.ranks[task.name][task.subset][timed] == 1)
        languages[task.subset] = row
    means = {role: _means([values for values in languages.values() if values["role"] == role]) for role in ROLES}
    return {"per_language": languages, **{role: mean for role, mean in means.items() if mean}}


def worst_queries(records: Sequence[Mapping], direction: str = "audio_to_text") -> dict[str, list[Mapping]]:
    """The ten wrong queries of each language whose correct item ranks lowest, worst first."""
    wrong = defaultdict(list)
    for record in records:
        if record["direction"] == direction:
            wrong[record["lang"]] += [record] if record["rank"] > 1 else []
    return {lang: sorted(each, key=lambda r: (-r["rank"], r["id"]))[:WORST] for lang, each in sorted(wrong.items())}


def errors_markdown(records: Sequence[Mapping]) -> str:
    """The text of ``errors.md``."""
    lines = ["# Worst queries", "", "audio→text: the recordings whose own transcript ranks lowest.", ""]
    for lang, worst in worst_queries(records).items():
        lines += [f"## {lang}", ""]
        if not worst:
            lines += ["Every query is right.", ""]
            continue
        rows = [[record["id"], str(record["rank"]), record["sentence"], record["retrieved"]] for record in worst]
        for cells in (["recording", "rank", "said", "retrieved"], ["---"] * 4, *rows):
            lines.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32; zero rows stay zero."""
    vectors = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms == 0, 1, norms)


def _parts(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows, whose scores with all columns are a block."""
    step = max(1, BLOCK * BLOCK // columns)
    return (slice(start, start + step) for start in range(0, rows, step))


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _means(languages: Sequence[Mapping]) -> dict:
    """Means over the languages that have a value; of recall by length, over those with four quarters."""
    out: dict = {"languages": len(languages)} if languages else {}
    for name in SCALARS if languages else ():
        values = [values[name] for values in languages if values[name] is not None]
        out[name] = float(np.mean(values)) if values else None
    quarters = [parts for values in languages if len(parts := values.get("recall_by_length", ())) == 4]
    if quarters:
        out["recall_by_length"] = [
            float(np.mean([part["recall@1"] for part in each])) for each in zip(*quarters, strict=True)
        ]
    return out
