"""What training reads, and the untrained model: errors, roles, views and the quantiser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from speechde.checkpoint.encoders import check_encoder
from speechde.corpora.load import load_corpus
from speechde.errors import AssetError, ConfigError, DataError
from speechde.features.sets import build_encoder, training_sets
from speechde.training import features as made
from speechde.training.build import build_model


def prepared(config):
    cache = Path(config.cache_dir)
    corpus = load_corpus(config.data, cache)
    encoder = build_encoder(config.frontend)
    train, dev = (corpus.select(split, corpus.seen) for split in ("train", "dev"))
    sets = training_sets(config.frontend, train, dev)
    frames = made.training_frames(sets, encoder, cache, rate=config.frontend.rate, seed=config.seed)
    return encoder, made.training_features(config.frontend, frames, cache, config.seed), train


def test_views_and_statistics(tiny_run):
    encoder, features, train = prepared(tiny_run("quickstart_narrow", frontend__speeds=[1.0, 0.5]))
    assert len(features.train) == 2 and features.quantiser is None
    assert all(u.id in store for store in features.train for u in train)
    assert len(features.train[1][train[0].id]) > 1.5 * len(features.train[0][train[0].id])
    rows = np.concatenate([store[u.id] for store in features.train for u in train]).astype(np.float32)
    np.testing.assert_allclose(features.frame_mean, rows.mean(0), atol=1e-3)
    np.testing.assert_allclose(features.frame_std, rows.std(0), atol=1e-3)
    assert features.frame_mean.shape == (encoder.dim,)


def test_units_and_their_quantiser_are_cached(tiny_run, monkeypatch):
    config = tiny_run()
    _, first, train = prepared(config)
    monkeypatch.setattr(made, "fit_kmeans", None)
    _, second, _ = prepared(config)
    assert first.quantiser.hash == second.quantiser.hash
    assert first.train[0][train[0].id].dtype == np.int32
    assert max(first.train[0][u.id].max() for u in train) < 8


def test_a_unit_bpe_is_the_audio_vocabulary(tiny_run, monkeypatch):
    config = tiny_run(frontend__bpe=12, model__audio_init="centroids")
    encoder, first, train = prepared(config)
    built = build_model(config, encoder, first)
    assert built.quantiser.tokens == built.model.frontends["speech"].audio_tokens == 12
    assert built.model.backbone.embedding.audio.shape == (12, 16)
    assert built.settings.frontend.units == built.settings.speech.bpe == 12
    _, plain, _ = prepared(tiny_run())
    for store, units in zip(first.train, plain.train, strict=True):
        for u in train:
            np.testing.assert_array_equal(first.quantiser.bpe.decode(store[u.id]), units[u.id])
    monkeypatch.setattr(made, "train_bpe", None)
    assert prepared(config)[1].quantiser.hash == first.quantiser.hash


def test_a_small_corpus_gives_a_smaller_unit_bpe(tiny_run, caplog):
    caplog.set_level("INFO")
    config = tiny_run(frontend__bpe=4096)
    encoder, features, _ = prepared(config)
    tokens = features.quantiser.tokens
    assert 8 < tokens < 4096 and f"unit BPE: {tokens} tokens and not frontend.bpe=4096" in caplog.text
    assert build_model(config, encoder, features).model.backbone.embedding.audio.shape == (tokens, 16)


def test_too_few_frames_for_the_units_and_no_speed(tiny_run):
    with pytest.raises(DataError, match=r"cannot fit 5000 units"):
        prepared(tiny_run(frontend__units=5000))
    with pytest.raises(ConfigError, match=r"frontend\.speeds=\[\]"):
        prepared(tiny_run(frontend__speeds=[]))


def test_another_encoder_is_refused(tiny_run, tiny_settings):
    config = tiny_run()
    encoder = build_encoder(config.frontend)
    speech = tiny_settings(speech={"encoder_key": encoder.describe()}).speech
    check_encoder(speech, encoder)
    check_encoder(replace(speech, encoder_key=encoder.describe() | {"dtype": "another"}), encoder)
    with pytest.raises(AssetError, match=r"trained on frames of .*'layer': 1.*'layer': 2"):
        check_encoder(replace(speech, encoder_key=encoder.describe() | {"layer": 1}), encoder)


@pytest.mark.parametrize("recipe", ["stamps", "quickstart_narrow"])
def test_the_model_is_seeded_and_frozen_as_asked(tiny_run, recipe):
    config = tiny_run(recipe)
    encoder, features, _ = prepared(config)
    built = [build_model(config, encoder, features) for _ in range(2)]
    first, second = (each.model.state_dict() for each in built)
    assert all(torch.equal(first[name], second[name]) for name in first)
    config.seed = 1
    third = build_model(config, encoder, features).model.state_dict()
    assert any(not torch.equal(first[name], third[name]) for name in first)
    frozen = {name for name, p in built[0].model.named_parameters() if not p.requires_grad}
    assert "backbone.embedding.text.weight" in frozen and "projection.weight" not in frozen
    if recipe == "quickstart_narrow":
        np.testing.assert_array_equal(first["frontends.speech.frame_mean"].numpy(), features.frame_mean)
        assert built[0].model.normalise
    else:
        assert first["backbone.embedding.audio"].shape == (8, 16) and not built[0].model.normalise


def test_frozen_text_states_are_read_from_the_cache_of_the_same_weights_and_texts(tiny_run, tmp_path, monkeypatch):
    config = tiny_run("quickstart_narrow")
    encoder, features, _ = prepared(config)
    model = build_model(config, encoder, features).model
    ids = [np.array([1, 40, 41]), np.array([1, 50])]
    first = made.frozen_text_states(model, ids, tmp_path)
    np.testing.assert_array_equal(first, made.text_states(model, ids))
    calls = []
    real = made.text_states
    monkeypatch.setattr(made, "text_states", lambda *a: calls.append(a) or real(*a))
    np.testing.assert_array_equal(first, made.frozen_text_states(model, ids, tmp_path))
    assert not calls
    made.frozen_text_states(model, [np.array([1, 40]), np.array([41, 1, 50])], tmp_path)  # split otherwise
    assert len(calls) == 1
    with torch.no_grad():
        next(iter(model.backbone.layers[0].parameters())).add_(0.1)
    assert not np.array_equal(first, made.frozen_text_states(model, ids, tmp_path))
    assert len(calls) == 2
