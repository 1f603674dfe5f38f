"""Other encoders: transformers with mean pooling, a tiny SentenceTransformer, and an audio model behind mteb."""

from __future__ import annotations

from types import SimpleNamespace

import mteb
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from transformers import AutoModel, AutoTokenizer

from speechde.conditions import parse
from speechde.errors import AssetError
from speechde.evaluation import rivals
from speechde.evaluation.rivals import Rival, TextEncoder
from speechde.types import Utterance

TEXTS = [("fr_fr", "un"), ("fr_fr", "une phrase plus longue"), ("ro_ro", "un măr"), ("ro_ro", "zi")]


@pytest.fixture(scope="module")
def sentence_transformer(tiny_llm, tmp_path_factory):
    """Folder of a tiny BERT with mean pooling."""
    folder = tmp_path_factory.mktemp("st")
    word = Transformer(str(tiny_llm("bert")))
    SentenceTransformer(modules=[word, Pooling(word.get_embedding_dimension())], device="cpu").save(str(folder))
    return folder


def by_hand(folder, texts):
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1).numpy()


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_text_encoder_is_mean_pooling_with_a_prefix(tiny_llm, monkeypatch, batch):
    monkeypatch.setattr(rivals, "BATCH", batch)
    vectors = TextEncoder(tiny_llm("bert"), "query: ").embed_texts(TEXTS)
    expected = by_hand(tiny_llm("bert"), ["query: " + text for _, text in TEXTS])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize(("name", "tokens"), [("bert", 128), ("xlm-roberta", 127)])
def test_texts_beyond_the_positions_are_cut_and_counted(tiny_llm, name, tokens):
    encoder = TextEncoder(tiny_llm(name), "")
    longest = "a" * (tokens - 1)  # with the token in front
    vectors = encoder.embed_texts([("fr_fr", longest), ("fr_fr", longest + "b"), ("fr_fr", "c")])
    assert encoder.cut == 1 and encoder.max_tokens == tokens
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_a_sentence_transformer_folder(sentence_transformer, tiny_llm):
    rival = Rival(str(sentence_transformer))
    np.testing.assert_allclose(
        rival.embed_texts(TEXTS), by_hand(tiny_llm("bert"), [text for _, text in TEXTS]), atol=1e-5
    )
    with pytest.raises(AssetError, match="cascade:MODEL"):
        rival.embed_clips([Utterance("a", "fr_fr", "un", "a.wav", "un", "test")])


class Loudness:
    """A model of mteb that embeds audio: its length and its loudness."""

    mteb_model_meta = SimpleNamespace(name="a/b", modalities=["audio", "text"])

    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type, **_):
        assert list(inputs.dataset.features) == ["audio"] and prompt_type == "query"
        rows = [row for batch in inputs for row in batch["audio"]]
        return torch.tensor([[len(r["array"]) / r["sampling_rate"], float(np.abs(r["array"]).mean())] for r in rows])


def test_a_model_of_mteb_embeds_clips(make_wav, monkeypatch):
    monkeypatch.setattr(mteb, "get_model", lambda name, device: Loudness())
    lengths = (0.2, 0.5, 0.3)
    clips = [Utterance(f"{s}", "fr_fr", "un", str(make_wav(f"{s}.wav", s)), "un", "test") for s in lengths]
    vectors = Rival("a/b").embed_clips(clips)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.argsort(vectors[:, 0] / vectors[:, 1]).tolist() == [0, 2, 1]


def test_a_model_of_mteb_hears_the_condition(make_wav, monkeypatch):
    monkeypatch.setattr(mteb, "get_model", lambda name, device: Loudness())
    clips = [Utterance("a", "fr_fr", "un", str(make_wav("a.wav", 0.4)), "un", "test")]
    (clean,), (slow,) = (Rival("a/b").embed_clips(clips, *under) for under in ([], [parse("speed0.5")]))
    assert slow[0] / slow[1] == pytest.approx(2 * clean[0] / clean[1], rel=0.02)  # twice as long, as loud


def test_an_unknown_model(monkeypatch):
    def refuse(name, device):
        raise KeyError(name)

    monkeypatch.setattr(mteb, "get_model", refuse)
    with pytest.raises(AssetError, match="'no/such' is no folder"):
        Rival("no/such")
