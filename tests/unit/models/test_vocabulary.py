"""Vocabulary extension leaves the text side bit-identical and initialises the audio rows as stated."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from speechde.errors import ConfigError
from speechde.models.vocabulary import ExtendedEmbedding, audio_token, spells_audio_token, with_audio_tokens

TEXT, WIDTH, AUDIO = 40, 64, 500


def table_of(embedding):
    """The whole ``(t + a, width)`` table."""
    return torch.cat([embedding.text.weight, embedding.audio.to(embedding.text.weight.dtype)])


@pytest.fixture
def text():
    embedding = nn.Embedding(TEXT, WIDTH)
    with torch.no_grad():
        embedding.weight.mul_(torch.linspace(0.1, 2, WIDTH)).add_(torch.linspace(-3, 3, WIDTH))
    return embedding


@pytest.mark.parametrize("model_type", ["gemma3_text", "llama", "bert"])
def test_text_embeddings_and_logits_stay_bit_identical(tiny_llm, model_type):
    model = AutoModel.from_pretrained(tiny_llm(model_type)).eval()
    rows = model.get_input_embeddings().weight.detach().clone()
    ids = torch.arange(rows.shape[0])[None]
    embedded = model.get_input_embeddings()(ids)
    hidden = torch.randn(3, rows.shape[1])
    logits = hidden @ rows.T

    extended = ExtendedEmbedding(model.get_input_embeddings(), 7)
    table = table_of(extended)
    assert table.shape == (len(rows) + 7, rows.shape[1]) and extended.text_tokens == len(rows)
    assert torch.equal(table[: len(rows)], rows)
    assert torch.equal(extended(ids), embedded)
    assert torch.equal(hidden @ extended.text.weight.T, logits)
    assert torch.equal((hidden @ table[: len(rows)].T), logits)
    assert torch.equal(table[len(rows) :], extended.audio)


def test_mixed_ids_take_their_own_rows(text):
    extended = ExtendedEmbedding(text, AUDIO)
    ids = torch.tensor([[0, TEXT, 5, TEXT + AUDIO - 1], [TEXT - 1, TEXT + 3, TEXT + 3, 1]])
    assert torch.equal(extended(ids), table_of(extended)[ids])


def test_without_audio_tokens_it_is_the_text_embedding(text):
    extended = ExtendedEmbedding(text)
    ids = torch.arange(TEXT)[None]
    assert torch.equal(extended(ids), text(ids))
    assert torch.equal(table_of(extended), text.weight)


def test_audio_rows_are_scaled_as_gemma_scales_its_text(tiny_llm):
    model = AutoModel.from_pretrained(tiny_llm("gemma3_text"))
    extended = ExtendedEmbedding(model.get_input_embeddings(), 4)
    width = extended.audio.shape[1]
    assert float(extended.scale) == pytest.approx(width**0.5)
    with torch.no_grad():
        extended.audio[2] = extended.text.weight[9]  # the same row must come out the same on either side
    out = extended(torch.tensor([[9, extended.text_tokens + 2]]))
    assert torch.equal(out[0, 0], out[0, 1])
    torch.testing.assert_close(out[0, 0], extended.text.weight[9] * width**0.5)


def test_normal_init_has_the_statistics_of_the_text_rows(text):
    extended = ExtendedEmbedding(text, AUDIO)
    mean, std = text.weight.mean(0), text.weight.std(0)
    assert ((extended.audio.mean(0) - mean).abs() < 5 * std / AUDIO**0.5).all()
    assert (extended.audio.std(0) / std - 1).abs().max() < 0.2
    first = extended.audio.detach().clone()
    for expected_equal in (False, True):
        extended.reset_audio(generator=torch.Generator().manual_seed(3))
        assert torch.equal(first, extended.audio) == expected_equal
        first = extended.audio.detach().clone()


def test_centroid_init_keeps_statistics_and_neighbours(text):
    centres = 10 * torch.randn(AUDIO // 10, 24)
    centroids = centres.repeat_interleave(10, 0) + 0.1 * torch.randn(AUDIO, 24)  # groups of ten that sound alike
    extended = ExtendedEmbedding(text, AUDIO)
    extended.reset_audio("centroids", centroids)
    torch.testing.assert_close(extended.audio.mean(0), text.weight.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(extended.audio.std(0), text.weight.std(0), atol=1e-4, rtol=1e-4)
    distance = torch.cdist(extended.audio.detach(), extended.audio.detach()).fill_diagonal_(torch.inf)
    group = torch.arange(AUDIO) // 10
    assert (group[distance.argmin(1)] == group).all()


def test_init_errors(text):
    extended = ExtendedEmbedding(text, 4)
    with pytest.raises(ConfigError, match=r"model\.audio_init: 'centroid' is not known.*'centroids'"):
        extended.reset_audio("centroid")
    with pytest.raises(ConfigError, match="needs 4 centroids; got none"):
        extended.reset_audio("centroids")
    with pytest.raises(ConfigError, match="needs 4 centroids; got 5"):
        extended.reset_audio("centroids", torch.randn(5, 8))


def test_only_the_rows_in_use_get_gradients(text):
    extended = ExtendedEmbedding(text, 4)
    extended(torch.tensor([[1, TEXT + 2]])).sum().backward()
    assert extended.audio.grad.abs().sum(1).nonzero().flatten().tolist() == [2]
    # a masked text lookup at an audio position must not reach row 0
    assert extended.text.weight.grad.abs().sum(1).nonzero().flatten().tolist() == [1]


def test_state_dict_round_trip(text):
    extended = ExtendedEmbedding(text, 4)
    other = ExtendedEmbedding(nn.Embedding(TEXT, WIDTH), 4)
    assert not torch.equal(table_of(other), table_of(extended))
    assert set(extended.state_dict()) == {"audio", "text.weight"}
    other.load_state_dict(extended.state_dict())
    assert torch.equal(table_of(other), table_of(extended))


def test_a_tokenizer_with_audio_tokens(tiny_llm, caplog):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm("gemma3_text"))
    known = len(tokenizer)
    padded = with_audio_tokens(tokenizer, known + 5, 3)  # five rows of the table that no token has
    assert [padded.convert_tokens_to_ids(audio_token(unit)) for unit in range(3)] == [known + 5, known + 6, known + 7]
    assert len(tokenizer) == known, "the LLM's own is not changed"
    assert padded("été")["input_ids"] == tokenizer("été")["input_ids"]
    assert with_audio_tokens(padded, known + 5, 3) is padded
    assert with_audio_tokens(tokenizer, known, 0) is tokenizer
    assert not caplog.text
    assert with_audio_tokens(tokenizer, known - 1, 3) is tokenizer
    assert "1 tokens beyond the LLM's rows" in caplog.text
    assert spells_audio_token("say <audio_17>") and not spells_audio_token("<audio> 17")
