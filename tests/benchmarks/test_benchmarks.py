"""Every benchmark runs once at tiny size, which makes it compare the results of both sides; no time is looked at."""

from __future__ import annotations

import json
import os
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from benchmarks import gpu, harness, profiles, table
from benchmarks.__main__ import NAMES, main
from benchmarks.inputs import Inputs, prepared

NEEDS = {"kmeans": "sklearn", "speech_encoder": "ctranslate2"}
NEEDS |= dict.fromkeys(("text_embedding", "training", "training_cached"), "sentence_transformers")


@pytest.fixture
def inputs(tiny_llm, tiny_asr, clips, tmp_path):
    backbones = {"gemma": "embeddinggemma", "e5": "bert"}
    backbones = {name: prepared(tiny_llm(llm), tmp_path / name) for name, llm in backbones.items()}
    pairs = [(f"{n} " + "une phrase " * (n % 5 + 1), f"{n} " + "a sentence " * (n % 3 + 1)) for n in range(12)]
    return Inputs(
        backbones,
        backbones["e5"],
        tiny_asr,
        tiny_asr,
        pairs,
        pairs[::-1],
        clips,
        tmp_path,
        tiny=True,
        dtype=torch.float32,
    )


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_give_the_same_result(name, inputs, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"benchmarks.{name} compares with {NEEDS[name]}")
    results = list(import_module(f"benchmarks.{name}").run(inputs))  # raises harness.Different
    assert results
    for result in results:
        record = json.loads(result.write(tmp_path / "out", "a command", "0123abc").read_text(encoding="utf-8"))
        assert {"name", "ours", "peer", "peer_name", "ratio", "unit", "runs", "hardware", "versions", "command",
                "commit", "target", "reached", "facts"} <= set(record)  # fmt: skip
        assert np.isfinite([record["ours"], record["peer"], record["ratio"]]).all()


def test_profiles_of_both_sides(inputs, capsys):
    pytest.importorskip("sentence_transformers", reason="benchmarks.profiles compares with sentence_transformers")
    profiles.show(inputs, texts=4, batch=4)
    assert capsys.readouterr().out.count("Self CPU time total") == 4


def test_the_gpu_script_runs_on_a_cpu(tmp_path):
    """All sections; what cannot be measured here says why. A process started later is none of the checks'."""
    before = dict(os.environ)
    record = gpu.main(["--tiny", "--out", str(tmp_path / "gpu.json")])
    assert {key for key in os.environ if os.environ[key] != before.get(key)} & {
        "RANK",
        "WORLD_SIZE",
        "MASTER_PORT",
    } == set()
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")) == json.loads(json.dumps(record))
    sections = record["sections"]
    assert sections.keys() == {*gpu.SECTIONS, "seconds"}
    skipped = {section: [one["skipped"] for one in found if "skipped" in one] for section, found in sections.items()}
    assert not skipped["correctness"] and not skipped["speech"] and not skipped["profile"]
    assert all("flash_attention_2" in reason for reason in skipped["training"]) and len(skipped["training"]) == 1
    assert len(sections["training"]) == len(gpu.TINY_CASES) and len(sections["speech"]) == 4
    if find_spec("sentence_transformers"):
        assert not skipped["peer"] and sections["peer"][-1]["agree"]


def test_the_gpu_script_keeps_to_its_time(tmp_path, capsys):
    record = gpu.main(["training", "--tiny", "--seconds", "0.001", "--out", str(tmp_path / "gpu.json")])
    assert all("TimeoutError" in one["skipped"] for one in record["sections"]["training"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["everything", "--out", "x.json"])
    assert "use correctness, training" in capsys.readouterr().err


def test_what_differs_is_an_error():
    with pytest.raises(harness.Different, match=r"losses: differ by 0\.5"):
        harness.check_equal("losses", [1.0, 3.0], [1.0, 2.0], 0.1)
    with pytest.raises(harness.Different, match="shapes"):
        harness.check_equal("losses", [1.0], [1.0, 2.0], 0.1)
    with pytest.raises(harness.Different):
        harness.check_equal("losses", [np.nan], [1.0], 0.1)


def test_runs_alternate_and_the_warm_up_is_not_counted():
    calls = []

    def side(name, values):
        return lambda: calls.append(name) or values.pop(0)

    runs = harness.paired(side("A", [9.0, 1.0, 2.0]), side("B", [9.0, 3.0, 4.0]))
    assert calls == list("ABABAB") and runs == {"ours": [1.0, 2.0], "peer": [3.0, 4.0]}


@pytest.mark.parametrize(("lower", "ratio"), [(False, 0.5), (True, 2.0)])
def test_ratio_is_higher_where_ours_is_better(lower, ratio):
    result = harness.Result("a", "b", "c", "s", {"ours": [1.0, 9.0, 2.0], "peer": [4.0]}, 1.0, lower)
    assert (result.ours, result.peer, result.ratio) == (2.0, 4.0, ratio)
    assert result.record("", "")["reached"] is lower


def test_the_page_has_the_table_of_the_committed_results():
    text = table.PAGE.read_text(encoding="utf-8")
    assert table.page(text) == text, "docs/performance.md is stale: run python -m benchmarks.table"


@pytest.mark.parametrize("arguments", [["speed"], ["ranks", "--tiny"]])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "error:" in capsys.readouterr().err
