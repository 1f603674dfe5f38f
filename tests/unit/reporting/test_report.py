from __future__ import annotations

import json

import numpy as np
import pytest

from speechde.errors import DataError
from speechde.evaluation.speech import data_counts, evaluate_speech
from speechde.reporting import report
from speechde.types import Utterance

PNG = b"\x89PNG"
CURVES = [{"step": 0, "train_loss": 3.0, "dev_recall@1": 0.1}, {"step": 10, "train_loss": 1.0}]


def run_metrics(langs=("ca_es", "ja_jp", "sw_ke"), seen=("ca_es", "ja_jp"), synthetic=True, noise=0.5, proxy=()):
    rng = np.random.default_rng(0)
    utterances = [
        Utterance(f"{lang}-{i}", lang, f"text {i}", "", str(i), "test", synthetic=synthetic)
        for lang in langs
        for i in range(6)
    ]
    vectors = np.tile(np.eye(6), (len(langs), 1))
    spoken = vectors + noise * rng.normal(size=vectors.shape)
    table = dict(zip([u.id for u in utterances], spoken, strict=True)) | {f"text {i}": np.eye(6)[i] for i in range(6)}
    zero_shot = [lang for lang in langs if lang not in (*seen, *proxy)]
    scores, _ = evaluate_speech(
        utterances,
        lambda items, role: np.stack([table[item.id] for item in items]),
        seen=seen,
        zero_shot=zero_shot,
        proxy=proxy,
    )
    return {
        "recipe": "tiny",
        "mode": "modern",
        "seed": 3,
        "commit": "0123abc",
        "hardware": {"device": "cpu", "threads": 1},
        "data": {"corpus": "made up", "test": data_counts(utterances)},
        "wall_seconds": {"fetch": 1, "frames": 2, "kmeans": 3.5, "train": 10, "evaluate": 3.5, "total": 20},
        "command": "python train.py recipe=tiny",
        **scores,
    }


def table(tmp_path, metrics, controls=None):
    report.write_report(tmp_path, metrics, CURVES, controls)
    return (tmp_path / "table.md").read_text(encoding="utf-8")


def cells(text, first):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_all_files_are_written_and_metrics_are_read_back_unchanged(tmp_path):
    metrics = run_metrics()
    paths = report.write_report(tmp_path / "new", metrics, CURVES)
    assert sorted(path.name for path in paths) == ["curves.png", "metrics.json", "recall.png", "table.md"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths)
    assert json.loads(paths[0].read_text(encoding="utf-8")) == metrics
    for path in paths:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(PNG)


def test_keys_are_sorted_so_that_files_compare(tmp_path):
    metrics = run_metrics()
    first = report.write_report(tmp_path / "a", metrics)[0].read_bytes()
    second = report.write_report(tmp_path / "b", dict(reversed(metrics.items())))[0].read_bytes()
    assert first == second


def test_no_curve_rows_no_curve_picture(tmp_path):
    assert "curves.png" not in [path.name for path in report.write_report(tmp_path, run_metrics())]
    assert not (tmp_path / "curves.png").exists(), "those of an earlier report are of another run"


def test_table_has_seen_and_zero_shot_rows_and_every_language(tmp_path):
    metrics = run_metrics()
    text = table(tmp_path, metrics)
    seen, zero_shot = cells(text, "seen"), cells(text, "zero-shot")
    assert (seen[1], zero_shot[1]) == ("2", "1")
    assert seen[3].startswith(f"{100 * metrics['audio_to_text']['seen']['recall@1']:.1f} [")
    assert zero_shot[3].startswith(f"{100 * metrics['audio_to_text']['zero_shot']['recall@1']:.1f} [")
    assert cells(text, "sw_ke")[:6] == ["sw_ke", "Swahili", "zero-shot", "6", "6", "16.7"]
    assert cells(text, "ca_es")[2] == "seen"
    assert cells(text, "ja_jp")[10].endswith("\\*") and "character error rate" in text
    assert cells(text, "train") == ["train", "10.0", "50.0"]
    assert cells(text, "Sub-Saharan Africa")[1:3] == ["0", "–"]


def test_a_run_without_zero_shot_languages_shows_the_empty_row(tmp_path):
    text = table(tmp_path, run_metrics(("ca_es",), ("ca_es",)))
    assert cells(text, "zero-shot")[1:4] == ["0", "–", "–"]
    assert "character error rate" not in text


def test_languages_of_a_proxy_voice_have_their_own_row(tmp_path):
    metrics = run_metrics(("ca_es", "gl_es", "sw_ke"), ("ca_es",), proxy=("gl_es",))
    text = table(tmp_path, metrics, {"older": run_metrics()})
    row = cells(text, "zero-shot, proxy voice")
    assert row[1] == "1" and row[3].startswith(f"{100 * metrics['audio_to_text']['proxy']['recall@1']:.1f} [")
    assert row[-1] == "–"  # the control has no such language
    assert cells(text, "gl_es")[2] == "zero-shot, proxy voice"
    assert cells(text, "region")[-1] == "zero-shot, proxy voice R@1"
    assert "proxy" not in table(tmp_path, run_metrics())


def test_controls_stand_beside(tmp_path):
    control = run_metrics(noise=100)
    text = table(tmp_path, run_metrics(noise=0), {"shuffled": control})
    assert cells(text, "code")[-1] == "shuffled R@1"
    expected = control["audio_to_text"]["per_language"]["sw_ke"]["recall@1"]
    assert cells(text, "sw_ke")[-1] == f"{100 * expected:.1f}" != "100.0"
    assert cells(text, "seen")[-1] == f"{100 * control['audio_to_text']['seen']['recall@1']:.1f}"


def test_sizes_have_a_row_each_the_largest_first(tmp_path):
    metrics = run_metrics()
    assert "Sizes" not in table(tmp_path / "none", metrics)
    own = {direction: {role: metrics[direction][role] for role in ("seen", "zero_shot")}
           for direction in ("audio_to_text", "text_to_audio")}  # fmt: skip
    text = table(tmp_path / "some", metrics | {"sizes": {"32": own, "8": own, "128": own}})
    lines = text.split("## Sizes of the vectors, means over languages")[1].split("##")[0].strip().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 128", "| 128", "| 32", "| 32", "| 8", "| 8"]
    assert cells(text, "8 | seen")[1:5] == cells(text, "seen")[:4]


def test_bleu_stands_beside_with_its_signature(tmp_path):
    metrics = run_metrics()
    metrics["audio_to_english_text"]["per_language"]["sw_ke"] = {"recall@1": 0.25, "bleu": 12.34}
    metrics["audio_to_english_text"]["zero_shot"]["bleu"] = 12.34
    text = table(tmp_path, metrics)
    assert cells(text, "code")[-2:] == ["A→En R@1", "A→En BLEU"]
    assert cells(text, "sw_ke")[-2:] == ["25.0", "12.3"] and cells(text, "zero-shot")[-1] == "12.3"
    assert cells(text, "seen")[-1] == "–"
    assert f"sacrebleu `{metrics['bleu_signature']}`" in text


def test_synthetic_speech_is_called_synthetic_where_counts_are(tmp_path):
    line = "recordings 18, transcripts 18"
    (synthetic,) = [row for row in table(tmp_path, run_metrics()).splitlines() if line in row]
    assert "**synthetic speech**" in synthetic
    (real,) = [row for row in table(tmp_path, run_metrics(synthetic=False)).splitlines() if line in row]
    assert "synthetic" not in real
    mixed = run_metrics()
    mixed["data"]["test"]["synthetic"] = 5
    assert "**5 of 18 recordings synthetic**" in table(tmp_path, mixed)


def test_bars_are_sorted_best_first_and_coloured_by_role():
    metrics = run_metrics()
    rows = metrics["audio_to_text"]["per_language"]
    for lang, score in (("ca_es", 0.5), ("ja_jp", 0.2), ("sw_ke", 0.9)):
        rows[lang].update({"recall@1": score, "ci95": [score - 0.1, score + 0.1]})
    (axes,) = report.recall_figure(metrics).axes
    bars = axes.patches
    assert [bar.get_width() for bar in bars] == pytest.approx([90, 50, 20])
    assert axes.get_yticklabels()[0].get_text() == "Swahili  sw_ke"
    assert bars[1].get_facecolor() == bars[2].get_facecolor() != bars[0].get_facecolor()


def test_many_languages_go_into_columns():
    metrics = run_metrics()
    rows = metrics["audio_to_text"]["per_language"]
    metrics["audio_to_text"]["per_language"] = {f"x{i}_yy": rows["ca_es"] for i in range(102)}
    axes = report.recall_figure(metrics).axes
    assert [len(part.patches) for part in axes] == [51, 51]


def test_curves_skip_missing_values():
    upper, lower = report.curves_figure(CURVES).axes
    assert [len(axes.lines[0].get_xdata()) for axes in (upper, lower)] == [2, 1]
    assert lower.lines[0].get_ydata() == pytest.approx([10])


@pytest.mark.parametrize("key", ["recipe", "audio_to_text", "wall_seconds", "fixed_gallery"])
def test_missing_key_is_named(tmp_path, key):
    metrics = run_metrics()
    del metrics[key]
    with pytest.raises(DataError, match=key):
        report.write_report(tmp_path, metrics)


def test_unfit_values_are_refused_before_anything_is_written(tmp_path):
    for change in (
        {"wall_seconds": {"total": 1}},
        {"data": {"corpus": "no counts"}},
        {"data": {"test": {"recordings": 3}}},
        {"config": {"lr": float("nan")}},
    ):
        with pytest.raises(DataError):
            report.write_report(tmp_path, {**run_metrics(), **change})
    assert not list(tmp_path.iterdir())
