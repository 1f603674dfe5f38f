"""A run that changes hands: two processes, killed; one process, stopped; two processes of torchrun, to the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from speechde.config.tasks import TaskConfig
from speechde.reporting.results import learning_curve
from speechde.training import run
from speechde.training.recall import DevRecall

SCRIPT = """
import json, os, signal, sys
from speechde.config import build
from speechde.training import lit_module, run
from speechde.training.recall import DevRecall
real, gather, calls, rows = DevRecall.__call__, lit_module.gather, [], set()
def count(*own):
    everyone = gather(*own)
    rows.add((len(own[0]), len(everyone[0])))
    return everyone
lit_module.gather = count
def evaluate(self, model):
    calls.append(1)
    if len(calls) == int(sys.argv[2]):
        os.killpg(0, signal.SIGKILL)
    return real(self, model)
DevRecall.__call__ = evaluate
done = run.train(build(json.load(open(sys.argv[1]))))
print("rank", os.environ["RANK"], "has results" if done else "has none", "own and all rows:", *sorted(rows))
"""
OPTIONS = {"trainer__steps": 6, "trainer__eval_every": 2, "frontend__dropout": 0.0, "frontend__drop": 0.0,
           "frontend__speeds": [1.0], "model__dropout": 0.0, "model__freeze": []}  # fmt: skip
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def start(tmp_path):
    """``start(launcher, config, kill)`` → exit status; killed in the dev evaluation ``kill``."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def launch(launcher, config, kill=0):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(asdict(config)))
        root = str(Path(__file__).resolve().parents[2])
        process = subprocess.Popen(
            [sys.executable, *launcher, str(script), str(path), str(kill)], start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        )  # fmt: skip
        try:
            return process.communicate(timeout=300)[0], process.returncode
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    return launch


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_any_number_of_processes_goes_on_with_the_run(tiny_run, tmp_path, start, monkeypatch, strategy):
    whole = tiny_run(runs_dir=str(tmp_path / "whole"), **OPTIONS)
    expected_metrics = run.train(whole)
    config = tiny_run(runs_dir=str(tmp_path / "shared"), trainer__devices=2, trainer__strategy=strategy, **OPTIONS)
    output, status = start([], config, kill=2)
    assert status == -signal.SIGKILL, output
    last = run.run_directory(config) / "checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2

    real, calls = DevRecall.__call__, []

    def stop(self, model):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, model)

    config.trainer.devices = 1
    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, SystemExit)):
        patch.setattr(DevRecall, "__call__", stop)
        run.train(config)
    assert torch.load(last, weights_only=True)["global_step"] == 4

    output, status = start(LAUNCHER, config)
    assert status == 0, output
    assert output.count("plan (estimates") == 1
    for text in ("rank 0 has results", "rank 1 has none"):
        assert f"{text} own and all rows: (2, 4)\n" in output, output
    folder = run.run_directory(config)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    check_same_run(config, whole, [2, 4, 6])
    metrics = json.loads((folder / "results/metrics.json").read_text())
    assert metrics["dev_recall@1"] == expected_metrics["dev_recall@1"]


def check_same_run(config, whole, steps):
    """Equal learning curves, up to rounding."""
    found, expected = (learning_curve(run.run_directory(one) / "csv") for one in (config, whole))
    assert [point["step"] for point in found] == [point["step"] for point in expected] == steps
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_a_frozen_llm_is_sharded_with_its_adapter(tiny_run, tmp_path, start):
    """With what reaches into the layers: text states made before training, cached gradients, checkpointed layers."""
    options = OPTIONS | {"trainer__steps": 2, "model__freeze": ["*"]}
    whole = tiny_run("quickstart_narrow", runs_dir=str(tmp_path / "whole"), **options)
    expected = run.train(whole)
    config = tiny_run(
        "quickstart_narrow", runs_dir=str(tmp_path / "shared"), trainer__strategy="fsdp", trainer__micro_batch=1,
        model__gradient_checkpointing=True, **options,
    )  # fmt: skip
    output, status = start(LAUNCHER, config)
    assert status == 0, output
    check_same_run(config, whole, [2])
    metrics = json.loads((run.run_directory(config) / "results/metrics.json").read_text())
    assert metrics["audio_to_text"] == expected["audio_to_text"]


@pytest.mark.parametrize("kind", ["ema", "tail"])
def test_processes_keep_the_average_of_one(tiny_run, tmp_path, start, kind):
    """Killed and started again with two processes, too."""
    options = OPTIONS | {"trainer__average": {"kind": kind, "decay": 0.5, "last": 2}}
    whole = tiny_run(runs_dir=str(tmp_path / "whole"), **options)
    run.train(whole)
    config = tiny_run(runs_dir=str(tmp_path / "shared"), trainer__devices=2, **options)
    output, status = start([], config, kill=3)
    assert status == -signal.SIGKILL, output
    output, status = start(LAUNCHER, config)
    assert status == 0, output
    one, other = (
        torch.load(run.run_directory(each) / "checkpoints/last.ckpt", weights_only=True)["average"]
        for each in (whole, config)
    )
    assert one["updates"] == other["updates"] == {"ema": 6, "tail": 2}[kind]
    assert one["weights"].keys() == other["weights"].keys()
    for name, mean in one["weights"].items():
        torch.testing.assert_close(other["weights"][name], mean, rtol=1e-3, atol=1e-4)
    check_same_run(config, whole, [2, 4, 6])


@pytest.mark.parametrize("size", [5, 4])
def test_processes_of_a_sharded_model_have_equally_many_rows(tiny_run, tmp_path, start, size):
    """One that had more would run the layers once more, and wait for weights that no other gathers."""
    options = OPTIONS | {"trainer__steps": 2, "trainer__batch_size": size, "runs_dir": str(tmp_path / "runs")}
    output, status = start(LAUNCHER, tiny_run("quickstart_narrow", trainer__strategy="fsdp", **options))
    assert status == 0 and "own and all rows: (2, 4)\n" in output, output


@pytest.fixture
def hard(clips, tmp_path):
    """``hard(negatives)``: a task of clips whose transcripts are among up to two others, none for some rows."""
    spoken = [u for u in clips if u.split == "train" and u.lang != "ro_ro"]
    lines = []
    for row, u in enumerate(spoken):
        query = {"parts": [{"audio": u.audio}], "lang": u.lang}
        texts = [{"parts": [{"text": spoken[row - back].text}], "lang": u.lang} for back in range(3)]
        lines.append(json.dumps({"query": query, "positive": texts[0], "negatives": texts[1 : 1 + row % 3]}) + "\n")
    path = tmp_path / "hard.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return lambda count: {"tasks": {"hard": {"examples": str(path), "negatives": count}}}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_hard_negatives_of_several_processes_are_those_of_one(tiny_run, hard, tmp_path, start, strategy):
    """Every process encodes as many, though their rows have none, one or two."""
    options = OPTIONS | {"trainer__steps": 2, "loss__hardness": 2.0, "loss__dims": [8, 4], "model__dim": 8}
    whole = tiny_run("quickstart_narrow", runs_dir=str(tmp_path / "whole"), **options, **hard(2))
    plain = tiny_run("quickstart_narrow", runs_dir=str(tmp_path / "plain"), **options, **hard(0))
    run.train(plain)
    run.train(whole)
    many = options | hard(2) | {"trainer__strategy": strategy}
    shared = tiny_run("quickstart_narrow", runs_dir=str(tmp_path / "shared"), **many)
    output, status = start(LAUNCHER, shared)
    assert status == 0, output
    check_same_run(shared, whole, [2])
    losses = [learning_curve(run.run_directory(each) / "csv")[0]["train_loss"] for each in (whole, plain)]
    assert losses[0] > losses[1] + 1e-3, "the negatives count"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_bank_of_several_processes_is_that_of_one(tiny_run, clips, tmp_path, start, strategy):
    """Each process draws the transcripts of its own rows' languages, here all of them, and they count once.

    In half of the batches texts ask for texts: those of some rows are transcripts, and of others not.
    """
    known = [u for u in clips if u.split == "train" and u.lang == "fr_fr"]
    answers = [known[row].text if row % 2 else f"texte {row}" for row in range(len(known))]
    lines = [{"query": f"question {row}", "positive": text, "lang": "fr_fr"} for row, text in enumerate(answers)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    options = OPTIONS | {"trainer__steps": 6, "model__freeze": ["*"]}
    options |= {"tasks__texts": asdict(TaskConfig(examples=str(tmp_path / "texts.jsonl")))}
    losses = []
    for size in (0, 100):
        whole = tiny_run("quickstart_narrow", runs_dir=str(tmp_path / f"whole-{size}"), **options, loss__bank=size)
        run.train(whole)
        losses.append(learning_curve(run.run_directory(whole) / "csv")[-1]["train_loss"])
    many = options | {"loss__bank": 100, "trainer__strategy": strategy}
    shared = tiny_run("quickstart_narrow", runs_dir=str(tmp_path / "shared"), **many)
    output, status = start(LAUNCHER, shared)
    assert status == 0, output
    check_same_run(shared, whole, [2, 4, 6])
    assert losses[1] > losses[0] + 1e-3, "the bank counts"


def test_letters_are_learned_as_by_one_process(tiny_run, tmp_path, start):
    """Each process has the loss of its own letters, and the gradient is that of all."""
    options = OPTIONS | {"trainer__steps": 4, "model__freeze": ["*"], "ctc__weight": 3.0, "frontend__dropout": 0.0}
    whole = tiny_run("quickstart_narrow", runs_dir=str(tmp_path / "whole"), **options)
    run.train(whole)
    config = tiny_run("quickstart_narrow", runs_dir=str(tmp_path / "shared"), **options)
    output, status = start(LAUNCHER, config)
    assert status == 0, output
    one, other = (
        torch.load(run.run_directory(each) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for each in (whole, config)
    )
    assert one.keys() == other.keys() and "reader.head.weight" in one
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-3, atol=2e-4, msg=name)
