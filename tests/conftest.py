"""Fixtures: tiny random checkpoints in the ordinary folder layout, and generated sound. Nothing is downloaded."""

from __future__ import annotations

import gzip
import logging
import os
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import soundfile
import torch
import transformers
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import logging as transformers_logging

from speechde.config import RunConfig, build
from speechde.corpora.manifest import write_manifest
from speechde.training.stage import inherit
from speechde.types import SAMPLE_RATE, Utterance

transformers_logging.disable_progress_bar()
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
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
TEXT = SHAPE | GROUPED | SLIDING
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "relative_attention_num_buckets": 8,
      "relative_attention_max_distance": 16, "vocab_size": SHAPE["vocab_size"]}  # fmt: skip
VISION = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 2, "image_size": 16, "patch_size": 8}  # fmt: skip
# name of a tiny checkpoint → its config; the model type is the name unless the config says otherwise
TINY = {
    "gemma3_text": TEXT,
    "embeddinggemma": TEXT | {"model_type": "gemma3_text", "use_bidirectional_attention": True, "sliding_window": 6},
    "gemma3": {"text_config": TEXT, "vision_config": VISION, "mm_tokens_per_image": 4, "image_token_index": 255},
    "gemma2": TEXT | {"query_pre_attn_scalar": 8},
    "llama": SHAPE | {"num_key_value_heads": 1},
    "mistral": SHAPE | {"num_key_value_heads": 1, "sliding_window": None},
    "mistral-sliding": SHAPE | {"model_type": "mistral", "num_key_value_heads": 1, "sliding_window": 4},
    "qwen2": SHAPE | {"num_key_value_heads": 1},
    "qwen2-sliding": SHAPE
    | {"model_type": "qwen2", "num_key_value_heads": 1, "use_sliding_window": True, "sliding_window": 4}
    | {"max_window_layers": 1},
    "qwen3": SHAPE | GROUPED,
    "gpt2": SHAPE,
    "bert": SHAPE,
    "xlm-roberta": SHAPE,
    "modernbert": SHAPE | {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
    "mt5": T5 | {"feed_forward_proj": "gated-gelu"},
    "t5": T5,
    "t5gemma": {"encoder": TEXT, "decoder": TEXT, "vocab_size": SHAPE["vocab_size"]},
    "t5gemma2": {
        "encoder": {"text_config": TEXT, "vision_config": VISION, "mm_tokens_per_image": 4},
        "decoder": TEXT,
        "image_token_index": 255,
    },
    "embedding_gemma2": {
        "text_config": TEXT
        | {"hidden_size_per_layer_input": 6, "embedding_dim": 16, "global_head_dim": 12}
        | {"num_global_key_value_heads": 1},
        "vision_config": None,
        "audio_config": None,
    },
}

ConfigStore.instance().store("schema", asdict(RunConfig()))  # as train.py does


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def log_settings():
    """A command that runs in this process speaks for itself alone: the next test logs as it would without it."""
    logger = logging.getLogger("speechde")
    before = logger.level, logger.propagate, list(logger.handlers)
    yield
    logger.setLevel(before[0])
    logger.propagate, logger.handlers[:] = before[1:]


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
    """``tiny_llm(name)`` → folder of a random 2-layer, 16-wide checkpoint of ``TINY`` with a byte tokenizer."""
    folders = {}

    def build(name="gemma3_text"):
        if name not in folders:
            torch.manual_seed(1)
            folder = tmp_path_factory.mktemp(name)
            values = deepcopy(TINY[name])  # transformers changes what it is given
            config = CONFIG_MAPPING[values.pop("model_type", name)](**values)
            AutoModel.from_config(config).save_pretrained(folder)
            byte_tokenizer().save_pretrained(folder)
            folders[name] = folder
        return folders[name]

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


@pytest.fixture(scope="session")
def tiny_asr(tmp_path_factory):
    """Folder of a random whole Whisper model of that size, which writes bytes; it knows French and Romanian."""
    folder = tmp_path_factory.mktemp("asr")
    torch.manual_seed(2)
    names = ["endoftext", "startoftranscript", "fr", "ro", "translate", "transcribe", "notimestamps"]
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens([f"<|{name}|>" for name in names])
    ids = {name: inner.token_to_id(f"<|{name}|>") for name in names}
    special = dict.fromkeys(("eos_token_id", "bos_token_id", "pad_token_id"), ids["endoftext"])
    special["decoder_start_token_id"] = ids["startoftranscript"]
    config = WhisperConfig(
        vocab_size=inner.get_vocab_size(),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=30,
        max_target_positions=64,
        init_std=0.3,
        **special,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        **special,
        is_multilingual=True,
        no_timestamps_token_id=ids["notimestamps"],
        lang_to_id={f"<|{name}|>": ids[name] for name in ("fr", "ro")},
        task_to_id={name: ids[name] for name in ("transcribe", "translate")},
        # one byte per letter: a random model writes invalid UTF-8 otherwise
        suppress_tokens=[i for i in range(len(inner.get_vocab())) if not inner.id_to_token(i).isascii()],
    )
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>").save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


# the wav2vec 2.0 family in its two forms: post-norm layers and group norm (base), pre-norm and layer norm (large)
CONVOLUTIONS = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BASE = WIDTH | CONVOLUTIONS | {"feat_extract_norm": "group", "do_stable_layer_norm": False}
LARGE = WIDTH | CONVOLUTIONS | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
PARAKEET = WIDTH | {"num_mel_bins": 16, "subsampling_conv_channels": 4}
TRANSDUCER = {"encoder_config": PARAKEET, "vocab_size": 9, "pad_token_id": 2, "blank_token_id": 8,
              "decoder_hidden_size": 8, "num_decoder_layers": 1}  # fmt: skip
GEMMA3N = {"hidden_size": 16, "conf_num_hidden_layers": 2, "conf_num_attention_heads": 2, "input_feat_size": 16,
           "sscp_conv_channel_size": [8, 4], "model_type": "gemma3n_audio"}  # fmt: skip
GEMMA4 = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "output_proj_dims": 12,
          "subsampling_conv_channels": [16, 4], "model_type": "gemma4_audio"}  # fmt: skip
# name → (config, feature extractor and its settings); the model type is the name unless the config says otherwise
SPEECH = {
    "wav2vec2": (BASE, "Wav2Vec2", {"return_attention_mask": False}),
    "xls-r": (LARGE | {"model_type": "wav2vec2"}, "Wav2Vec2", {"return_attention_mask": True}),
    "hubert": (BASE, "Wav2Vec2", {"do_normalize": False}),
    "hubert-large": (LARGE | {"model_type": "hubert"}, "Wav2Vec2", {}),
    "wavlm": (BASE, "Wav2Vec2", {"do_normalize": False}),
    "wavlm-large": (LARGE | {"model_type": "wavlm"}, "Wav2Vec2", {}),
    "data2vec-audio": (WIDTH | CONVOLUTIONS | {"conv_pos_kernel_size": 5}, "Wav2Vec2", {}),
    "wav2vec2-bert": (
        WIDTH | {"feature_projection_input_dim": 32, "conv_depthwise_kernel_size": 5},
        "SeamlessM4T",
        {"num_mel_bins": 16},
    ),
    "parakeet_encoder": (PARAKEET, "Parakeet", {}),
    "parakeet_ctc": ({"encoder_config": PARAKEET, "vocab_size": 9, "pad_token_id": 8}, "Parakeet", {}),
    "parakeet_rnnt": (TRANSDUCER, "Parakeet", {}),
    "parakeet_tdt": (TRANSDUCER, "Parakeet", {}),
    "gemma3n_audio": (GEMMA3N, "Gemma3nAudio", {}),
    "gemma3n": ({"audio_config": GEMMA3N}, "Gemma3nAudio", {}),
    "gemma4_audio": (GEMMA4, "Gemma4Audio", {}),
    "gemma4": ({"audio_config": GEMMA4}, "Gemma4Audio", {}),
    "embedding_gemma2": ({"audio_config": GEMMA4}, "Gemma4Audio", {}),
}


@pytest.fixture(scope="session")
def tiny_speech_encoder(tmp_path_factory):
    """``tiny_speech_encoder(name)`` → folder of a random 2-layer, 16-wide checkpoint of ``SPEECH``.

    Of the Gemma models only the speech encoder is written, under the names it has in the whole model.
    """
    folders = {}

    def build(name):
        if name not in folders:
            torch.manual_seed(1)
            folder = tmp_path_factory.mktemp(name)
            values, extractor, settings = deepcopy(SPEECH[name])
            model_type = values.get("model_type", name)
            if model_type not in CONFIG_MAPPING:
                pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
            config = CONFIG_MAPPING[model_type](**values)
            audio = getattr(config, "audio_config", None)
            model = AutoModel.from_config(audio or config)
            for parameter in model.parameters():
                if parameter.dim() > 1:  # with transformers' 0.02 such a small model hardly looks at its context
                    torch.nn.init.normal_(parameter, std=0.3)
            if audio:
                config.save_pretrained(folder)
                tensors = {f"model.audio_tower.{key}": value for key, value in model.state_dict().items()}
                tensors["model.language_model.norm.weight"] = torch.ones(16)
                save_file(tensors, folder / "model.safetensors", {"format": "pt"})
            else:
                model.save_pretrained(folder)
            settings = {"feature_size": 1 if extractor == "Wav2Vec2" else 16} | settings
            getattr(transformers, f"{extractor}FeatureExtractor")(**settings).save_pretrained(folder)
            folders[name] = folder
        return folders[name]

    return build


@pytest.fixture(scope="session")
def tiny_vision(tmp_path_factory):
    """Folder of a random 16-wide SigLIP vision tower, which makes 4 tokens of a picture."""
    folder = tmp_path_factory.mktemp("vision")
    model = AutoModel.from_config(CONFIG_MAPPING[VISION["model_type"]](**VISION))
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
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


def compose_recipe(name: str, *more: str) -> dict:
    """The plain mapping that ``python train.py recipe=NAME`` builds its configuration from."""
    folder = Path(__file__).resolve().parents[1] / "conf"
    with initialize_config_dir(str(folder), version_base="1.3"):
        overrides = [f"recipe={name}", f"recipe_name={name}", "run_name=default", *more]
        return OmegaConf.to_container(compose("config", overrides), resolve=True)


@pytest.fixture
def recipe_values():
    """``recipe_values(recipe, *overrides)`` → the composed mapping."""
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


def write_bitext(folder: Path) -> Path:
    """WikiMatrix of French alone: nine pairs, one below the default score, one whose English is a dev sentence."""
    folder.mkdir(exist_ok=True)
    lines = [f"{1.2 - n / 100}\tthis is sentence number {n}\tvoici la phrase {n}" for n in range(7)]
    lines += ["1.01\tthis one scores too low\tcelle-ci est trop bas", "1.3\tdev 0\tune phrase de dev"]
    with gzip.open(folder / "WikiMatrix.en-fr.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def tiny_run(clips, tiny_llm, tiny_whisper, tmp_path):
    """``tiny_run(recipe, **overrides)`` → ``RunConfig`` of two steps on ``clips``; ``model__dim=8`` sets model.dim.

    ``adapt`` needs ``init`` and ``data__seen``.
    """

    def make(recipe: str = "stamps", utterances=None, **overrides) -> RunConfig:
        values = compose_recipe(recipe)
        manifest = write_manifest(clips if utterances is None else utterances, tmp_path / "clips.jsonl")
        translations = values["data"].get("translations", {}) | {"root": str(write_bitext(tmp_path / "bitext"))}
        values["data"] = {"name": "manifest", "path": str(manifest), "seen": ["es_419", "fr_fr"]}
        values["data"]["translations"] = translations
        if values["tasks"]["speech"]:
            values["tasks"]["speech"]["shares"]["synthetic"] = 0.0
        if recipe == "adapt":
            values["adapt"]["old"] = {"name": "manifest", "path": str(manifest)}
        else:
            values["frontend"] |= {"encoder": str(tiny_whisper), "units": 8, "hidden": 8, "heads": 2, "layers": 1}
            architecture = "bert" if "e5" in values["model"]["source"] else "gemma3_text"
            values["model"] |= {"source": str(tiny_llm(architecture)), "num_layers": None}
            values["model"]["speech_layer"] = min(1, values["model"].get("speech_layer", 0))
        values["trainer"] |= {"steps": 2, "eval_every": 1, "batch_size": 4, "precision": "32-true"}
        values["trainer"]["accelerator"] = "cpu"
        values["logger"]["mode"] = "disabled"
        values |= {"threads": 1, "runs_dir": str(tmp_path / "runs"), "cache_dir": str(tmp_path / "cache")}
        values["archive_dir"] = values["archive_dir"] and str(tmp_path / "archive")
        for name, value in overrides.items():
            *groups, key = name.split("__")
            target = values
            for group in groups:
                target = target[group]
            target[key] = value
        return build(values if values["init"] is None else inherit(values))

    return make
