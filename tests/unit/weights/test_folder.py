"""Folder checks, the weights hash and the lossless float16 store."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig

from speechde.cache import sha256_file
from speechde.errors import AssetError
from speechde.weights import weights_hash
from speechde.weights.folder import check_folder, save_model, weight_files


def test_pickle_only_folder_is_refused_with_the_fix(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(AssetError, match=r"only pickled weights \(pytorch_model\.bin\).*safe_serialization"):
        check_folder(tmp_path)


def test_folder_without_config_or_weights(tmp_path):
    with pytest.raises(AssetError, match=r"no config\.json"):
        check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AssetError, match="no weights"):
        check_folder(tmp_path)


def test_save_model_keeps_float16_values_and_spares_overflow(tmp_path):
    values = {"a": torch.randn(4, 4).half().float(), "big": torch.tensor([1e5, 1.0])}
    save_model(tmp_path, BertConfig(hidden_size=8), values)
    stored = load_file(tmp_path / "model.safetensors")
    assert (stored["a"].dtype, stored["big"].dtype) == (torch.float16, torch.float32)
    for name in values:
        assert torch.equal(stored[name].float(), values[name])
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["hidden_size"], config["dtype"]) == ("bert", 8, "float32")
    modes = {(tmp_path / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1


def test_hash_of_one_file_and_of_shards(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name, data in (("a", b"1"), ("b", b"2")):
        (tmp_path / f"{name}.safetensors").write_bytes(data)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}))
    digests = [hashlib.sha256(data).hexdigest() for data in (b"1", b"2")]
    assert weights_hash(tmp_path) == hashlib.sha256("\n".join(digests).encode()).hexdigest()
    (tmp_path / "model.safetensors").write_bytes(b"3")
    assert weights_hash(str(tmp_path)) == hashlib.sha256(b"3").hexdigest()


def test_recorded_hash_is_not_trusted_after_the_weights_changed(tmp_path):
    weights, record = tmp_path / "model.safetensors", tmp_path / "speechde_source.json"
    weights.write_bytes(b"1")
    os.utime(weights, ns=(10**9, 10**9))
    record.write_text('{"sha256": "recorded"}')
    assert weights_hash(tmp_path) == "recorded"
    weights.write_bytes(b"2")
    os.utime(record, ns=(10**9, 10**9))
    assert weights_hash(tmp_path) == sha256_file(weights)


def test_recorded_hash_is_not_trusted_after_older_weights_took_the_place(tmp_path):
    weights, record = tmp_path / "model.safetensors", tmp_path / "speechde_source.json"
    record.write_text('{"sha256": "recorded"}')
    changed = record.stat().st_ctime_ns
    while not weights.exists() or weights.stat().st_ctime_ns == changed:  # the clock of the file system is coarse
        weights.write_bytes(b"1")
        os.utime(weights, ns=(10**9, 10**9))
    assert weights_hash(tmp_path) == sha256_file(weights)


@pytest.mark.parametrize("listed", ["missing.safetensors", "../outside.safetensors"])
def test_index_that_lists_what_is_not_there(tmp_path, listed):
    (tmp_path.parent / "outside.safetensors").write_bytes(b"1")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": listed}}))
    with pytest.raises(AssetError, match=listed):
        weight_files(tmp_path)
