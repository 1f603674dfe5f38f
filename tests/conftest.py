"""Fixtures: tiny random checkpoints in the ordinary folder layout, and generated sound. Nothing is downloaded."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import logging

from speechde.config import RunConfig, build
from speechde.data.manifest import write_manifest
from speechde.types import SAMPLE_RATE, Utterance

logging.disable_progress_bar()
torch.set_num_threads(1)

SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
SHAPE = {
    "vocab_size": len(SPECIAL) + 256,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,  # with the usual 0.02 a random model of this size hardly looks at its context
}
EXTRA = {
    "gemma3_text": {
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "llama": {"num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 1, "sliding_window": None},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 8},
    "gpt2": {},
    "bert": {},
    "xlm-roberta": {},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    np.random.seed(0)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte, any language; ``<bos>`` in front as LLM tokenizers put it."""
    vocabulary = {token: i for i, token in enumerate(SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 1)])
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory):
    """``tiny_llm(model_type)`` → folder of a random 2-layer, 16-wide checkpoint with a byte tokenizer."""
    folders = {}

    def build(model_type="gemma3_text"):
        if model_type not in folders:
            torch.manual_seed(1)
            folder = tmp_path_factory.mktemp(model_type)
            config = CONFIG_MAPPING[model_type](**SHAPE | EXTRA[model_type])
            AutoModel.from_config(config).save_pretrained(folder)
            byte_tokenizer().save_pretrained(folder)
            folders[model_type] = folder
        return folders[model_type]

    return build


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory):
    """Folder of a random 2-layer, 16-wide Whisper encoder whose window is 30 frames (0.6 s)."""
    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(1)
    config = WhisperConfig(
        num_mel_bins=80,
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        max_source_positions=30,
        init_std=0.3,
    )
    WhisperEncoder(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


def tone(seconds: float, frequency: float = 220.0, seed: int = 0) -> np.ndarray:
    """A harmonic tone with a little noise, float32 in −1…1, 16 kHz."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = sum(np.sin(2 * np.pi * frequency * k * time) / k for k in (1, 2, 3))
    noise = np.random.default_rng(seed).normal(size=len(time))
    return (0.2 * sound + 0.02 * noise).astype(np.float32)


@pytest.fixture
def make_tone():
    """``make_tone(seconds, frequency, seed)`` → waveform."""
    return tone


@pytest.fixture
def make_wav(tmp_path):
    """``make_wav(name, seconds, frequency, seed)`` → path of a 16 kHz mono 16-bit file."""

    def write(name="a.wav", seconds=0.5, frequency=220.0, seed=0):
        path = tmp_path / name
        soundfile.write(path, tone(seconds, frequency, seed), SAMPLE_RATE, subtype="PCM_16")
        return path

    return write


def compose_recipe(name: str) -> dict:
    """The plain mapping that ``python train.py recipe=NAME`` builds its configuration from."""
    folder = Path(__file__).resolve().parents[1] / "conf"
    ConfigStore.instance().store("schema", asdict(RunConfig()))  # as train.py does
    with initialize_config_dir(str(folder), version_base="1.3"):
        overrides = [f"recipe={name}", f"recipe_name={name}", "run_name=default"]
        return OmegaConf.to_container(compose("config", overrides), resolve=True)


@pytest.fixture
def recipe_values():
    """``recipe_values(recipe)`` → the composed mapping."""
    return compose_recipe


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Two seen languages and a zero-shot one, all with train, dev and test clips of 0.3 s."""
    folder = tmp_path_factory.mktemp("clips")
    sizes, out = {"train": 5, "dev": 3, "test": 3}, []
    for i, lang in enumerate(("es_419", "fr_fr", "ro_ro")):
        for split, size in sizes.items():
            for n in range(size):
                path = folder / f"{lang}-{split}-{n}.wav"
                soundfile.write(path, tone(0.3, 110.0 * (2 + n + 3 * i), seed=n), SAMPLE_RATE, subtype="PCM_16")
                text = f"{lang} {split} {n}"
                out.append(Utterance(path.stem, lang, text, str(path), text, split, translation=f"{split} {n}"))
    return out


@pytest.fixture
def tiny_run(clips, tiny_llm, tiny_whisper, tmp_path):
    """``tiny_run(recipe, **overrides)`` → ``RunConfig`` of two steps on ``clips``; ``model__dim=8`` sets model.dim."""

    def make(recipe: str = "stamps", utterances=None, **overrides) -> RunConfig:
        values = compose_recipe(recipe)
        discrete = values["frontend"]["kind"] == "discrete"
        manifest = write_manifest(clips if utterances is None else utterances, tmp_path / "clips.jsonl")
        values["data"] = {"name": "manifest", "path": str(manifest), "seen": ["es_419", "fr_fr"]}
        values["frontend"] |= {"encoder": str(tiny_whisper), "units": 8, "hidden": 8, "heads": 2, "layers": 1}
        values["model"] |= {"source": str(tiny_llm("gemma3_text" if discrete else "bert")), "num_layers": None}
        values["model"]["speech_layer"] = min(1, values["model"].get("speech_layer", 0))
        values["trainer"] |= {"steps": 2, "eval_every": 1, "batch_size": 4, "precision": "32-true"}
        values["trainer"]["accelerator"] = "cpu"
        values["logger"]["mode"] = "disabled"
        values |= {"threads": 1, "runs_dir": str(tmp_path / "runs"), "cache_dir": str(tmp_path / "cache")}
        for name, value in overrides.items():
            *groups, key = name.split("__")
            target = values
            for group in groups:
                target = target[group]
            target[key] = value
        return build(values)

    return make
