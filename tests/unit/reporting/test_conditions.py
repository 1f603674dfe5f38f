"""Conditions in reports: the order of rows, what is said in words, the chart, and the pages that show them."""

from __future__ import annotations

import json

import pytest

from speechde.reporting import charts, conditions
from speechde.reporting.index import index
from speechde.reporting.pages import html, markdown, parts_of
from speechde.reporting.summary import find_runs, summarise


def mean(recall, lead=0.0, spread=0.05):
    return {"languages": 2, "recall@1": recall, "ci95": [recall - spread, recall + spread], "recall@5": 1.0, "mrr": 0.7,
            "chance": 0.1, "lead": lead, "lead_ci95": [lead - spread, lead + spread]}  # fmt: skip


def answers(model, cascade, change=None, **more):
    own, other = mean(model), mean(cascade, model - cascade)
    if change is not None:
        own |= {"change": change, "change_ci95": [change - 0.01, change + 0.01]}
    rows = {"model": own, "cascade_e5": other, "oracle": mean(0.9, model - 0.9)}
    return {name: {"direction": "audio_to_text", "seen": row} for name, row in rows.items()} | more


@pytest.fixture
def found():
    """The model is above the cascade at 0 dB, below it on clean clips, and neither at 10 dB."""
    return {
        "clean": answers(0.6, 0.8),
        "snr0": answers(0.4, 0.2, -0.2, notes=["2 clips are odd"]),
        "snr10": answers(0.5, 0.52, -0.1, notes=["2 clips are odd"]),
        "speed0.8": answers(0.5, 0.7, -0.1),
        "telephone": answers(0.5, 0.7, -0.1),
    }


def test_clean_is_first_and_noise_goes_from_little_to_much():
    names = ["speed1.2", "snr-5", "snr20", "ssn0", "telephone", "snr5", "clean", "speed0.8", "ssn10"]
    assert conditions.in_order(dict.fromkeys(names)) == [
        "clean", "snr20", "snr5", "snr-5", "ssn10", "ssn0", "telephone", "speed0.8", "speed1.2"]  # fmt: skip


def test_where_the_model_is_above_the_cascade_is_said_in_words(found):
    assert conditions.remarks(found) == [
        "seen: the model is above cascade_e5 under snr0 (+20.0 [+15.0, +25.0]); below it under clean "
        "(-20.0 [-25.0, -15.0]), telephone (-20.0 [-25.0, -15.0]), speed0.8 (-20.0 [-25.0, -15.0]); and neither, as "
        "the interval holds 0, under snr10 (-2.0 [-7.0, +3.0]).",
        "snr10, snr0: 2 clips are odd.",
    ]


def test_an_interval_that_ends_at_0_is_no_difference(found):
    found["snr0"]["cascade_e5"]["seen"]["lead_ci95"] = [0.0, 0.3]
    assert "above cascade_e5 under no condition" in conditions.remarks(found)[0]


def test_a_row_for_each_condition(found):
    lines = conditions.conditions_markdown(found)
    assert "| seen | snr0 | 40.0 [35.0, 45.0] | -20.0 [-21.0, -19.0] | 20.0 [15.0, 25.0] | +20.0 [+15.0, +25.0] |" in (
        next(line for line in lines if "snr0" in line)
    )
    assert [line.split(" | ")[1] for line in lines if line.startswith("| seen")] == conditions.in_order(found)
    del found["snr0"]["cascade_e5"]  # left out there
    assert "| – | – |" in next(line for line in conditions.conditions_table(found) if "snr0" in line)


def test_the_chart_has_a_line_for_each_system_and_no_level_that_was_not_heard(found):
    figure = conditions.noise_figure(found, 4.0)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["model", "cascade_e5", "oracle", "chance"]
    assert lines["model"].get_ydata().tolist() == pytest.approx([60, 50, 40])
    assert lines["model"].get_xdata().tolist() == [20, 10, 0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["clean", "10", "0"]
    assert len(axes.collections) == 3 and axes.xaxis_inverted()  # a band each
    assert "cascade_e5" in charts.noise(found) and charts.noise(found) == charts.noise(found)
    assert conditions.noise_levels({"clean": {}, "telephone": {}}) == {}


def test_the_pages_show_them(runs, write_run, found, tmp_path):
    data = json.loads((runs / "tiny/default-s0/results/metrics.json").read_text("utf-8"))["data"]
    evaluated = {key: value for key, value in data.items() if key != "train"}
    write_run(runs / "tiny/default-s0/evaluation-made-up", 0.3, 0, conditions=found, data=evaluated)
    summary = summarise(find_runs([runs]))
    board = next(board for board in summary["boards"] if board["conditions"])
    (part,) = (part for part in parts_of(board) if part.title == "tiny under conditions")
    assert len(part.rows) == len(found) and "<svg" in part.svg and "The model is above" not in part.note
    assert part.note.startswith("Seen: the model is above cascade_e5 under snr0")
    for page in (html(summary, "T"), markdown(summary, "T")):
        assert "tiny under conditions" in page and "the model is above cascade_e5 under snr0" in page
    page = index(runs)
    section = page.split("## Under conditions: tiny, seed 0")[1].split("\n## ")[0]
    assert "| seen | snr0 | 40.0 [35.0, 45.0] |" in section and "- seen: the model is above cascade_e5" in section
    assert (
        "(tiny/default-s0/evaluation-made-up/results/noise.png)" in section and "Command: `python train.py" in section
    )
