"""The 4-bit e5 reader, against a miniature file in that format, and the tokenizer that comes out of it."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from speechde.errors import AssetError
from speechde.weights.e5 import convert_e5, read_e5

PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁the", -2.0), ("▁cat", -3.0), ("▁", -4.0)]
PIECES += [("c", -9.0), ("a", -9.0), ("t", -9.0), ("1", -9.0), ("<mask>", 0.0)]
WIDTH, LAYERS, INNER = 32, 2, 64
NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def quantise(values):
    """Q4_0 by the definition, one weight at a time; returns bytes and the values they stand for."""
    data, kept = b"", []
    for block in np.asarray(values, np.float32).reshape(-1, 32):
        scale = float(np.float16(max(np.abs(block).max() / 7, 1e-3)))
        codes = [int(np.clip(round(float(v) / scale), -8, 7)) + 8 for v in block]
        data += struct.pack("<e", scale) + bytes(codes[i] | codes[i + 16] << 4 for i in range(16))
        kept += [(code - 8) * scale for code in codes]
    return data, np.array(kept, np.float32).reshape(np.shape(values))


def write_e5(path, tensors, magic=b"E5S1", version=1, pieces=PIECES, drop=(), block=32):
    text = [piece.encode() for piece, _ in pieces]
    offsets = np.cumsum([0, *map(len, text)])
    head = magic + struct.pack("<I7ifi", version, WIDTH, LAYERS, 4, INNER, len(PIECES), 16, 2, 1e-12, block)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, offsets[-1])
    head += struct.pack(f"<{len(offsets)}I", *offsets) + struct.pack(f"<{len(pieces)}f", *(s for _, s in pieces))
    head += b"".join(text) + struct.pack("<iI", 1, 9) + b"\1" * 9
    kept = {name: item for name, item in tensors.items() if name not in drop}
    size = len(head) + 4 + sum(2 + len(name) + 21 for name in kept)
    table, body = struct.pack("<i", len(kept)), b""
    for name, (kind, count, data) in kept.items():
        table += struct.pack("<H", len(name)) + name.encode()
        table += struct.pack("<BIQQ", kind, count, size + len(body), len(data))
        body += data
    path.write_bytes(head + table + body)
    return path


@pytest.fixture
def model_and_tensors():
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(PIECES),
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            intermediate_size=INNER,
            max_position_embeddings=16,
        ),
        add_pooling_layer=False,
    ).eval()
    state, tensors = model.state_dict(), {}

    def put(name, target, four_bit):
        values = state[target].numpy()
        if four_bit:
            data, values = quantise(values)
            state[target].copy_(torch.from_numpy(values))
        tensors[name] = (int(four_bit), values.size, data if four_bit else values.astype("<f4").tobytes())

    put("emb.word", "embeddings.word_embeddings.weight", True)
    put("emb.pos", "embeddings.position_embeddings.weight", False)
    put("emb.type", "embeddings.token_type_embeddings.weight", False)
    pairs = {"emb.ln": "embeddings.LayerNorm"}
    pairs |= {f"l{i}.{old}": f"encoder.layer.{i}.{new}" for i in range(LAYERS) for old, new in NAMES.items()}
    for old, new in pairs.items():
        put(f"{old}.w", f"{new}.weight", "ln" not in old)
        put(f"{old}.b", f"{new}.bias", False)
    return model, tensors


def test_conversion_restores_the_same_model(tmp_path, model_and_tensors):
    model, tensors = model_and_tensors
    folder = tmp_path / "out"
    folder.mkdir()
    convert_e5(write_e5(tmp_path / "e5.bin", tensors), folder)
    loaded = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    batch = torch.tensor([[0, 4, 5, 7, 2]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(batch).last_hidden_state, model(batch).last_hidden_state, atol=5e-3, rtol=0)
    assert loaded.dtype == torch.float32


def test_dequantisation_is_exact(tmp_path, model_and_tensors):
    model, tensors = model_and_tensors
    _, vocabulary, read = read_e5(write_e5(tmp_path / "e5.bin", tensors))
    assert set(read) == set(model.state_dict())
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(read[name], values.numpy())
    assert [p for p, _ in vocabulary.pieces] == [p for p, _ in PIECES]


def test_tokenizer_as_loaded_by_auto_tokenizer(tmp_path, model_and_tensors):
    folder = tmp_path / "out"
    folder.mkdir()
    convert_e5(write_e5(tmp_path / "e5.bin", model_and_tensors[1]), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("the cat").input_ids == [0, 4, 5, 2]
    # White space is collapsed, ideographic space and circled digits are folded.
    assert tokenizer(" the\u3000 cat ①").input_ids == [0, 4, 5, 6, 10, 2]
    assert tokenizer("the", "cat").input_ids == [0, 4, 2, 2, 5, 2]
    assert tokenizer("the ж").input_ids == [0, 4, 6, 3, 2]
    assert tokenizer(["the", "the cat"], padding=True).input_ids == [[0, 4, 2, 1], [0, 4, 5, 2]]
    assert tokenizer.decode([0, 4, 5, 2], skip_special_tokens=True) == "the cat"
    assert tokenizer.model_max_length == 16
    ids = (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2, 3)


def test_every_truncation_is_an_asset_error(tmp_path, model_and_tensors):
    whole = write_e5(tmp_path / "e5.bin", model_and_tensors[1]).read_bytes()
    for end in [0, 2, 30, 50, 90, 130, 200, 300, 700, len(whole) // 2, len(whole) - 1]:
        (tmp_path / "cut.bin").write_bytes(whole[:end])
        with pytest.raises(AssetError, match=r"cut\.bin is damaged"):
            read_e5(tmp_path / "cut.bin")


def test_wrong_magic_version_block_and_missing_tensor(tmp_path, model_and_tensors):
    tensors = model_and_tensors[1]
    with pytest.raises(AssetError, match="E5S1"):
        read_e5(write_e5(tmp_path / "a", tensors, magic=b"E5S2"))
    with pytest.raises(AssetError, match="version 2"):
        read_e5(write_e5(tmp_path / "b", tensors, version=2))
    with pytest.raises(AssetError, match="blocks of 64"):
        read_e5(write_e5(tmp_path / "c", tensors, block=64))
    with pytest.raises(AssetError, match=r"l1\.fo\.w is missing"):
        read_e5(write_e5(tmp_path / "d", tensors, drop=["l1.fo.w"]))


def test_tensor_of_wrong_size_or_type(tmp_path, model_and_tensors):
    tensors = model_and_tensors[1]
    kind, count, data = tensors["l0.q.w"]
    with pytest.raises(AssetError, match=r"l0\.q\.w has 512 values"):
        read_e5(write_e5(tmp_path / "a", tensors | {"l0.q.w": (kind, count // 2, data[: len(data) // 2])}))
    with pytest.raises(AssetError, match=r"l0\.q\.w: type 1"):
        read_e5(write_e5(tmp_path / "b", tensors | {"l0.q.w": (kind, count - 1, data)}))
    with pytest.raises(AssetError, match=r"l0\.q\.w: type 9"):
        read_e5(write_e5(tmp_path / "c", tensors | {"l0.q.w": (9, count, data)}))


def test_special_ids_outside_the_vocabulary(tmp_path, model_and_tensors):
    with pytest.raises(AssetError, match="3 pieces"):
        read_e5(write_e5(tmp_path / "a", model_and_tensors[1], pieces=PIECES[:3]))
