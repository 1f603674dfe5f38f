"""Work, memory and disk of a run, from the shapes of its models.

A pass through N parameters costs 2·N FLOPs a position, and its backward pass twice that where all N are trained:
C ≈ 6·N·D (Kaplan et al. 2020, section 2.1; Hoffmann et al. 2022). Attention over T positions adds 4·T·width a layer and
position. Embedding tables are looked up and not counted. Each named constant says what it was measured on, or that it
was assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from speechde.conditions import CLEAN
from speechde.config import RunConfig
from speechde.config.tasks import CLIPS
from speechde.features.encoders import SpeechEncoder, pooling_factor
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.training.features import KMEANS_FRAMES
from speechde.training.lit_module import BUCKETS
from speechde.types import SAMPLE_RATE

# Left by run-length deduplication at 25 Hz: 0.77 to 0.87 measured on stamps. A unit BPE leaves fewer; not counted.
UNITS_PER_FRAME = 0.8
DECODED_SECONDS = 1800.0  # of 48 kHz MP3 per second by the two threads of the feature stage; 970 measured on a core
HOST_FLOPS = 2e11  # of k-means beside a GPU: float32 on about sixteen cores, assumed
KMEANS_ITERATIONS = 25
# Bytes kept for the backward pass by layer, position and width. Measured with saved-tensor hooks on layers of Qwen 3,
# Gemma 3 and BERT, 64 positions: 56 to 99 under bfloat16 autocast, 96 to 134 in float32.
ACTIVATION_BYTES = {torch.bfloat16: 95, torch.float32: 130}
CHECKPOINT_BYTES = 4  # with gradient checkpointing: the float32 input of a layer
ADAM_BYTES = 8  # two float32 moments


@dataclass(frozen=True)
class Clips:
    """One set of clips: what is known of it before it is decoded. Means are over the clips that were sampled."""

    count: int
    hours: float
    seconds: float  # mean, of clips that are not too long to be trained on
    longest: float
    tokens: float  # mean, of a transcript with its prefix
    prefix: float  # mean, of the speech prefix
    texts: int  # different ones
    sampled: int = 0  # 0: stated and not read
    unreadable: int = 0  # of those sampled
    guessed: int = 0  # of those sampled: lengths by the text


@dataclass(frozen=True)
class Stack:
    """Transformer layers that a position goes through: parameters outside embedding tables, and those trained."""

    parameters: int
    trained: int
    layers: int
    width: int

    def forward(self, positions: float) -> float:
        """FLOPs of one sequence."""
        return self._maps(positions) + self._attention(positions)

    def training(self, positions: float, checkpointed: bool = False) -> float:
        """FLOPs of one sequence, forward and backward, down to its input.

        Gradients of the inputs cost another forward pass, those of the weights two FLOPs for each that is trained;
        attention has two operands and no weights. Gradient checkpointing repeats the forward pass.
        """
        maps = (2 + checkpointed) * self._maps(positions) + 2 * self.trained * positions
        return maps + (3 + checkpointed) * self._attention(positions)

    def _maps(self, positions: float) -> float:
        return 2 * self.parameters * positions

    def _attention(self, positions: float) -> float:
        return 4 * self.layers * self.width * positions**2


@dataclass(frozen=True)
class Stage:
    """A part of the run: seconds on ``devices`` devices."""

    name: str
    flops: float
    seconds: float
    devices: int = 1


@dataclass(frozen=True)
class Stream:
    """A task as far as its work goes: the share of the steps, the pairs of a batch, and how many of them are texts.

    Each side of a pair of texts is taken as long as a transcript, and the examples of a file for pairs of texts.
    """

    name: str
    rate: float
    batch_size: int
    translated: float


def streams(config: RunConfig) -> list[Stream]:
    """The tasks of a run."""
    total = sum(task.rate for task in config.tasks.values())
    return [
        Stream(
            name,
            task.rate / total,
            task.batch_size or config.trainer.batch_size,
            task.shares.get("translation", 0.0) if task.examples == CLIPS else 1.0,
        )
        for name, task in config.tasks.items()
    ]


def stack(backbone: Backbone, first_layer: int = 0) -> Stack:
    """The layers of an LLM from ``first_layer`` up, and what follows them."""
    left_out = {id(p) for m in backbone.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    left_out |= {id(p) for layer in backbone.layers[:first_layer] for p in layer.parameters()}
    left_out.add(id(backbone.embedding.audio))
    used = [p for p in backbone.parameters() if id(p) not in left_out]
    trained = sum(p.numel() for p in used if p.requires_grad)
    return Stack(sum(p.numel() for p in used), trained, len(backbone.layers) - first_layer, backbone.width)


def encoder_stack(encoder: SpeechEncoder) -> tuple[Stack, float]:
    """The speech encoder up to its layer, and FLOPs per second of convolutions over samples (wav2vec 2.0 family)."""
    model, layers, stem, rate = encoder.model, encoder.layer, 0.0, float(SAMPLE_RATE)
    convolutions = getattr(model, "feature_extractor", None)
    unused = [*getattr(model, "layers", [])[layers:], *([convolutions] if convolutions is not None else [])]
    parameters = numel(model) - sum(numel(module) for module in unused)
    if convolutions is not None:
        for stride, module in zip(model.config.conv_stride, convolutions.conv_layers, strict=True):
            rate /= stride
            stem += 2 * rate * numel(module)
    return Stack(parameters, 0, layers, encoder.dim), stem


def numel(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class Cost:
    """Work, memory and disk of one configuration on sets of clips."""

    def __init__(
        self, config: RunConfig, encoder: SpeechEncoder, model: DualEncoder, sets: dict[str, Clips], processes: int = 1
    ) -> None:
        """``processes`` train together, on a device each."""
        self.config, self.source, self.model, self.sets = config, encoder, model, sets
        self.processes = processes
        self.streams = streams(config)
        self.pairs = sum(one.rate * one.batch_size for one in self.streams)  # of a batch, on average
        self.translated = sum(one.rate * one.batch_size * one.translated for one in self.streams) / self.pairs
        self.encoder, self.stem = encoder_stack(encoder)
        self.speech_stack, self.text_stack = stack(model.backbone, model.entry_layer("speech")), stack(model.backbone)
        self.averaged = config.trainer.average.kind != "none"
        self.text_is_frozen = not self.text_stack.trained and not model.backbone.embedding.text.weight.requires_grad
        self.pooled = pooling_factor(encoder.rate, config.frontend.rate) > 1
        f = config.frontend
        self.per_frame = (UNITS_PER_FRAME if f.deduplicate else 1.0) if f.kind == "discrete" else 1 / f.stride
        self.speeds = [speed for speed, _ in f.versions]
        self.heard = [each.value if each.kind == "speed" else 1.0 for each in (CLEAN, *config.eval.degraded)]
        slower = float(np.mean([1 / speed for speed in self.speeds]))
        extra = config.data.synthetic
        alone = extra.langs_share if extra.langs else 0.0  # of the training, in languages of synthetic speech alone
        made = sum(task.rate * task.shares.get("synthetic", 0.0) for task in config.tasks.values())
        made /= sum(task.rate for task in config.tasks.values())
        share = alone + (1 - alone) * made if sets.get("synthetic") else 0.0
        recorded, made = sets["train"], sets.get("synthetic") or sets["train"]
        self.seconds = (1 - share) * recorded.seconds * slower + share * made.seconds
        self.prefix = recorded.prefix
        self.speech = self.positions(self.seconds, f.drop)
        self.longest = self.positions(max(recorded.longest / min(self.speeds), made.longest), f.drop)
        self.text = (1 - share) * recorded.tokens + share * made.tokens

    def positions(self, seconds: float, drop: float = 0.0) -> float:
        """Positions of a clip in the LLM, prefix included. Silence is not taken off: headers do not show it."""
        return self.prefix + seconds * self.config.frontend.rate * (1 - drop) * self.per_frame

    def adapter(self, seconds: float, drop: float = 0.0) -> float:
        """FLOPs of one clip in the frontend; convolutions are counted at the rate of their input."""
        frontend = self.model.frontends["speech"]
        if not hasattr(frontend, "input"):  # over units there is nothing, or an adapter
            return 2 * (self.positions(seconds, drop) - self.prefix) * numel(frontend)
        lower = sum(numel(m) for m in (frontend.input, frontend.convolutions, frontend.pooling) if m is not None)
        frames = seconds * self.config.frontend.rate * (1 - drop)
        return 2 * frames * (lower + (numel(frontend) - lower) * self.per_frame)

    def encoding(self, clips: Clips, speeds: Sequence[float] = (1.0,)) -> tuple[float, float]:
        """FLOPs and seconds of audio of the speech encoder on a set at each speed."""
        audio = 3600 * clips.hours * sum(1 / speed for speed in speeds)
        positions = self.source.rate * (3600 * clips.hours / clips.count if clips.count else 0.0)
        one = self.encoder.forward(positions) / positions if positions else 0.0
        return audio * (self.source.rate * one + self.stem), audio

    def embedding(self, clips: Clips) -> float:
        """FLOPs of one pass over speech and text of a set, as in evaluation."""
        speech = self.speech_stack.forward(self.positions(clips.seconds)) + self.adapter(clips.seconds)
        return clips.count * speech + clips.texts * self.text_stack.forward(clips.tokens)

    def stages(self, speed: float, devices: int) -> list[Stage]:
        """The stages of a run at ``speed`` FLOP/s a device.

        ``devices`` encode and ``processes`` train; each is taken to halve its time when it doubles. Embedding is the
        first one's alone.
        """
        t, f = self.config.trainer, self.config.frontend
        train, dev, evaluation = (self.sets[name] for name in ("train", "dev", "evaluation"))
        parts = [self.encoding(train, self.speeds), self.encoding(dev)]
        if "synthetic" in self.sets:
            parts.append(self.encoding(self.sets["synthetic"]))
        flops, audio = (sum(values) for values in zip(*parts, strict=True))
        out = [Stage("encoding train and dev", flops, max(flops / speed, audio / DECODED_SECONDS) / devices, devices)]
        if f.kind == "discrete":
            frames = audio * f.rate
            work = min(frames, KMEANS_FRAMES) * KMEANS_ITERATIONS + frames
            work *= 2 * self.source.dim * f.units
            out.append(Stage("k-means and units, CPU", work, work / HOST_FLOPS))
        flops = self.training()
        out.append(Stage("training", flops, flops / speed / self.processes, self.processes))
        checks = t.steps // t.eval_every * self.embedding(dev)
        out.append(Stage(f"dev recall, {t.steps // t.eval_every} times", checks, checks / speed))
        flops, audio = self.encoding(evaluation, self.heard)
        out.append(Stage("encoding evaluation", flops, max(flops / speed, audio / DECODED_SECONDS) / devices, devices))
        flops = len(self.heard) * self.embedding(evaluation)
        return [*out, Stage("embedding evaluation", flops, flops / speed)]

    def training(self) -> float:
        """FLOPs of all steps; transcripts of a frozen LLM are read once, translations each time they are drawn.

        Cached gradients (``trainer.micro_batch``) cost another forward pass.
        """
        again = self.config.model.gradient_checkpointing
        cached = any(rows > part for rows, part in map(self.on_device, self.streams))
        adapter = self.adapter(self.seconds, self.config.frontend.drop)
        clip = self.speech_stack.training(self.speech, again) + 3 * adapter
        clip += cached * (self.speech_stack.forward(self.speech) + adapter)
        text, once = self.text_stack.training(self.text, again) + cached * self.text_stack.forward(self.text), 0.0
        transcript = text
        if self.text_is_frozen:
            text, transcript = self.text_stack.forward(self.text), 0.0
            once = text * sum(self.sets[name].texts for name in ("train", "synthetic") if name in self.sets)
        step = self.pairs * ((1 - self.translated) * (clip + transcript) + self.translated * 2 * text)
        return self.config.trainer.steps * step + once

    def memory(self, dtype: torch.dtype) -> dict[str, float]:
        """Bytes on one device in training, computed in ``dtype``, when a batch holds the longest clip.

        Weights; float32 gradients and Adam's moments of what is trained; bfloat16 copies of float32 weights under
        autocast; what the layers keep for the backward pass. With ``trainer.strategy=fsdp`` each of ``processes`` holds
        its share of the first three. The part of the batch with the longest clips is padded to them. The adapter, the
        feature batches and the layer that FSDP has gathered are small beside this and left out.
        """
        parameters = list(self.model.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        copied = dtype == torch.bfloat16 and self.config.model.dtype == "float32"
        share = 1 / self.processes if self.config.trainer.strategy == "fsdp" else 1.0
        return {
            "weights": share * sum(p.numel() * p.element_size() for p in parameters),
            "gradients and Adam": share * trained * (4 + ADAM_BYTES),
            **({"average of the weights": 4.0 * trained} if self.averaged else {}),
            "bfloat16 copies": share * 2 * self.text_stack.parameters * copied,
            "activations": max(self.activations(one, dtype) for one in self.streams),
        }

    def on_device(self, stream: Stream) -> tuple[int, int]:
        """Rows of a batch that one device has, and how many of them are encoded at once."""
        rows = math.ceil(stream.batch_size / self.processes)
        return rows, min(self.config.trainer.micro_batch or rows, rows)

    def activations(self, stream: Stream, dtype: torch.dtype) -> float:
        """Bytes kept for the backward pass: of all rows of a device or, with cached gradients, of the longest part."""
        rows, part = self.on_device(stream)
        speech, text = rows * (1 - stream.translated), rows * (1 + stream.translated)  # sequences
        positions = speech * ((BUCKETS - 1) * self.speech + self.longest) / BUCKETS * self.speech_stack.layers
        at_once = speech / BUCKETS
        texts = 0.0 if self.text_is_frozen else self.text * self.text_stack.layers
        if part < rows:
            at_once = min(at_once, part)
            positions = max(at_once * self.longest * self.speech_stack.layers, min(text / BUCKETS, part) * texts)
        else:
            positions += text * texts
        width, checkpointed = self.speech_stack.width, self.config.model.gradient_checkpointing
        found = positions * width * (CHECKPOINT_BYTES if checkpointed else ACTIVATION_BYTES[dtype])
        if checkpointed:  # one layer at a time is run again, for one part of the batch
            found += at_once * self.longest * width * ACTIVATION_BYTES[dtype]
        return found

    def disk(self) -> dict[str, float]:
        """Bytes of every kind of file: float16 frames, int32 units, two checkpoints (weights and Adam), the model."""
        f = self.config.frontend
        hours = {name: clips.hours for name, clips in self.sets.items()}
        versions = {"train": self.speeds, "evaluation": self.heard}
        seconds = 3600 * sum(time * sum(1 / s for s in versions.get(name, [1.0])) for name, time in hours.items())
        own = 2 * self.source.dim * seconds * self.source.rate
        out = {f"frames at {self.source.rate:g} Hz": own}
        if self.pooled:
            out[f"frames at {f.rate:g} Hz"] = own * f.rate / self.source.rate
        if f.mean_norm:
            out["frames less their mean"] = own * f.rate / self.source.rate
        if f.kind == "discrete":
            out["units"] = 4 * seconds * f.rate * self.per_frame
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        out["checkpoints"] = 2 * trained * (4 + ADAM_BYTES + 4 * self.averaged)
        out["model"] = sum(p.numel() * p.element_size() for p in self.model.parameters())
        return out
