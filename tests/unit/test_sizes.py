"""Sizes of vectors: which a model has, what is refused, and which vectors compare."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechde import SpeechTextEncoder
from speechde.checkpoint.folder import TrainedModel
from speechde.cli import main as cli
from speechde.cli.export import export
from speechde.config import LossConfig, build
from speechde.errors import ConfigError
from speechde.evaluation.mteb import MtebEncoder
from speechde.evaluation.sizes import cut
from speechde.features.encoders import load_speech_encoder
from speechde.search.vectors import read_vectors
from speechde.training.build import model_shape

TEXTS = ["un autobuz", "o casă", "été"]


@pytest.fixture
def folder(tiny_model):
    return tiny_model("continuous", dims=(8, 5, 2))


def test_a_shorter_model_is_a_model(folder, tmp_path):
    """Saved and read it is the same; its own sizes are those that are left, and the whole model stays as it was."""
    whole = TrainedModel.load(folder)
    before, small = whole.fingerprint, whole.cut_to(5)
    small.save(tmp_path / "small")
    read = TrainedModel.load(tmp_path / "small")
    assert read.model.dim == small.model.dim == 5 and read.settings.dims == (5, 2)
    assert before == whole.fingerprint == TrainedModel.load(folder).fingerprint != small.fingerprint == read.fingerprint
    assert torch.equal(read.model.projection.weight, whole.model.projection.weight[:5])
    assert read.cut_to(2).fingerprint == whole.cut_to(2).fingerprint and whole.model.dim == 8
    assert whole.cut_to(None) is whole.cut_to(8) is whole


def test_components_of_a_dot_product_stay_as_they_are(tiny_model):
    folder = tiny_model("discrete", dims=(8, 3), normalise=False)
    whole, small = (SpeechTextEncoder.from_pretrained(folder, device="cpu", dim=dim) for dim in (None, 3))
    np.testing.assert_allclose(small.encode_text(TEXTS), whole.encode_text(TEXTS)[:, :3], rtol=1e-5)
    embed = cut(lambda items, role: whole.encode_text(items), 3, normalise=False)
    np.testing.assert_array_equal(embed(TEXTS, "query"), whole.encode_text(TEXTS)[:, :3])


@pytest.mark.parametrize(
    ("dims", "dim", "message"),
    [
        ((8, 5, 2), 4, "dim=4: this model was trained for vectors of 8, 5, 2 components; choose one of them, or train"),
        ((8, 5, 2), 9, "dim=9: .* of 8, 5, 2 components"),
        ((), 4, "dim=4: this model was trained for vectors of 8 components; .* a model with 4 in loss.dims"),
        ((8, 5, 2), 0, "dim=0"),
    ],
)
def test_a_size_that_was_not_trained_is_refused(tiny_model, dims, dim, message):
    with pytest.raises(ConfigError, match=message):
        SpeechTextEncoder.from_pretrained(tiny_model("continuous", dims=dims), device="cpu", dim=dim)


def test_number_formats_of_a_shorter_model_have_its_fingerprint(folder):
    plain, rounded = (
        SpeechTextEncoder.from_pretrained(folder, device="cpu", dim=5, dtype=dtype) for dtype in (None, torch.bfloat16)
    )
    assert plain.fingerprint == rounded.fingerprint and rounded.encode_text("a").shape == (5,)


def test_results_of_mteb_at_another_size_have_another_name(folder):
    names = [MtebEncoder(str(folder), device="cpu", dim=dim).mteb_model_meta for dim in (None, 5)]
    assert [(meta.name, meta.embed_dim) for meta in names] == [("speechde/tiny-s3", 8), ("speechde/tiny-s3-5d", 5)]


def test_commands(folder, tmp_path, capsys, own_cache):
    """What is embedded at a size is searched at that size, without being told."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")

    def run(*arguments):
        return cli.main([*map(str, arguments)])

    vectors, index = tmp_path / "v.parquet", tmp_path / "i"
    assert run("embed", tmp_path / "texts.txt", "-m", folder, "--dim", 5, "--out", vectors) == 0
    found = read_vectors([vectors])
    small = SpeechTextEncoder.from_pretrained(folder, device="cpu", dim=5)
    assert found.vectors.shape == (3, 5) and found.fingerprint == small.fingerprint
    assert run("embed", tmp_path / "texts.txt", "-m", folder, "--out", vectors) == 1, "they are of another size"
    assert run("index", "build", vectors, "--out", index) == 0
    capsys.readouterr()
    assert run("search", index, "o casă", "-m", folder, "-k", 1) == 0
    assert "1.0000" in capsys.readouterr().out
    assert run("embed", "a", "-m", folder, "--dim", 3, "--out", tmp_path / "no.parquet") == 2
    assert "dim=3: this model was trained for vectors of 8, 5, 2" in capsys.readouterr().err
    export(str(folder), "sentence-transformers", tmp_path / "small", dim=5)
    assert TrainedModel.load(tmp_path / "small").fingerprint == small.fingerprint


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([4, 8], r"loss\.dims=\[4,8\] are prefixes of each other, .* write loss\.dims=\[8,4\]"),
        ([8, 4, 4], r"each once; write loss\.dims=\[8,4\]"),
        ([8, 0], r"loss\.dims\[1\]=0 is outside \[1, ∞\)"),
    ],
)
def test_sizes_that_do_not_nest(dims, message):
    with pytest.raises(ConfigError, match=message):
        build({"loss": {"dims": dims}})


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([16, 4], r"begins with 16, .* 8 wide, has no more components; write loss\.dims=\[8,4\], or model\.dim=16"),
        ([4, 2], r"would keep components that nothing trains; write loss\.dims=\[8,4,2\], or model\.dim=4"),
    ],
)
def test_sizes_that_do_not_fit_the_width_are_refused_before_training(tiny_run, dims, message):
    for good in ([], [8], [8, 2]):
        LossConfig(dims=good).check_width(8)
    config = tiny_run("quickstart_narrow", model__dim=8, loss__dims=dims)
    with pytest.raises(ConfigError, match=message):
        model_shape(config, load_speech_encoder(config.frontend.encoder, device="meta"))
