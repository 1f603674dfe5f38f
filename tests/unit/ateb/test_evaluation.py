"""The sets as retrieval, their controls, and the report, in which no text of a set stands."""

from __future__ import annotations

import json

import numpy as np
import pytest

from speechde.cli import main as cli
from speechde.errors import ConfigError, DataError
from speechde.evaluation.asked import Asked
from speechde.evaluation.ateb import GROUPS, NAMES
from speechde.evaluation.ateb_controls import answer_probe, ateb_controls, overlap
from speechde.evaluation.files import choice_task, example_task
from speechde.evaluation.retrieval import evaluate
from speechde.evaluation.text import expanded, text_tasks
from speechde.evaluation.text_model import evaluate_texts, open_text_model
from speechde.reporting.archive import read_queries
from speechde.reporting.compare import compare_runs
from speechde.reporting.index import index
from speechde.reporting.text import text_markdown, write_text_report
from speechde.types import Example, Item, Text


@pytest.fixture
def asked(ateb_folder, tmp_path):
    return Asked(tmp_path / "cache", ateb_folder)


def texts(items):
    return [item.parts[0].content for item in items]


def vectors_of(items, role):
    """A direction for each text, the same everywhere, whose first component says what is true and what is false."""
    found = []
    for text in texts(items):
        rng = np.random.default_rng(sum(text.encode()))
        vector = rng.normal(size=4)
        vector[0] = 40 * (("loud" in text or text.startswith("true")) - ("blue" in text or text.startswith("false")))
        found.append(vector / np.linalg.norm(vector))
    return np.array(found, np.float32)


def test_a_label_is_asked_among_labels_and_an_answer_among_its_own(asked):
    (creak,) = text_tasks(["ateb_creak"], asked)
    assert sorted(texts(creak.gallery)) == ["false", "true"] and len(creak.queries) == 8 and creak.chance == 0.5
    assert creak.resample.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    row = evaluate([creak], vectors_of).rows["ateb_creak"]["en_us"]
    assert row["recall@1"] == 1.0
    (explained,) = text_tasks(["ateb_creak_explained"], asked)
    assert "true. Everybody saw number 200." in texts(explained.gallery) and explained.chance == 0.5
    own, pool = text_tasks(["ateb_arc_challenge", "ateb_arc_challenge_pool"], asked)
    assert own.chance == 0.25 and len(own.gallery) == len(pool.gallery) == 32 and pool.chance == 1 / 32
    for task in (own, pool):
        correct = task._masks(slice(None))[0]
        found = [texts(task.gallery)[place] for place in correct.argmax(1)]
        assert found == [f"It is {n}, choice {n % 4}." for n in range(100, 108)] and (correct.sum(1) == 1).all()


def test_parts_are_apart_and_a_language_may_be_asked_for(asked):
    parts = [task.subset for task in text_tasks(["ateb_llmbar"], asked)]
    assert parts == ["natural", "neighbor", "gptinst", "gptout", "manual"]
    tasks = text_tasks(["ateb_xcopa"], asked)
    assert len(tasks) == 11 and {"qu", "ht", "cmn_hans_cn"} < {task.subset for task in tasks}
    assert [task.subset for task in text_tasks(["ateb_xcopa"], Asked(asked.cache, asked.folder, langs=["it_it"]))] == [
        "ht", "it_it", "qu",
    ]  # fmt: skip


def test_a_sample_draws_queries_and_leaves_the_pool_whole(asked):
    some = Asked(asked.cache, asked.folder, per_language=3)
    own, pool = text_tasks(["ateb_arc_challenge", "ateb_arc_challenge_pool"], some)
    assert (len(own.queries), len(own.gallery), len(pool.gallery)) == (3, 12, 32)
    assert texts(own.queries) == texts(pool.queries)


def test_names_of_groups():
    assert "ateb_esnli" in NAMES and "ateb_esnli" not in GROUPS["ateb"]
    assert set(expanded(["ateb_safety", "ateb_xstest"])) == {"ateb_diasafety", "ateb_xstest", "ateb_hh_harmless"}
    assert expanded(["ateb_documents"]) == ["ntrex", "ntrex_documents", "xquad"]
    assert {"xquad", "ateb_creak_explained", "ateb_piqa_pool"} < set(expanded(["ateb"]))
    with pytest.raises(ConfigError, match="Did you mean 'ateb_reasoning'"):
        text_tasks(["ateb_reason"], Asked(None))


def example(name, right, *wrong):
    query, *answers = (Item(Text(text), meaning=text, id=text) for text in (name, right, *wrong))
    return Example(query, answers[0], tuple(answers[1:]))


def test_candidates_of_a_file_are_those_of_the_pool_where_these_are_its_own():
    """With the same answers for all, one gallery and candidates of each query give the same ranks."""
    rng = np.random.default_rng(0)
    examples = [example(f"q{n}", *np.roll(["a", "b", "c"], n)) for n in range(12)]
    known = {text: rng.normal(size=4) for text in ["a", "b", "c", *(f"q{n}" for n in range(12))]}
    results = evaluate(
        [choice_task("own", examples, "test"), example_task("all", examples, "test")],
        lambda items, role: np.array([known[text] for text in texts(items)]),
    )
    np.testing.assert_array_equal(results.ranks["own"]["test"], results.ranks["all"]["test"])
    assert results.rows["own"]["test"]["chance"] == pytest.approx(1 / 3)
    with pytest.raises(DataError, match=r"qa: example 1 of dev has no hard negative.*tasks\.qa\.gallery=all"):
        choice_task("qa", [examples[0], example("q", "a")], "dev")


def test_controls_of_labels(asked):
    (task,) = text_tasks(["ateb_creak"], asked)
    found = ateb_controls([task], asked, vectors_of)["ateb_creak"]
    assert set(found) == {"majority", "probe"}
    assert found["probe"]["en_us"]["recall@1"] == 1.0  # what it has to find is one component of the vectors
    assert found["majority"]["en_us"]["recall@1"] == 0.5
    (task,) = text_tasks(["ateb_fever_symmetric"], asked)
    found = ateb_controls([task], asked, vectors_of)["ateb_fever_symmetric"]
    assert set(found) == {"majority", "probe", "alone"}
    assert found["alone"]["en_us"]["recall@1"] <= 0.5  # twins have one claim, and both labels


def test_controls_of_choices(asked):
    tasks = text_tasks(["ateb_piqa", "ateb_piqa_pool"], asked)
    found = ateb_controls(tasks, asked, vectors_of)
    assert set(found) == {"ateb_piqa"} and set(found["ateb_piqa"]) == {"overlap", "probe", "answer"}


def test_a_probe_of_answers_finds_what_is_in_them_and_in_their_product_with_the_input():
    rng = np.random.default_rng(0)
    signs, known = rng.choice([-1.0, 1.0], 400), {}
    for n, sign in enumerate(signs):  # the right answer has the sign of the input: neither says so by itself
        known |= {
            f"q{n}": [sign, 0.1],
            f"r{n}": [sign, 0.0],
            f"w{n}": [-sign, 0.0],
            f"l{n}": [0.0, 1.0],
            f"s{n}": [0.0, 0.0],
        }

    def embed(items, role):
        return np.array([known[text] for text in texts(items)])

    def accuracy(pairs, with_input):
        examples = [example(f"q{n}", f"{pairs[0]}{n}", f"{pairs[1]}{n}") for n in range(400)]
        scores = answer_probe(examples[:200], examples[200:250], embed, with_input=with_input)
        task = choice_task("t", examples[250:], "test")
        whole = scores(task)
        return np.mean(task.rank_scores(lambda rows: whole[rows]).ranks == 1)

    assert accuracy("rw", True) == 1.0 and accuracy("rw", False) < 0.7
    assert accuracy("ls", False) == 1.0


def test_words_that_are_shared_and_ties_that_count_against():
    task = choice_task("t", [example("a red cat", "The red cat!", "dogs"), example("a b", "a", "b")], "test")
    whole = overlap(task)
    assert task.rank_scores(lambda rows: whole[rows]).ranks.tolist() == [1, 2]


@pytest.mark.parametrize("name", ["ateb_safety", "ateb_instruction"])
def test_no_text_of_a_set_is_in_what_is_written(asked, tiny_llm, tmp_path, name, capsys, caplog):
    opened = open_text_model(str(tiny_llm("bert")), device="cpu")
    metrics, hits = evaluate_texts(opened, [name], asked, controls=True)
    metrics |= {"commit": "0abc", "hardware": "one core", "command": "c", "seconds": 1.0}
    write_text_report(tmp_path / "out", metrics, hits)
    page = (tmp_path / "out/table.md").read_text("utf-8")
    kept = list(read_queries(tmp_path / "out"))
    rows = [row for task in metrics["tasks"].values() for row in task["per_language"].values()]
    assert kept == hits and len(hits) == sum(row["queries"] for row in rows)
    said = (
        str(kept) + page + (tmp_path / "out/text.json").read_text("utf-8") + caplog.text + "".join(capsys.readouterr())
    )
    assert "MARKED" not in said and "Done" not in said
    assert "## Controls of ATEB's sets" in page
    assert text_markdown(json.loads((tmp_path / "out/text.json").read_text("utf-8"))) == page
    if name == "ateb_safety":
        assert metrics["licences"]["ateb_xstest"] == "CC-BY-4.0"


def test_the_page_of_results_has_a_row_for_each_set(asked, tiny_llm, tmp_path):
    opened = open_text_model(str(tiny_llm("bert")), device="cpu")
    metrics, hits = evaluate_texts(opened, ["ateb_creak", "ateb_llmbar"], asked, controls=True)
    about = {"commit": "0abc", "hardware": "one core", "command": "c", "seconds": 1.0}
    write_text_report(tmp_path / "results/ateb/bert", metrics | about, hits)
    page = index(tmp_path / "results")
    assert "## Text benchmarks" not in page
    rows = [line.split(" | ") for line in page.splitlines() if "| ateb_" in line]
    assert [row[1:4] for row in rows] == [
        ["factuality", "ateb_creak", "1"],
        ["instruction following", "ateb_llmbar", "5"],
    ]
    assert rows[0][6] == "50.0" and rows[1][6] == "–"  # majority, of labels


def test_the_command(ateb_folder, tiny_llm, own_cache, capsys):
    asked = ["evaluate-text", str(tiny_llm("bert")), "-t", "ateb_fever_symmetric", "--controls", "--json"]
    assert cli.main([*asked, "--folder", str(ateb_folder), "--per-language", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"]["ateb_fever_symmetric"]["per_language"]["en_us"]["queries"] == 4
    assert set(found["controls"]["ateb_fever_symmetric"]) == {"majority", "probe", "alone"}


def test_two_evaluations_are_compared_query_by_query(ateb_folder, tiny_llm, own_cache, tmp_path, capsys):
    """Families are drawn; a part that is asked in a smaller sample compares too, where that is asked for."""
    sets = "-t", "ateb_creak", "-t", "ateb_llmbar", "--folder", str(ateb_folder)
    for name, more in (("a", ()), ("b", ("--prefix", "x: ")), ("few", ("--per-language", "3"))):
        assert cli.main(["evaluate-text", str(tiny_llm("bert")), *sets, *more, "-o", str(tmp_path / name)]) == 0
    capsys.readouterr()
    asked = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]
    assert cli.main(asked) == 0
    found = {each["direction"]: each for each in json.loads(capsys.readouterr().out)}
    assert set(found) == {"ateb_creak", "ateb_llmbar"} and len(found["ateb_llmbar"]["languages"]) == 5
    (row,) = found["ateb_creak"]["means"]
    scores = [json.loads((tmp_path / name / "text.json").read_text())["tasks"]["ateb_creak"] for name in "ab"]
    assert [row["recall_a"], row["recall_b"]] == [score["unknown"]["recall@1"] for score in scores]
    assert row["won"] + row["lost"] <= 4 and row["queries"] == 8  # four families of a claim and its twin
    some = compare_runs(tmp_path / "few", tmp_path / "b", "ateb_creak", common=True)
    assert some.left_out == (0, 5) and some.means[0].queries == 3
    with pytest.raises(ConfigError, match=r"task of .* 'ateb_piqa' is not known"):
        compare_runs(tmp_path / "a", tmp_path / "b", "ateb_piqa")
