"""Text benchmarks as retrieval: what is asked, what is right, whom a benchmark is refused to, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from speechde.checkpoint.folder import TrainedModel
from speechde.errors import ConfigError
from speechde.evaluation.asked import Asked
from speechde.evaluation.retrieval import DOCUMENT, QUERY
from speechde.evaluation.rivals import TextEncoder
from speechde.evaluation.text import TASKS, refuse_trained_on, text_tasks
from speechde.evaluation.text_model import evaluate_texts, open_text_model, plain_model
from speechde.models.embed import embed_items
from speechde.reporting.text import text_markdown, write_text_report
from speechde.types import Item, Text

RESULTS = Path(__file__).resolve().parents[3] / "results"


@pytest.fixture
def ask(public_folder, tmp_path):
    return lambda names, **options: text_tasks(names, Asked(tmp_path / "cache", public_folder, **options))


def texts(items):
    return [item.parts[0].content for item in items]


def right(task):
    """The texts that each query is right with."""
    labels = task.relevance
    return {
        query: {text for text, label in zip(texts(task.gallery), labels.gallery, strict=True) if label == own}
        for query, own in zip(texts(task.queries), labels.query, strict=True)
    }


def test_a_sentence_and_its_english(ask):
    """Two English sentences have one Romanian text, which is one query, right with either."""
    romanian, zulu, back, other = ask(["sib200", "sib200_back"])
    assert [(task.name, task.subset) for task in (romanian, zulu, back, other)] == [
        ("sib200", "ro_ro"), ("sib200", "zu_za"), ("sib200_back", "ro_ro"), ("sib200_back", "zu_za"),
    ]  # fmt: skip
    assert right(romanian) == {
        "O cupă.": {'A "cup".', "The cup."}, "Un vapor.": {"A ship."}, "O pisică.": {"A cat."},
    }  # fmt: skip
    assert right(back) == {'A "cup".': {"O cupă."}, "The cup.": {"O cupă."}, "A ship.": {"Un vapor."},
                           "A cat.": {"O pisică."}}  # fmt: skip
    assert len(set(romanian.resample)) == 3 and np.array_equal(back.resample, back.relevance.query)
    assert romanian.chance == pytest.approx((2 + 1 + 1) / 3 / 4)
    assert romanian.gallery[0] is zulu.gallery[0]  # embedded once
    assert {item.lang for item in romanian.queries} == {"ro_ro"} and romanian.gallery[0].lang == "en_us"


def test_lines_without_a_translation_are_left_out(ask):
    lines, documents = ask(["ntrex", "ntrex_documents"])
    assert right(lines) == {"Un vapor.": {"One ship."}, "Trei vapoare.": {"Three ships."}}
    assert right(documents) == {"Un vapor.": {"One ship.\nTwo ships."}, "Trei vapoare.": {"Three ships."}}


def test_questions_and_paragraphs(ask):
    english, romanian = ask(["xquad"])
    assert (english.subset, romanian.subset) == ("en_us", "ro_ro")
    assert right(romanian) == {
        "Cine rage?": {"Leii rag."}, "Ce fac leii?": {"Leii rag."}, "Cine toarce?": {"Pisicile torc."},
    }  # fmt: skip
    assert romanian.gallery[0].title == "Big Cats"
    assert romanian.resample.tolist() == [0, 0, 1]


def test_intents_and_examples_less_those_that_are_asked(ask):
    names, examples = ask(["banking77", "banking77_examples"])
    assert right(names) == {"Where is it?": {"card arrival"}, "Lost, I am.": {"lost card"}}
    assert right(examples) == {"Where is it?": {"Is it here?"}, "Lost, I am.": {"My card is gone."}}
    assert ask(["banking77", "xquad"], langs=["ro_ro"])[0].name == "xquad"  # the former is English


def test_a_sample_takes_the_same_sentences_in_all_languages_and_leaves_galleries_whole(ask):
    for seed in range(4):
        (english,) = ask(["sib200_back"], per_language=2, seed=seed, langs=["zu_za"])
        romanian, zulu = ask(["sib200"], per_language=2, seed=seed)
        assert [len(task.gallery) for task in (romanian, zulu)] == [4, 4]
        assert {answer for found in right(zulu).values() for answer in found} == set(texts(english.queries))
    assert [len(task.queries) for task in ask(["xquad"], per_language=1)] == [1, 1]
    drawn = {tuple(texts(ask(["sib200"], per_language=2, seed=seed)[1].queries)) for seed in range(8)}
    assert len(drawn) > 1


def test_what_cannot_be_asked(ask):
    with pytest.raises(ConfigError, match=r"text task: 'sib'.*Did you mean 'sib200'"):
        ask(["sib"])
    with pytest.raises(ConfigError, match="zu_za: in none of ntrex"):
        ask(["ntrex"], langs=["ro_ro", "zu_za"])
    with pytest.raises(ConfigError, match="nothing is asked for but English"):
        ask(["sib200"], langs=["en_us"])


SPOKEN = {"speech": {"examples": "clips", "shares": {"synthetic": 0.4}}, "qa": None}
READ = {"name": "sentences", "synthetic": {"texts": "names+sentences"}}


@pytest.mark.parametrize(
    ("data", "tasks", "refused"),
    [
        ({"name": "fleurs"}, {}, ["sib200", "sib200_back"]),
        ({"name": "covost"}, SPOKEN, []),
        (READ, SPOKEN, ["ntrex", "ntrex_back", "ntrex_documents"]),
        (READ, {"speech": {"examples": "clips", "shares": {}}}, []),
        ({"name": "stamps", "synthetic": {"texts": "names"}}, SPOKEN, []),
    ],
)
def test_who_was_trained_on_a_benchmark_is_refused(data, tasks, refused):
    record = {"config": {"data": data, "tasks": tasks}}
    other = {"config": {"data": {"name": "stamps"}}}
    soup = {"soup": [{"record": other}, {"record": {**other, "adapted_from": record}}]}
    adapted = {"config": {"data": {"name": "stamps"}, "adapt": {"old": data}, "tasks": tasks}}
    for own in (record, {**other, "adapted_from": record}, soup, adapted):
        for name in TASKS:
            if name in refused:
                with pytest.raises(ConfigError, match=f"{name}: the model was trained on"):
                    refuse_trained_on(own, [name])
            else:
                refuse_trained_on(own, [name])
    refuse_trained_on(None, TASKS)


@pytest.mark.parametrize("llm", ["bert", "xlm-roberta"])
def test_a_model_as_it_comes_gives_the_vectors_of_plain_transformers(tiny_llm, llm):
    opened = open_text_model(str(tiny_llm(llm)), prefix="query: ", device="cpu")
    pairs = [("ro_ro", "un vapor"), (None, "a ship that is longer"), ("fr_fr", "x {y}")]
    items = [Item(Text(text), lang=lang) for lang, text in pairs]
    expected = TextEncoder(tiny_llm(llm)).embed_texts(pairs)
    torch.testing.assert_close(opened.embed(items, QUERY), expected, atol=1e-5, rtol=1e-4)
    assert opened.symmetric and opened.role_of("ro_ro") == "unknown"


def test_prefixes_by_role_and_attention(tiny_llm):
    folder = str(tiny_llm())
    item = [Item(Text("a ship"))]
    opened = open_text_model(folder, prefix="query: ", document_prefix="{passage}: ", device="cpu")
    plain = open_text_model(folder, device="cpu")
    causal = open_text_model(folder, attention="causal", device="cpu")
    written = [plain.embed([Item(Text(text))], QUERY) for text in ("query: a ship", "{passage}: a ship")]
    for role, vectors in zip((QUERY, DOCUMENT), written, strict=True):
        np.testing.assert_allclose(opened.embed(item, role), vectors, atol=1e-6)
    assert not opened.symmetric and plain.symmetric
    assert np.abs(causal.embed(item, QUERY) - plain.embed(item, QUERY)).max() > 1e-3


def test_a_trained_model_has_its_own_prompts_and_record(tiny_model):
    folder = tiny_model()
    opened = open_text_model(str(folder), device="cpu")
    trained = TrainedModel.load(folder)
    items = [Item(Text("un vapor"), lang="ro_ro"), Item(Text("a ship"), lang="en_us")]
    expected = embed_items(trained.model, trained.prompt, items, lambda media: []).vectors
    np.testing.assert_allclose(opened.embed(items, DOCUMENT), expected, atol=1e-6)
    assert [opened.role_of(lang) for lang in ("es_419", "ro_ro")] == ["seen", "zero_shot"]
    opened.record = opened.record | {"seen_synthetic": ["ro_ro"]}
    assert [opened.role_of(lang) for lang in ("es_419", "ro_ro")] == ["seen", "synthetic_only"]
    opened.record = {"seen": [], "adapted_from": {"config": {"tasks": {"qa": {"examples": "qa.jsonl"}, "a": None}}}}
    assert opened.role_of("es_419") == "unknown"  # whatever the file was in
    with pytest.raises(ConfigError, match="prompts of its own"):
        open_text_model(str(folder), prefix="query: ")


def test_scores_and_report(public_folder, tiny_llm, tmp_path):
    opened = open_text_model(str(tiny_llm("bert")), max_tokens=10, device="cpu")
    opened.role_of = {"ro_ro": "seen", "zu_za": "zero_shot", "en_us": "unknown"}.get
    asked = Asked(tmp_path, public_folder, per_language=2)
    metrics, hits = evaluate_texts(opened, ["sib200", "sib200_back", "xquad"], asked)
    sib = metrics["tasks"]["sib200"]
    assert sib["per_language"]["zu_za"]["gallery"] == 4 and sib["seen"]["languages"] == 1
    assert set(sib) == {"per_language", "seen", "zero_shot"}
    assert set(metrics["tasks"]["xquad"]) == {"per_language", "seen", "unknown"}
    assert metrics["noted"]["text cut at 10 tokens"] > 0
    assert metrics["sample"] == {"queries per language": 2} and set(metrics["licences"]) == {"sib200", "xquad"}
    metrics |= {"commit": "0", "hardware": "h", "seconds": 1.0, "command": "c"}
    metrics["model"]["prefixes"] = ["query: ", ""]
    write_text_report(tmp_path / "out", metrics, hits)
    assert json.loads((tmp_path / "out/text.json").read_text()) == json.loads(json.dumps(metrics))
    table = (tmp_path / "out/table.md").read_text()
    assert table == text_markdown(metrics) == text_markdown(json.loads((tmp_path / "out/text.json").read_text()))
    assert "| sib200 | seen | 1 |" in table and "| zu_za | Zulu | zero-shot | 2 | 4 | 25.0 |" in table
    assert "prefixes `query: ` / none" in table and "text cut at 10 tokens" in table


def test_a_plain_model_is_of_unit_length(tiny_llm):
    model = plain_model(tiny_llm())
    assert model.normalise and torch.equal(model.projection.weight, torch.eye(16))


@pytest.mark.parametrize("path", sorted(RESULTS.glob("text/*/text.json")), ids=lambda path: path.parent.name)
def test_committed_tables_are_current(path):
    table = text_markdown(json.loads(path.read_text("utf-8")))
    assert path.with_name("table.md").read_text("utf-8") == table
