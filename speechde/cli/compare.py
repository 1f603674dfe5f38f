"""``speechde compare RUN_A RUN_B``: does A beat B over the same queries?"""

from __future__ import annotations

import json as json_format
from pathlib import Path

from speechde.evaluation.compare import compare_runs, format_comparison


def compare(
    run_a: Path, run_b: Path, direction: str = "audio_to_text", common: bool = False, json: bool = False
) -> None:
    """Print per-language differences in recall@1 of two evaluated runs, with intervals and a sign test.

    Runs of other queries are refused, unless only the common ones are asked for.
    """
    comparison = compare_runs(run_a, run_b, direction, common)
    text = json_format.dumps(comparison.as_dict(), indent=2, ensure_ascii=False) if json else None
    print(text or format_comparison(comparison))
