"""The typed configuration: every knob, its default, its allowed values, in one place.

Hydra composes ``conf/`` into a plain mapping; ``build`` checks that mapping against these dataclasses, so that a typo
in a key or a value is an error that names the allowed ones, wherever it was written. Nothing below the run modules
reads this file: the library takes ordinary arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from speechde.config.ateb import AtebConfig
from speechde.config.data import DataConfig
from speechde.config.earlier import refuse_moved
from speechde.config.evaluation import EvalConfig
from speechde.config.tasks import CLIPS, TRANSLATION, TRANSLATIONS, TaskConfig, speech_task
from speechde.errors import ConfigError
from speechde.schema import bounded, built, choice, location


@dataclass
class AdaptConfig:
    """The model ``init`` learns more languages, those of ``data.seen``; see ``speechde.training.adapt``."""

    enabled: bool = False  # recipe=adapt
    replay: float = bounded(
        0.5, "[0, 1)"
    )  # share of the training in languages that the model has been trained on before
    old: DataConfig | None = None  # where those, and languages that stay zero-shot, come from; None: not even tested


@dataclass
class FrontendConfig:
    """Speech encoder and how its frames reach the LLM."""

    kind: str = choice("discrete", "discrete", "continuous", "none")  # none: the model reads text alone
    encoder: str = "packaged:whisper-base-encoder"
    layer: int = -1
    rate: float = bounded(25.0, "(0, ∞)")  # frames per second given to k-means or to the adapter
    trim_db: float = bounded(40.0, "(0, ∞)")
    mean_norm: float = bounded(0.0, "[0, 1]")  # share of its own mean that is subtracted from each clip's frames
    # recorded versions of each training clip
    speeds: list[float] = field(default_factory=lambda: [1.0], metadata={"interval": "(0, ∞)"})
    snrs: list[float] = field(default_factory=list)  # further versions: white noise at so many dB below the clip
    drop: float = bounded(0.0, "[0, 1)")
    drop_span: int = bounded(1, "[1, ∞)")
    units: int = bounded(1024, "[2, ∞)")
    deduplicate: bool = True
    unit_layers: int = bounded(0, "[0, ∞)")  # of an adapter over units; 0: they are tokens of the LLM, as in the paper
    bpe: int | None = None  # audio tokens after byte-pair encoding of the units; None for the units themselves
    hidden: int = bounded(384, "[1, ∞)")
    stride: int = bounded(2, "[1, ∞)")
    layers: int = bounded(2, "[0, ∞)")
    positions: bool = False  # of frames, also without layers, which have them: see docs/recipes.md
    heads: int = bounded(6, "[1, ∞)")
    dropout: float = bounded(0.1, "[0, 1)")
    noise: float = bounded(0.0, "[0, ∞)")
    downsample: str = choice("conv", "conv", "attention")  # of the continuous frontend
    mask_features: int = bounded(0, "[0, ∞)")  # widest band of frame dimensions masked in training
    shard: str | None = None  # "3/16": encode the third of 16 shares of the clips, and stop; see docs/scale.md
    ray_workers: int = bounded(0, "[0, ∞)")  # Ray actors that encode, one GPU each if there are any; 0: this process

    def __post_init__(self) -> None:  # refused before anything is fetched
        _ = self.share
        if self.bpe is not None and self.kind != "discrete":
            raise ConfigError(f"frontend.bpe={self.bpe} needs units; set frontend.kind=discrete, or frontend.bpe=null")
        if self.bpe is not None and self.bpe < self.units:
            raise ConfigError(
                f"frontend.bpe={self.bpe} is below frontend.units={self.units}, all of which are tokens; raise "
                "frontend.bpe (4096, say) or lower frontend.units"
            )

    @property
    def versions(self) -> list[tuple[float, float | None]]:
        """Speed and signal-to-noise ratio (None: no noise added) of each version of the training clips."""
        return [*((speed, None) for speed in self.speeds), *((1.0, snr) for snr in self.snrs)]

    @property
    def share(self) -> tuple[int, int] | None:
        """``shard`` as (number, count).

        Raises:
            ConfigError: it is not such a pair.
        """
        if self.shard is None:
            return None
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"frontend.shard={self.shard!r} is not I/N with 1 ≤ I ≤ N; write frontend.shard=3/16")
        return int(match[1]), int(match[2])


@dataclass
class ImageConfig:
    """Vision encoder and how its patches reach the LLM; see ``speechde.models.frontends.patches``."""

    kind: str = choice("none", "none", "patches")  # none: the model sees nothing
    encoder: str = "packaged:efficientnet-lite0"
    hidden: int = bounded(384, "[1, ∞)")
    stride: int = bounded(1, "[1, ∞)")  # neighbouring patches that become one position of the LLM
    layers: int = bounded(0, "[0, ∞)")
    heads: int = bounded(6, "[1, ∞)")
    dropout: float = bounded(0.1, "[0, 1)")
    drop: float = bounded(0.0, "[0, 1)")  # share of the patches left out at random in training


@dataclass
class PrefixConfig:
    """Prefix templates; see ``speechde.models.prompt``."""

    mode: str = choice("name", "name", "unknown", "none")
    speech: str = "[{language} Speech] "
    text: str = "[{language} Text] "
    image: str = "[Image] "


@dataclass
class LoraConfig:
    """Low-rank updates in place of the LLM's weights; needs the extra ``lora``. See ``models.lora``."""

    rank: int = bounded(0, "[0, ∞)")  # 0: no LoRA
    alpha: float = bounded(32.0, "(0, ∞)")
    dropout: float = bounded(0.0, "[0, 1)")
    targets: list[str] = field(default_factory=lambda: ["all-linear"])


@dataclass
class ModelConfig:
    """The LLM and the embedding head."""

    source: str = "packaged:gemma-3-270m"
    init: str = choice("pretrained", "pretrained", "random")
    num_layers: int | None = bounded(None, "[1, ∞)")
    attention: str = choice("bidirectional", "bidirectional", "causal")
    dropout: float | None = bounded(None, "[0, 1)")
    dtype: str = choice("float32", "float32", "bfloat16")  # bfloat16 for weights that are frozen or adapted by LoRA
    attn_implementation: str = choice("auto", "auto", "eager", "sdpa", "flash_attention_2")
    gradient_checkpointing: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)
    freeze: list[str] = field(default_factory=list)
    audio_init: str = choice("normal", "normal", "centroids")
    dim: int | None = bounded(None, "[1, ∞)")
    projection_init: str = choice("random", "random", "identity")
    projection_gain: float = bounded(1.0, "(0, ∞)")
    speech_layer: int = bounded(0, "[0, ∞)")  # layer of the LLM at which speech enters; 0 is its input
    image_layer: int | None = bounded(None, "[0, ∞)")  # the same of pictures; None: where speech enters
    max_tokens: int = bounded(256, "[1, ∞)")  # of a text with its prefix; longer ones are cut, and counted
    prefix: PrefixConfig = field(default_factory=PrefixConfig)


@dataclass
class LossConfig:
    """See ``speechde.losses.contrastive.ContrastiveLoss``."""

    similarity: str = choice("dot", "dot", "cosine")
    temperature: float | None = bounded(None, "(0, ∞)")
    learn_temperature: bool = False
    spread_out_weight: float = bounded(1.0, "[0, ∞)")
    mask_duplicates: bool = True
    directions: str = choice("both", "both", "query")  # query: of queries among answers alone
    hardness: float = bounded(0.0, "[0, ∞)")  # of hard negatives; 0 weighs all alike
    bank: int = bounded(0, "[0, ∞)")  # further transcripts of its language that a clip is compared with
    # sizes that vectors may be cut to, the width first; [] for the width alone
    dims: list[int] = field(default_factory=list, metadata={"interval": "[1, ∞)"})

    def __post_init__(self) -> None:  # refused before anything is fetched
        if self.dims != (fixed := sorted(set(self.dims), reverse=True)):
            raise ConfigError(
                f"loss.dims={_listed(self.dims)} are prefixes of each other, the longest first and each once; write "
                f"loss.dims={_listed(fixed)}"
            )

    def check_width(self, width: int) -> None:
        """Refuse ``dims`` that vectors of ``width`` components have not, or that leave some of them untrained.

        Raises:
            ConfigError: the first is not the width.
        """
        if self.dims and self.dims[0] != width:
            why = "has no more components" if self.dims[0] > width else "would keep components that nothing trains"
            fixed = [width, *(dim for dim in self.dims if dim < width)]
            raise ConfigError(
                f"loss.dims={_listed(self.dims)} begins with {self.dims[0]}, and a vector of this model, {width} wide, "
                f"{why}; write loss.dims={_listed(fixed)}, or model.dim={self.dims[0]}"
            )


def _listed(values: list[int]) -> str:
    """As a list is written on the command line."""
    return f"[{','.join(map(str, values))}]"


@dataclass
class CtcConfig:
    """Letters of transcripts, learned beside the contrastive loss; see ``speechde.training.letters``."""

    weight: float = bounded(0.0, "[0, ∞)")  # of their loss; 0: they are not learned
    layer: int = bounded(1, "[1, ∞)")  # of the speech adapter, whose output they are read from
    upsample: int = bounded(3, "[1, ∞)")  # letters read of each position of the adapter


@dataclass
class OptimConfig:
    """AdamW, warm-up and cosine."""

    lr: float = bounded(1e-3, "(0, ∞)")
    backbone_lr: float = bounded(1e-4, "[0, ∞)")
    weight_decay: float = bounded(0.01, "[0, ∞)")
    warmup_share: float = bounded(0.1, "[0, 1]")
    clip: float = bounded(1.0, "[0, ∞)")


@dataclass
class AverageConfig:
    """The average of the weights of a run that is evaluated and kept; see ``speechde.training.averaging``."""

    kind: str = choice("none", "none", "ema", "tail")
    decay: float = bounded(0.999, "(0, 1)")  # ema: reaches back about 1 / (1 - decay) steps
    last: int = bounded(5, "[1, ∞)")  # tail: dev evaluations whose weights are averaged


@dataclass
class TrainerConfig:
    """Length, batches and hardware of the training run."""

    steps: int = bounded(1000, "[1, ∞)")
    eval_every: int = bounded(100, "[1, ∞)")  # steps between dev evaluations and checkpoints
    save_every: int | None = bounded(None, "[1, ∞)")  # steps between further checkpoints, to resume from
    batch_size: int = bounded(128, "[2, ∞)")  # pairs compared with each other, over all processes; a task may differ
    micro_batch: int | None = bounded(None, "[1, ∞)")  # rows encoded at once, with cached gradients; None: all
    max_seconds: float = bounded(4.0, "(0, ∞)")  # longer clips are left out of training, and counted
    precision: str = choice("auto", "auto", "32-true", "bf16-mixed")
    accelerator: str = choice("auto", "auto", "cpu", "gpu")
    devices: int = bounded(
        1, "[1, ∞)"
    )  # of this machine, one process each; torchrun and srun decide themselves (see docs/scale.md)
    strategy: str = choice("ddp", "ddp", "fsdp")  # of several processes: fsdp shares the weights out too
    resume: bool = True  # from the last checkpoint of this run directory, where there is one
    average: AverageConfig = field(default_factory=AverageConfig)

    def __post_init__(self) -> None:
        if self.average.kind != "none" and self.strategy == "fsdp":
            raise ConfigError(
                f"trainer.average.kind={self.average.kind} needs the weights whole, and trainer.strategy=fsdp shares "
                "them out; set trainer.strategy=ddp, or average finished models: speechde soup A B --out M"
            )


@dataclass
class LoggerConfig:
    """Weights & Biases; a CSV is always written."""

    mode: str = choice("offline", "offline", "online", "disabled")
    project: str = "speechde"
    entity: str | None = None
    group: str | None = None  # of a sweep: its name
    log_model: bool = False  # the model folder as an artifact; as large as the LLM

    def __post_init__(self) -> None:
        team, slash, project = self.project.partition("/")
        if slash and self.entity in (None, team):  # TEAM/PROJECT, as W&B itself writes it
            self.entity, self.project = team, project
        if not self.project or len(self.project) > 128 or set(self.project) & set("/\\#?%:"):
            raise ConfigError(
                f"logger.project={self.project!r} is no name of a W&B project: 1 to 128 characters, none of "
                "/ \\ # ? % :; a team is logger.entity=TEAM, or logger.project=TEAM/PROJECT"
            )


@dataclass
class PlanConfig:
    """The plan printed before a run; see ``speechde.training.plan.plan``. None of it changes the run."""

    device: str | None = None  # a row of training.devices.DATASHEETS, or cpu; None for what is here
    devices: int = bounded(1, "[1, ∞)")  # that encode (frontend.shard, frontend.ray_workers); trainer.devices train
    utilisation: float | None = bounded(
        None, "(0, 1]"
    )  # share of the peak that is reached; None takes training.devices.REACHED
    usd_per_device_hour: float | None = None
    train_clips: int | None = None  # published sizes in place of a corpus, with plan_only=true
    train_hours: float | None = None
    dev_clips: int | None = None
    dev_hours: float | None = None
    eval_clips: int | None = None
    eval_hours: float | None = None


@dataclass
class RunConfig:
    """A whole run."""

    recipe_name: str = ""
    mode: str = choice("faithful", "faithful", "modern")
    init: str | None = location()  # run directory, model folder or hub id to start from; None: the LLM alone
    seed: int = bounded(0, "[0, ∞)")
    threads: int | None = bounded(None, "[1, ∞)")
    runs_dir: str = location("runs")
    cache_dir: str | None = location()
    run_name: str = "default"
    report_dir: str | None = location()
    archive_dir: str | None = location()  # keeps finished runs, small enough to commit; these are not run again
    data: DataConfig = field(default_factory=DataConfig)
    tasks: dict[str, TaskConfig | None] = field(default_factory=speech_task)  # null drops one
    ateb: AtebConfig = field(default_factory=AtebConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    ctc: CtcConfig = field(default_factory=CtcConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    plan_only: bool = False  # print the plan and stop

    def __post_init__(self) -> None:
        self.tasks = {name: task for name, task in self.tasks.items() if task is not None}
        if not self.tasks:
            raise ConfigError("tasks is empty; a run trains on one at least, e.g. tasks.speech.examples=clips")
        for name, task in self.tasks.items():
            task.check(name)
        self._check_modalities()
        self._check_letters()
        self._check_bank()
        if self.adapt.enabled and self.init is None:
            raise ConfigError("adapt.enabled=true adapts a trained model; name it: init=runs/quickstart/default-s0")

    def _check_modalities(self) -> None:
        """Speech has clips, a frontend and a task, or none of them."""
        spoken = [name for name, task in self.tasks.items() if task.examples == CLIPS]
        without = {"data.name=none": self.data.name == "none", "frontend.kind=none": self.frontend.kind == "none"}
        if any(without.values()) and spoken:
            named = " and ".join(name for name, told in without.items() if told)
            raise ConfigError(f"{named}: there is no speech for tasks.{spoken[0]}; set tasks.{spoken[0]}=null")
        if sum(without.values()) == 1:
            raise ConfigError("data=none and frontend=none belong together: a model without speech; set both, or none")
        if self.without_speech and self.frontend.shard:
            raise ConfigError(
                f"frontend.shard={self.frontend.shard}: a model without speech has no clips to encode; drop it"
            )

    def _check_letters(self) -> None:
        """Letters are learned from clips, in one pass over whole batches."""
        if not self.ctc.weight:
            return
        reasons = {
            f"trainer.micro_batch={self.trainer.micro_batch}": self.trainer.micro_batch is not None,
            f"trainer.strategy={self.trainer.strategy}": self.trainer.strategy == "fsdp",
            f"frontend.kind={self.frontend.kind}": self.frontend.kind in ("none", "discrete"),
        }
        if against := [name for name, holds in reasons.items() if holds]:
            raise ConfigError(
                f"ctc.weight={self.ctc.weight} reads letters from the layers of an adapter over frames, in one pass "
                f"over a batch that each process has whole, and {against[0]} is set; change that, or set ctc.weight=0"
            )

    def _check_bank(self) -> None:
        """Further transcripts are told from those of a batch by their words alone."""
        for name, task in self.tasks.items():
            mixed = task.shares.get(TRANSLATION) or not task.one_language
            if self.loss.bank and task.examples == CLIPS and mixed:
                what = "one_language=false" if not task.one_language else f"shares.{TRANSLATION}"
                raise ConfigError(
                    f"loss.bank={self.loss.bank} takes transcripts of the language of a batch, whose sentences in "
                    f"other languages it cannot know, and tasks.{name}.{what} is set; drop that, or set loss.bank=0"
                )

    @property
    def without_speech(self) -> bool:
        """Whether the model reads no speech: text, and pictures where there is a frontend for them."""
        return self.frontend.kind == "none"

    def uses(self, source: str) -> bool:
        """Whether a task of clips has a share of a source, or, of translations, is of these alone."""
        whole = {"translation": TRANSLATIONS}.get(source)
        return any(task.shares.get(source, 0.0) > 0 or task.examples == whole for task in self.tasks.values())


def build(values: Mapping[str, Any]) -> RunConfig:
    """Check a plain mapping and turn it into a ``RunConfig``.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or outside its allowed set; the message names them.
    """
    refuse_moved(values)
    return built(RunConfig, values)
