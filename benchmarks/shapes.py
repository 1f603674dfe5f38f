"""Models of published shapes with random weights, which need no download, and what a step of them computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    PreTrainedTokenizerFast,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertModel,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import TEXT, DualEncoder
from speechde.models.frontends.base import pad_items
from speechde.models.lora import add_lora
from speechde.types import Batch, Rows

SPECIAL = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
# as their authors published them
LLMS = {
    "gemma3_270m": ("gemma3_text", {
        "vocab_size": 262_144, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512,
        "query_pre_attn_scalar": 256, "max_position_embeddings": 32_768}),
    "qwen3_0.6b": ("qwen3", {
        "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40_960}),
}  # fmt: skip
TINY_LLM = {"vocab_size": 256, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}  # fmt: skip
WHISPER_BASE = {"num_mel_bins": 80, "d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8,
                "encoder_ffn_dim": 2048, "max_source_positions": 1500}  # fmt: skip
W2V_BERT = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
            "feature_projection_input_dim": 160, "position_embeddings_type": "relative_key"}  # fmt: skip
SPEECH = {"whisper_base": ("whisper", WHISPER_BASE), "w2v_bert_2": ("wav2vec2-bert", W2V_BERT)}
TINY_WHISPER = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
TINY_W2V = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
LENGTHS = (16, 48)  # tokens of a text, drawn alike


def llm(name: str, tiny: bool, folder: Path, **changes: int) -> Path:
    """A folder with the configuration of an LLM of ``LLMS``, or of a smaller one, without weights."""
    kind, values = LLMS[name]
    CONFIG_MAPPING[kind](**values | SPECIAL | changes | (TINY_LLM if tiny else {})).save_pretrained(folder)
    return folder


def with_weights(name: str, tiny: bool, folder: Path) -> Path:
    """The same with random weights and a tokenizer of words (``w0 w1 …``), as other libraries read it."""
    model = Backbone.load(llm(name, tiny, folder), init="random").model
    if hasattr(model.config, "use_bidirectional_attention"):
        model.config.use_bidirectional_attention = True
    model.save_pretrained(folder)
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2} | {f"w{n}": n + 3 for n in range(model.config.vocab_size - 3)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)
    return folder


def dual_encoder(
    folder: Path, device: str, kernel: str = "auto", lora: bool = False, compiled: str | None = None
) -> DualEncoder:
    """A model of text alone with random weights; trained whole but for its embedding rows, or through LoRA.

    ``compiled``: a backend of ``torch.compile``, for each layer.
    """
    torch.manual_seed(0)
    with torch.device(device):
        backbone = Backbone.load(folder, init="random", attn_implementation=kernel,
                                 dtype="bfloat16" if lora else "float32")  # fmt: skip
        backbone.freeze(["embedding.text.*"])
        if lora:
            add_lora(backbone)
        model = DualEncoder(backbone, {}, projection_init="identity", normalise=True)
    for layer in backbone.layers if compiled else ():
        layer.compile(backend=compiled, dynamic=True)
    return model.to(device)


def batch(pairs: int, vocabulary: int, seed: int = 0) -> Batch:
    """So many pairs of random tokens."""
    draw = np.random.default_rng(seed)
    sides = (pad_items([[(TEXT, draw.integers(3, vocabulary, n))] for n in draw.integers(*LENGTHS, pairs)])
             for _ in range(2))  # fmt: skip
    return Batch([Rows(*sides)], torch.arange(pairs)[:, None])


def texts(count: int, vocabulary: int) -> list[tuple[str, str]]:
    """So many pairs of texts of ``with_weights``'s words."""
    draw = np.random.default_rng(0)
    return [tuple(" ".join(f"w{word}" for word in draw.integers(0, vocabulary - 3, draw.integers(*LENGTHS)))
                  for _ in range(2)) for _ in range(count)]  # fmt: skip


def step_flops(model: DualEncoder, one: Batch, lora: bool) -> float:
    """FLOPs that a training step needs: of real tokens, without padding or a second forward pass.

    Two for each weight of a linear map and token, and twice as many again for the gradients of states and of weights,
    of which LoRA needs the former alone; attention by the length of each text.
    """
    config = model.backbone.config
    weights = sum(module.weight.numel() for name, module in model.backbone.layers.named_modules()
                  if isinstance(module, nn.Linear) and "lora" not in name)  # fmt: skip
    lengths = torch.cat([inputs.lengths for rows in one.rows for inputs in (rows.query, rows.positive)]).double()
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * (lengths**2).sum()
    return float((2 * weights * lengths.sum() + attention) * (2 if lora else 3))


def speech(name: str, tiny: bool, folder: Path) -> Path:
    """A folder with a speech encoder of ``SPEECH`` with random weights."""
    kind, values = SPEECH[name]
    if kind == "whisper":
        config = CONFIG_MAPPING[kind](**values | (TINY_WHISPER if tiny else {}))
        WhisperEncoder(config).save_pretrained(folder)
        WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    else:
        config = CONFIG_MAPPING[kind](**values | (TINY_W2V if tiny else {}))
        Wav2Vec2BertModel(config).save_pretrained(folder)
        SeamlessM4TFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder
