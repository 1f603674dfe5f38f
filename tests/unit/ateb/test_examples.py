"""Splits that leak nothing, and what is made of rows for training and for the test."""

from __future__ import annotations

from collections import Counter

import pytest

from speechde.config.ateb import AtebConfig
from speechde.corpora.ateb.examples import drawn, examples_file, examples_of, shuffled, unique_id
from speechde.corpora.ateb.rows import Row
from speechde.corpora.ateb.sets import read_set
from speechde.corpora.ateb.splits import WHOLE, split_rows
from speechde.corpora.examples_file import read_examples
from speechde.errors import ConfigError


def row(name, text=None, right=0, answers=("true", "false"), **more):
    return Row(name, (("claim", text or name),), answers, right, **more)


def ids(rows):
    return {split: [each.id for each in own] for split, own in rows.splits.items()}


def test_families_stay_together_and_a_test_row_never_moves():
    rows = [row(f"r{n}", group=f"family {n // 3}") for n in range(300)]
    found = split_rows({WHOLE: rows})
    families = {split: {each.family for each in own} for split, own in found.splits.items()}
    assert not families["train"] & families["test"] and not families["train"] & families["dev"]
    assert [round(len(own) / 300, 1) for own in found.splits.values()] == [0.5, 0.1, 0.4]
    fewer = split_rows({WHOLE: rows[:150]})
    assert set(ids(fewer)["test"]) == set(ids(found)["test"]) & {each.id for each in rows[:150]}
    cut = split_rows({"train": rows, "test": [row("t")]})
    assert 0.05 < len(cut.splits["dev"]) / 300 < 0.15 and ids(cut)["test"] == ["t"]
    kept = split_rows({"train": rows[:6], "dev": rows[6:9], "test": rows[9:]})
    assert [len(own) for own in kept.splits.values()] == [6, 3, 291]


def test_repeats_and_leaks_are_dropped_and_counted():
    found = split_rows(
        {
            "train": [row("a"), row("b", "A."), row("c", "Asked in test"), row("d", "in dev"), row("e", "elsewhere")],
            "dev": [row("f", "in dev"), row("g", "ASKED in test!", right=1)],
            "test": [row("h", "Asked in test."), row("i", "asked in test", right=1), row("j", "elsewhere")],
        },
        elsewhere=[row("k", "elsewhere")],
    )
    assert ids(found) == {"train": ["a"], "dev": ["f"], "test": ["h", "j"]}
    assert Counter(each.reason for each in found.dropped) == {
        "test row is a repeat": 1, "dev input is in a later split": 1, "train row is a repeat": 1,
        "train input is in a later split": 3,
    }  # fmt: skip
    assert {each.detail for each in found.dropped} == {""}


def test_families_do_not_cross_published_splits():
    found = split_rows(
        {
            "train": [row("a", group="x"), row("b", group="y"), row("c")],
            "dev": [row("d", group="y"), row("e", group="x")],
            "test": [row("f", group="x"), row("g", group="x")],
        }
    )
    assert ids(found) == {"train": ["c"], "dev": ["d"], "test": ["f", "g"]}
    assert Counter(each.reason for each in found.dropped) == {
        "train row is of a family of a later split": 2, "dev row is of a family of a later split": 1,
    }  # fmt: skip


def test_what_the_contrast_set_asks_is_not_trained_on(ateb_folder, tmp_path):
    rows = read_set("creak", ateb_folder, tmp_path)
    asked = {each.asked for own in rows.splits.values() for each in own}
    assert not asked & {each.asked for each in read_set("creak_contrast", ateb_folder, tmp_path).splits["test"]}
    reasons = Counter(each.reason.split(" ", 1)[1] for each in rows.dropped)
    assert (reasons["row is a repeat"], reasons["input is in a later split"]) == (1, 2)


@pytest.mark.parametrize(
    ("target", "right", "wrong"),
    [
        ("label", "true", "false"),
        ("label+id", "[{id}] true", "[{id}] false"),
        ("label+explanation", "true. Because.", "false. Because."),
        ("label+explanation+id", "[{id}] true. Because.", "[{id}] false. Because."),
    ],
)
def test_right_and_wrong_differ_in_the_label_alone(target, right, wrong):
    config = AtebConfig(target=target)
    (one,) = examples_of("creak", [row("r1", "Cats {bark}.", explanation="Because.")], config, config.template)
    number = unique_id("r1")
    assert one.positive.parts[0].content == right.replace("{id}", number)
    assert [negative.parts[0].content for negative in one.negatives] == [wrong.replace("{id}", number)]
    assert one.query.parts[0].content == "claim: Cats {bark}." and number not in one.query.parts[0].content
    assert [item.meaning for item in one.items] == ["creak r1", "creak: true", "creak: false"] and one.shared


def test_choices_mean_what_they_say():
    (one,) = examples_of("piqa", [row("r", "How?", 1, ("So.", "Thus."))], AtebConfig(), "[{id}] {label}")
    assert [item.meaning for item in one.items] == ["piqa r", "Thus.", "So."]


def test_shuffled_explanations_are_of_other_rows_of_the_label():
    rows = [row(f"r{n}", right=n % 2, explanation=f"why {n}") for n in range(20)]
    found = shuffled(rows, 0)
    assert [each.id for each in found] == [each.id for each in rows]
    for before, after in zip(rows, found, strict=True):
        assert before.explanation != after.explanation and int(after.explanation[4:]) % 2 == before.right
    assert {each.explanation for each in found} == {each.explanation for each in rows}
    assert shuffled(rows, 0) == found != shuffled(rows, 1)
    assert shuffled(rows[:1], 0) == rows[:1]


def test_a_draw_depends_on_the_ids_alone():
    rows = [row(f"r{n}") for n in range(50)]
    some = drawn(rows, 10, 0)
    assert len(some) == 10 and some == sorted(some, key=lambda each: int(each.id[1:]))
    assert set(drawn(rows[::-1], 10, 0)) == set(some) != set(drawn(rows, 10, 1))
    assert drawn(rows, None, 0) == rows


@pytest.mark.parametrize("name", ["creak", "diasafety", "hh_harmless", "llmbar", "arc_challenge", "xcopa"])
def test_a_file_of_examples(ateb_folder, tmp_path, name):
    config = AtebConfig(target="label+explanation+id" if name == "creak" else "label+id")
    path, dropped = examples_file(name, config, str(ateb_folder), tmp_path)
    file = read_examples(path)
    rows = read_set(name, ateb_folder, tmp_path)
    assert not file.dropped and dropped == rows.dropped
    assert Counter(file.splits) == {split: len(own) for split, own in rows.splits.items()}
    for split, template in (("train", config.template), ("dev", None), ("test", None)):
        made = examples_of(name, rows.splits[split], config, template)
        found = file.select(split)
        for one, other in zip(made, found, strict=True):
            texts = [[item.parts[0].content for item in each.items] for each in (one, other)]
            assert texts[0] == texts[1] and one.positive.meaning == other.positive.meaning
            assert [item.lang for item in one.items] == [item.lang for item in other.items]
    if name == "creak":
        assert all(one.positive.parts[0].content in ("true", "false") for one in file.select("test"))
    assert examples_file(name, config, str(ateb_folder), tmp_path)[0] == path
    config.limit, config.held_out_limit = 5, 3
    other, _ = examples_file(name, config, str(ateb_folder), tmp_path)
    assert other != path and Counter(read_examples(other).splits) == {"train": 5, "dev": 3, "test": 3}


def test_what_a_set_has_not_is_refused(tmp_path, ateb_folder):
    config = AtebConfig(target="label+explanation")
    with pytest.raises(ConfigError, match=r"ateb\.target=label\+explanation: diasafety has no explanations"):
        examples_file("diasafety", config, str(ateb_folder), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"templates": {"label": "{lable}"}},
            r"ateb\.templates\.label='\{lable\}' has the fields \['lable'\]; allowed",
        ),
        ({"templates": {"label": "yes"}}, r"has the fields \[\]"),
        ({"templates": {"label": "{label"}}, "is no template"),
        ({"templates": {"lable": "{label}"}}, r"ateb\.templates: 'lable' is not known.*Did you mean 'label'"),
        ({"templates": {"label": "{label}"}, "target": "label+id"}, r"has no template; set ateb\.templates\.label\+id"),
        ({"field": "{text}: {title}"}, r"ateb\.field"),
        ({"shuffled": True}, r"ateb\.shuffled needs explanations"),
    ],
)
def test_templates_are_checked_before_anything_is_read(settings, message):
    with pytest.raises(ConfigError, match=message):
        AtebConfig(**settings)
