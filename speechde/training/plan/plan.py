"""What a run will cost, printed before it starts: hours of speech, tokens, FLOPs, time, memory, disk, price.

The models are built as shapes (device ``meta``), so that no weights are read and every count is that of the real model.
Lengths of a sample of clips come from the corpus, else from headers, and inside archives, which are not opened for a
plan, from the number of text tokens. Transcripts of the same sample go through the real tokenizer, and ``costs`` holds
the arithmetic. Everything here is an estimate.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from speechde.cache import atomic_write
from speechde.config import RunConfig
from speechde.config.tasks import CLIPS
from speechde.corpora.bitext import TextPair
from speechde.errors import ConfigError, DataError
from speechde.evaluation.speech import sample_sentences
from speechde.features.encoders import fast_dtype, load_speech_encoder
from speechde.features.sets import build_vision
from speechde.media.audio import duration
from speechde.media.containers import split_locator
from speechde.models.prompt import Prompt
from speechde.training.bank import check_frozen
from speechde.training.build import model_shape
from speechde.training.launch import processes
from speechde.training.plan.costs import Clips, Cost, Stage, Stream, numel
from speechde.training.plan.devices import Device, find_device
from speechde.training.tasks import mixture, task_examples
from speechde.types import Utterance
from speechde.weights import resolve

SAMPLED = {"train": 200, "synthetic": 100, "dev": 100, "evaluation": 100}  # clips whose length and text are read
PER_LANGUAGE = 50  # sentences that a plan offers for a first evaluation
TEXT_TOKENS_PER_SECOND = 4.0  # assumed where text or length is not read: 13 characters a second, 3 to 4 a token
PREFIX_TOKENS = 6  # assumed where no tokenizer is read: "[French Speech] " and a start token


@dataclass(frozen=True)
class Plan:
    """Everything that ``format_plan`` prints; sizes in bytes, times in seconds."""

    sets: dict[str, Clips]
    views: int
    encoder_parameters: int
    encoder_rate: float
    parameters: int
    trained: int
    speech_positions: float  # of a training clip, prefix included
    text_positions: float
    text_is_frozen: bool
    steps: int
    batch_size: int
    translated: float  # share of a batch that is text with text
    tasks: list[Stream]
    device: Device
    devices: int  # that encode
    processes: int  # that train, on a device each
    utilisation: float
    stages: list[Stage]
    memory: dict[str, float]
    disk: dict[str, float]
    usd: float | None  # for one device and hour
    epochs: dict[str, float]  # by language; empty when no corpus was read
    per_language: dict[str, float]  # seconds of the evaluation by eval.per_language; empty when no corpus was read

    @property
    def device_hours(self) -> float:
        """Hours, each times the devices that work in it."""
        return sum(stage.seconds * stage.devices for stage in self.stages) / 3600


def survey(
    utterances: Sequence[Utterance], prompt: Prompt, count: int, seed: int, max_seconds: float = math.inf
) -> Clips:
    """Lengths and texts of at most ``count`` clips, drawn with ``seed``, in corpus order; no archive is opened.

    Raises:
        DataError: none of them is readable.
    """
    if not utterances:
        return Clips(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
    rows = np.random.default_rng(seed).permutation(len(utterances))[:count]
    chosen = [utterances[row] for row in np.sort(rows)]
    tokens = [len(prompt.text_ids(u.text, u.lang)) for u in chosen]
    prefix = [len(prompt.speech_ids(u.lang)) for u in chosen]
    guessed = [u.seconds is None and split_locator(u.audio) is not None for u in chosen]
    lengths = [
        max(1, n - p) / TEXT_TOKENS_PER_SECOND if guess else duration(u.audio) if u.seconds is None else u.seconds
        for u, n, p, guess in zip(chosen, tokens, prefix, guessed, strict=True)
    ]
    known = [length for length in lengths if length is not None]
    if not known:
        raise DataError(f"none of {len(chosen)} sampled clips could be read, e.g. {chosen[0].audio}; check the paths")
    short = [length for length in known if length <= max_seconds] or known
    return Clips(
        count=len(utterances),
        hours=sum(known) / len(chosen) * len(utterances) / 3600,
        seconds=float(np.mean(short)),
        longest=max(short),
        tokens=float(np.mean(tokens)),
        prefix=float(np.mean(prefix)),
        texts=len({(u.lang, u.text) for u in utterances}),
        sampled=len(chosen),
        unreadable=len(chosen) - len(known),
        guessed=sum(guessed),
    )


def read_sets(
    config: RunConfig, training: Sequence[Utterance], dev: Sequence[Utterance], evaluation: Sequence[Utterance]
) -> dict[str, Clips]:
    """The sets of a corpus that was read."""
    prefix = config.model.prefix
    tokenizer = AutoTokenizer.from_pretrained(resolve(config.model.source, weights=False))
    prompt = Prompt(tokenizer, **asdict(prefix), max_tokens=config.model.max_tokens)
    made = [u for u in training if u.synthetic]
    sets = {"train": [u for u in training if not u.synthetic], **({"synthetic": made} if made else {}), "dev": dev,
            "evaluation": evaluation}  # fmt: skip
    longest = config.trainer.max_seconds
    return {
        name: survey(clips, prompt, SAMPLED[name], config.seed, longest if name in ("train", "synthetic") else math.inf)
        for name, clips in sets.items()
    }


def epochs_by_language(
    config: RunConfig, training: Sequence[Utterance], pairs: Sequence[TextPair] = ()
) -> dict[str, float]:
    """How often each recorded clip of a language is expected to be drawn; see ``Task.effective_epochs``."""
    steps = config.trainer.steps
    tasks = {name: task for name, task in config.tasks.items() if task.examples == CLIPS}
    if not tasks:  # of files alone, whose clips are drawn by their own strata
        return {}
    spoken = replace(config, tasks=tasks)
    every = sum(task.rate for task in config.tasks.values())
    epochs: Counter[str] = Counter()
    for task in mixture(spoken, task_examples(spoken, training, pairs), steps=steps).tasks:
        epochs.update(task.effective_epochs(steps * task.rate / every))
    return dict(epochs)


def stated(name: str, count: int | None, hours: float | None, max_seconds: float) -> Clips:
    """A set of published size (``plan.<name>_clips``, ``plan.<name>_hours``); an empty one when neither is given.

    Raises:
        ConfigError: one without the other.
    """
    if (count is None) != (hours is None):
        raise ConfigError(f"plan.{name}_clips={count} and plan.{name}_hours={hours} belong together; set both or none")
    if not count or not hours:
        return Clips(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
    seconds = 3600 * hours / count
    tokens = PREFIX_TOKENS + TEXT_TOKENS_PER_SECOND * seconds
    return Clips(count, hours, seconds, max(seconds, max_seconds), tokens, PREFIX_TOKENS, count)


def stated_sets(config: RunConfig) -> dict[str, Clips] | None:
    """The sets whose sizes ``plan`` states in place of a corpus; None when it states none.

    Raises:
        ConfigError: without ``plan_only``, without a training set, or half of a pair.
    """
    p, longest = config.plan, config.trainer.max_seconds
    sizes = {"train": (p.train_clips, p.train_hours), "dev": (p.dev_clips, p.dev_hours),
             "evaluation": (p.eval_clips, p.eval_hours)}  # fmt: skip
    sets = {name: stated("eval" if name == "evaluation" else name, *size, longest) for name, size in sizes.items()}
    if all(not clips.count for clips in sets.values()):
        return None
    if not sets["train"].count or not config.plan_only:
        fix = "add plan_only=true" if sets["train"].count else "set plan.train_clips and plan.train_hours too"
        raise ConfigError(f"plan states sizes of data that is not read; {fix}, or set none of them")
    return sets


def evaluated_clips(config: RunConfig, whole: Sequence[Utterance]) -> dict[str, int]:
    """Clips by ``eval.per_language``: what is asked for, all of them, and where all are asked for a first look."""
    asked = config.eval.per_language
    sizes = {str(n): len(sample_sentences(whole, n, config.data.split_seed)) for n in {asked or PER_LANGUAGE}}
    return sizes | {"null": len(whole)}


def make_plan(
    config: RunConfig,
    sets: dict[str, Clips],
    epochs: dict[str, float] | None = None,
    evaluated: dict[str, int] | None = None,
) -> Plan:
    """Everything that follows from configuration, hardware and sizes of the data.

    ``evaluated`` is clips by ``eval.per_language``, to say what other values would cost.

    Raises:
        ConfigError: a layer, a rate or a device that does not exist.
    """
    f, t = config.frontend, config.trainer
    if not f.speeds:
        raise ConfigError("frontend.speeds=[] leaves no training clip; use [1.0] for clips as recorded")
    encoder = load_speech_encoder(resolve(f.encoder, weights=False), layer=f.layer, device="meta")
    model = model_shape(config, encoder, build_vision(config.image, "meta"))
    mixed = t.precision == "bf16-mixed" or (t.precision == "auto" and fast_dtype() == torch.bfloat16)
    mixed |= t.precision == "auto" and config.plan.device not in (None, "cpu")
    dtype = torch.bfloat16 if mixed else torch.float32
    device = find_device(config.plan.device, dtype, torch.cuda.is_available() and t.accelerator != "cpu")
    utilisation = device.reached if config.plan.utilisation is None else config.plan.utilisation
    if config.plan.devices < 1 or not 0 < utilisation <= 1:
        raise ConfigError(f"plan.devices={config.plan.devices} and plan.utilisation={utilisation}: at least "
                          "one device, and a share above 0 up to 1")  # fmt: skip
    cost = Cost(config, encoder, model, sets, math.prod(processes(t.devices)))
    check_frozen(config.loss.bank, cost.text_is_frozen)  # before any clip is encoded
    stages = cost.stages(device.peak * utilisation, config.plan.devices)
    evaluation = sum(stage.seconds for stage in stages if "evaluation" in stage.name)
    each = evaluation / (sets["evaluation"].count or 1)
    return Plan(
        sets={name: clips for name, clips in sets.items() if clips.count},
        views=len(f.versions),
        encoder_parameters=cost.encoder.parameters,
        encoder_rate=encoder.rate,
        parameters=numel(model),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        speech_positions=cost.speech,
        text_positions=cost.text,
        text_is_frozen=cost.text_is_frozen,
        steps=t.steps,
        batch_size=round(cost.pairs),
        translated=cost.translated,
        tasks=cost.streams,
        device=device,
        devices=config.plan.devices,
        processes=cost.processes,
        utilisation=utilisation,
        stages=stages,
        memory=cost.memory(dtype),
        disk=cost.disk(),
        usd=config.plan.usd_per_device_hour,
        epochs=epochs or {},
        per_language={value: each * clips for value, clips in (evaluated or {}).items()},
    )


def plan_run(
    config: RunConfig,
    training: Sequence[Utterance],
    dev: Sequence[Utterance],
    whole: Sequence[Utterance],
    pairs: Sequence[TextPair] = (),
) -> Plan:
    """The plan of a run on a corpus; ``whole`` is what ``eval.per_language`` draws from.

    Raises:
        ConfigError, DataError: as ``make_plan`` and ``read_sets``.
    """
    test = sample_sentences(whole, config.eval.per_language, config.data.split_seed)
    sets, epochs = read_sets(config, training, dev, test), epochs_by_language(config, training, pairs)
    return make_plan(config, sets, epochs, evaluated_clips(config, whole))


def save_plan(plan: Plan, path: Path) -> None:
    """Write the plan as JSON, times in seconds and sizes in bytes."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(asdict(plan), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def format_plan(plan: Plan) -> str:
    """The plan as plain text."""
    sampled = sum(clips.sampled for clips in plan.sets.values())
    unreadable = sum(clips.unreadable for clips in plan.sets.values())
    guessed = sum(clips.guessed for clips in plan.sets.values())
    basis = (
        f"lengths and texts of {sampled} clips, {unreadable} unreadable" if sampled else "stated sizes, no clip read"
    ) + (f"; {guessed} in archives, taken to last {1 / TEXT_TOKENS_PER_SECOND:g} s a token" if guessed else "")
    lines = [f"plan (estimates; from {basis})"]
    for name, clips in plan.sets.items():
        views = f" × {plan.views} versions" if name == "train" and plan.views > 1 else ""
        lines.append(f"  {name:<11}{clips.count:>9,} clips  {clips.hours:8.1f} h{views}")
    pairs, text = plan.steps * plan.batch_size, "frozen, computed once" if plan.text_is_frozen else "trained"
    positions = (1 - plan.translated) * plan.speech_positions + (1 + plan.translated) * plan.text_positions
    mixed = f" ({plan.translated:.0%} of them text with text)" if plan.translated else ""
    device = plan.device
    lines += [
        f"  encoder    {plan.encoder_parameters / 1e6:,.1f} M parameters, {plan.encoder_rate:g} frames a second",
        f"  model      {plan.parameters / 1e6:,.1f} M parameters, {plan.trained / 1e6:,.1f} M trained",
        f"  a pair     {plan.speech_positions:.0f} speech + {plan.text_positions:.0f} text tokens (text side {text})",
        f"  training   {plan.steps:,} steps × {plan.batch_size:,} pairs = {pairs / 1e6:,.2f} M pairs{mixed}, "
        f"{pairs * positions / 1e6:,.0f} M tokens",
    ]
    if len(plan.tasks) > 1:
        tasks = ", ".join(f"{one.name} {one.rate:.0%} of the steps × {one.batch_size:,}" for one in plan.tasks)
        lines.append(f"  tasks      {tasks}")
    if plan.epochs:
        epochs = ", ".join(f"{lang} {value:.1f}" for lang, value in plan.epochs.items())
        lines.append(f"  epochs     of the recorded clips: {epochs}")
    devices = max(plan.devices, plan.processes)
    uses = "" if plan.devices == plan.processes else f"; {plan.devices} encode, {plan.processes} train"
    lines.append(
        f"  hardware   {devices} × {device.name}: {_flops(device.peak)}/s ({device.source}), of which "
        f"{plan.utilisation:.0%} assumed{uses}"
    )
    for stage in plan.stages:
        shared = f"  if {stage.devices} devices share it" if stage.devices > 1 else ""
        lines.append(f"    {stage.name:<24}{_flops(stage.flops):>13} {_duration(stage.seconds):>10}{shared}")
    lines.append(f"    {'together':<24}{'':>13} {_duration(sum(stage.seconds for stage in plan.stages)):>10}")
    if plan.per_language:
        costs = ", ".join(f"{_duration(seconds)} with {value}" for value, seconds in plan.per_language.items())
        lines.append(f"  evaluation by eval.per_language: {costs} (null: all sentences)")
    memory = sum(plan.memory.values())
    where = " on each device" if plan.processes > 1 else ""
    verdict = "fits" if memory < 0.9 * device.memory else "does not fit"
    lines += [
        f"  memory     of training{where}: {_listed(plan.memory)} = {_size(memory)}; "
        f"{verdict} in {_size(device.memory)}",
        f"  disk       {_listed(plan.disk)} = {_size(sum(plan.disk.values()))}",
    ]
    if plan.usd is not None:
        least = plan.device_hours * plan.usd
        kept = sum(stage.seconds for stage in plan.stages) / 3600 * devices * plan.usd
        lines.append(
            f"  cost       {plan.device_hours:,.1f} device hours at {plan.usd:g} USD = {least:,.0f} USD"
            + (f"; {kept:,.0f} USD when every device is kept to the end" if devices > 1 else "")
        )
    return "\n".join(lines)


def _flops(value: float) -> str:
    power = max(0, min(6, int(math.log10(max(value, 1)) // 3)))
    return f"{value / 1000**power:,.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}FLOP"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(value: float) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.0f} MB"


def _listed(sizes: dict[str, float]) -> str:
    return " + ".join(f"{name} {_size(size)}" for name, size in sizes.items() if size)
