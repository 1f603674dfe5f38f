"""``python -m benchmarks.gpu --out gpu.json``: what a GPU does, in eight minutes, written down as it goes.

Sections, each with its seconds; what does not fit, is not installed, or does not work is skipped with its reason:

- ``correctness``: vectors, frames and gradients are those of the CPU; DDP with one process and a resumed run end in
  the same weights; a step waits for nothing.
- ``training``: pairs a second, share of the peak (MFU) and peak memory of dual encoders of two shapes.
- ``peer``: the same pairs through sentence-transformers' trainer and ours.
- ``speech``: speech encoders, times real time.
- ``profile``: the kernels of a step.

On a CPU ``--tiny`` runs all of it in the sizes of a test.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechde.cache import atomic_write
from speechde.provenance import commit, hardware

BUDGET = {"correctness": 70, "training": 230, "peer": 60, "speech": 70, "profile": 30}  # seconds
BETWEEN = 3.0  # seconds of steps that are timed, at least two of them


@dataclass(frozen=True)
class Case:
    """One training that is timed."""

    shape: str
    batch: int
    micro_batch: int | None = None
    lora: bool = False
    kernel: str = "sdpa"
    compiled: bool = False


GEMMA, QWEN = "gemma3_270m", "qwen3_0.6b"
CASES = (  # what matters most first: time may run out
    Case(GEMMA, 1024), Case(QWEN, 1024), Case(GEMMA, 8192, 1024), Case(QWEN, 8192, 512), Case(GEMMA, 1024, 256),
    Case(QWEN, 1024, lora=True), Case(GEMMA, 1024, lora=True), Case(QWEN, 1024, kernel="flash_attention_2"),
    Case(GEMMA, 1024, kernel="flash_attention_2"), Case(GEMMA, 1024, compiled=True), Case(QWEN, 1024, compiled=True),
    Case(QWEN, 8192, 512, lora=True), Case(GEMMA, 8192, 1024, lora=True), Case(QWEN, 1024, 256),
)  # fmt: skip
TINY_CASES = tuple(CASES[number] for number in (0, 1, 2, 6, 7, 9))  # one of each kind


@dataclass
class Run:
    """What all sections need, and the record that they add to."""

    device: str
    tiny: bool
    scratch: Path
    out: Path
    record: dict[str, Any] = field(default_factory=dict)

    def note(self, section: str, **values: Any) -> None:
        """Add a result to a section, and write the file."""
        self.record["sections"].setdefault(section, []).append(values)
        text = json.dumps(self.record, indent=1, ensure_ascii=False) + "\n"
        with atomic_write(self.out) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(section, json.dumps(values, ensure_ascii=False)[:400], flush=True)

    @contextmanager
    def tried(self, section: str, seconds: float, **about: Any) -> Iterator[None]:
        """What fails in the block, or takes longer, is noted as skipped; memory is given back."""
        try:
            with limited(seconds):
                yield
        except Exception as error:  # whatever it is, the other measurements are worth having
            self.note(section, **about, skipped=f"{type(error).__name__}: {str(error).strip()[:300]}")
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> float:
        """The time, when the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` in the block after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than the {seconds:.0f} s that were left")

    before, start = signal.signal(signal.SIGALRM, stop), time.perf_counter()
    outer, _ = signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))  # limits may lie in each other
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, max(0.1, outer - (time.perf_counter() - start)) if outer else 0)


def stepper(run: Run, case: Case) -> tuple[Any, Callable[[], None], float]:
    """A module, what does one step of it (as the trainer does), and the FLOPs that a step needs."""
    from benchmarks import shapes
    from benchmarks.engines import lit_module

    pairs = min(case.batch, 8) if run.tiny else case.batch
    micro = case.micro_batch and min(case.micro_batch, pairs // 2)
    folder = shapes.llm(case.shape, run.tiny, run.scratch / f"{case.shape}-config")
    backend = None if not case.compiled else "eager" if run.tiny else "inductor"
    model = shapes.dual_encoder(folder, run.device, case.kernel, case.lora, backend)
    module = lit_module(model, micro)
    module.log = module.log_dict = lambda *a, **k: None
    module.on_train_epoch_start()
    optimiser = module.configure_optimizers()["optimizer"]
    one = shapes.batch(pairs, model.backbone.config.vocab_size)
    moved = one.to(run.device)

    def step() -> None:
        with torch.autocast(run.device, torch.bfloat16):
            loss = module.training_step(moved, 0)
        loss.backward()
        module.configure_gradient_clipping(optimiser, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return module, step, shapes.step_flops(model, one, case.lora)


def training(run: Run, seconds: float) -> None:
    """Every case, while there is time."""
    from speechde.training.plan.devices import find_device

    device = find_device(None, torch.bfloat16, run.device == "cuda")
    run.record["device"] = asdict(device)
    end = time.perf_counter() + seconds
    for case in TINY_CASES if run.tiny else CASES:
        with run.tried("training", end - time.perf_counter(), **asdict(case)):
            if end - time.perf_counter() < 0.05 * seconds:
                raise TimeoutError("no time is left")
            run.note("training", **asdict(case), **timed_case(run, case, device.peak))


def timed_case(run: Run, case: Case, peak: float) -> dict[str, Any]:
    """Rates of a case, after two steps of warm-up; what it holds on the device goes with it."""
    module, step, flops = stepper(run, case)
    start = run.wait()
    step()
    step()
    warm, times = run.wait(), []
    while len(times) < 2 or sum(times) < (0 if run.tiny else BETWEEN):
        begun = run.wait()
        step()
        times.append(run.wait() - begun)
    each, pairs = float(np.median(times)), min(case.batch, 8) if run.tiny else case.batch
    return {
        "pairs_per_second": pairs / each, "mfu": flops / each / peak, "seconds_a_step": each, "steps": len(times),
        "seconds_of_warm_up": warm - start,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if run.device == "cuda" else None,
        "trained_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
    }  # fmt: skip


def profile(run: Run, seconds: float) -> None:
    """The kernels of one step, by their own time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with run.tried("profile", seconds):
        _, step, _ = stepper(run, CASES[0])
        step()
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if run.device == "cuda" else [])]
        with profiled(activities=kinds) as found:
            step()
            run.wait()
        name = f"self_{'device' if run.device == 'cuda' else 'cpu'}_time_total"
        rows = sorted(found.key_averages(), key=lambda row: -getattr(row, name))
        total = sum(getattr(row, name) for row in rows)
        run.note("profile", **asdict(CASES[0]),
                 share_of_time={row.key[:80]: getattr(row, name) / total for row in rows[:15]})  # fmt: skip


def correctness(run: Run, seconds: float) -> None:
    """See ``benchmarks.gpu_checks``."""
    from benchmarks import gpu_checks

    end = time.perf_counter() + seconds
    for check in gpu_checks.CHECKS:
        with run.tried("correctness", end - time.perf_counter(), check=check.__name__):
            run.note("correctness", check=check.__name__, **check(run))


def peer(run: Run, seconds: float) -> None:
    """Both trainers on the same texts, gradient caching on both sides; the losses of the first step must agree."""
    from benchmarks import shapes
    from benchmarks.engines import dual_encoder, sentence_transformer, train_ours, train_peer

    batch, micro = (8, 4) if run.tiny else (1024, 256)
    with run.tried("peer", seconds):
        folder = shapes.with_weights(GEMMA, run.tiny, run.scratch / "peer")
        pairs = shapes.texts(3 * batch, 256 if run.tiny else 20_000)
        found = {}
        for side in ("ours", "peer", "ours", "peer"):
            if side == "ours":
                made = train_ours(dual_encoder(folder), folder, pairs, batch, torch.bfloat16, micro, run.device)
            else:
                model = sentence_transformer(folder, device=run.device)
                made = train_peer(model, pairs, batch, torch.bfloat16, run.scratch, micro, run.device)
            found.setdefault(side, []).append(made)
            run.note("peer", side=side, shape=GEMMA, batch=batch, micro_batch=micro, losses=made.losses,
                     pairs_per_second=batch / made.seconds)  # fmt: skip
        ratio = found["peer"][-1].seconds / found["ours"][-1].seconds
        losses = [found[side][0].losses[0] for side in ("ours", "peer")]
        run.note("peer", ratio=ratio, first_losses=losses, agree=abs(losses[0] - losses[1]) < 0.02 * abs(losses[1]))


def speech(run: Run, seconds: float) -> None:
    """Clips of 2 to 15 s of noise, in batches of 30 s and of 240 s of padded audio."""
    from benchmarks import shapes
    from speechde.features import frames
    from speechde.features.encoders import load_speech_encoder

    draw, end = np.random.default_rng(0), time.perf_counter() + seconds
    lengths = draw.uniform(2, 15, 4 if run.tiny else 120)
    clips = [(n, (0.1 * draw.standard_normal(int(16_000 * s))).astype(np.float32)) for n, s in enumerate(lengths)]
    for name in shapes.SPEECH:
        with run.tried("speech", end - time.perf_counter(), encoder=name):
            folder = shapes.speech(name, run.tiny, run.scratch / name)
            encoder = load_speech_encoder(folder, dtype=torch.bfloat16, device=run.device)
            for padded in (30.0, 240.0):
                batches = batched(frames, clips, padded)
                encoder.encode([waveform for _, waveform in batches[0]])
                start = run.wait()
                for one in batches:
                    encoder.encode([waveform for _, waveform in one])
                run.note("speech", encoder=name, seconds_a_batch=padded,
                         times_real_time=float(lengths.sum() / (run.wait() - start)))  # fmt: skip


def batched(frames: Any, clips: list[tuple], seconds: float) -> list[list[tuple]]:
    """Clips in the batches that encoding makes of them, of so many seconds of padded audio."""
    before = frames.BATCH_SECONDS
    frames.BATCH_SECONDS = seconds
    try:
        return list(frames.by_length(clips))
    finally:
        frames.BATCH_SECONDS = before


SECTIONS = {"correctness": correctness, "training": training, "peer": peer, "speech": speech, "profile": profile}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the sections; returns the record that was written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="What a GPU does, in eight minutes.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; none for all")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test, on whatever device there is")
    parser.add_argument("--seconds", type=float, default=float(sum(BUDGET.values())), help="for all sections together")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.sections) - set(SECTIONS):
        parser.error(f"{', '.join(sorted(unknown))}: use {', '.join(SECTIONS)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not chosen.tiny:
        parser.error("there is no GPU here; --tiny shows that all of it works")
    names = chosen.sections or list(SECTIONS)
    share = chosen.seconds / sum(BUDGET[name] for name in names)
    torch.backends.cuda.matmul.allow_tf32 = False  # float32 is compared with that of the CPU
    with tempfile.TemporaryDirectory(prefix="speechde-gpu-") as scratch:
        about = {"commit": commit(), "hardware": hardware(), "torch": torch.__version__, "tiny": chosen.tiny,
                 "gpu": torch.cuda.get_device_name() if device == "cuda" else None, "sections": {}}  # fmt: skip
        run = Run(device, chosen.tiny, Path(scratch), chosen.out, about)
        for name in names:
            start = time.perf_counter()
            with run.tried(name, share * BUDGET[name] + 5):  # an import that fails, say
                SECTIONS[name](run, share * BUDGET[name])
            run.note("seconds", **{name: time.perf_counter() - start})
    return run.record


if __name__ == "__main__":
    main()
