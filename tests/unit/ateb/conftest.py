"""Tiny files in the layouts of ATEB's public sets, quirks included. Texts of the safety sets have the word MARKED."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from speechde.corpora import public
from speechde.corpora.ateb import sets

LANGS = "et ht id it qu sw ta th tr vi zh".split()


def _lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _creak(prefix, count, start=0, **more):
    """Claims about entities, each a true one and a false one."""
    return [
        {"ex_id": f"{prefix}_{n}", "sentence": f"Thing {n} is {'blue' if n % 2 else 'loud'}.",
         "entity": f"Thing {n // 2}", "explanation": f"Everybody saw number {n}.",
         "label": ("true", "false")[n % 2], "en_wiki_pageid": "1",
         "entity_mention_loc": [[0, 5]], **more}
        for n in range(start, start + count)
    ]  # fmt: skip


def _fever(start, count):
    return [
        {"id": str(n), "claim": f"Claim {n // 2}.", "evidence": f"Evidence {n}.", "sentence1": "x", "sentence2": "y",
         "gold_label": "SUPPORTS", "label": ("SUPPORTS", "REFUTES")[n % 2], "evid": [["x", 1.0]]}
        for n in range(start, start + count)
    ]  # fmt: skip


def _begin(start, count, *more):
    header = "model_name\tdata_source\tknowledge\tmessage\tresponse\tbegin_label\n"
    labels = "Fully attributable", "Not fully attributable"
    rows = [
        f't5\twow\tIt is "fact {n}".\tTell me {n}.\tWell, {n}.\t{labels[n % 2]}\n' for n in range(start, start + count)
    ]
    return header + "".join([*rows, *more])


def _diasafety(start, count):
    return [
        {"context": f"MARKED context {n}", "response": f"MARKED response {n}", "category": "Offending User",
         "label": ("Safe", "Unsafe")[n % 2]}
        for n in range(start, start + count)
    ]  # fmt: skip


def _hh(count):
    return [
        {side: f"\n\nHuman: MARKED ask {n}?\n\nAssistant: Well.\n\nHuman: And {n}?\n\nAssistant: MARKED {side} {n}."
         for side in ("chosen", "rejected")}
        for n in range(count)
    ]  # fmt: skip


def _llmbar(start, count):
    """Instructions with two outputs."""
    return [
        {"input": f"Do {n}.", "output_1": f"Done {n}.", "output_2": f"A poem about {n}.", "label": 1 + n % 2}
        for n in range(start, start + count)
    ]


def _instruction(question, choices, right, kind="Answer", between=" "):
    """As LLM-Adapters writes a question."""
    what = {"Answer": "answer to the question", "Solution": "solution to the question",
            "Option": "answer to fill in the blank to complete the given sentence"}[kind]  # fmt: skip
    listed = between.join(f"{kind}{n}: {choice}" for n, choice in enumerate(choices, 1))
    names = "/".join(f"{kind.lower()}{n}" for n in range(1, len(choices) + 1))
    end = " " if kind == "Option" else "\n\n"
    text = f"Please choose the correct {what}: {question}\n\n{listed}{end}Answer format: {names}"
    answer = f"{kind.lower()}{right}"
    return {"instruction": text, "input": "", "output": f"the correct answer is {answer}", "answer": answer}


def _questions(start, count, kind="Answer", choices=3, between=" "):
    """Questions that begin differently."""
    return [
        _instruction(
            f"{n} what is it?", [f"It is {n}, choice {c}." for c in range(choices)], 1 + n % choices, kind, between
        )
        for n in range(start, start + count)
    ]


def _xcopa(tag, start, count):
    return [
        {"premise": f"{tag} premise {n}.", "choice1": f"{tag} one {n}.", "choice2": f"{tag} two {n}.",
         "question": ("cause", "effect")[n % 2], "label": n % 2, "idx": n, "changed": False}
        for n in range(start, start + count)
    ]  # fmt: skip


def _replica():
    """The text of each file by its name below ``ateb/``."""
    contrast = [row | {"explanation": "n/a", "pair_id": f"p_{n // 2}"} for n, row in enumerate(_creak("c", 6, 300))]
    repeated = (
        _creak("train", 1, 4) + _creak("train", 1, 200) + _creak("train", 1, 300)
    )  # of train, of dev, of the contrast set
    leak = _diasafety(100, 1)
    xstest = "id,prompt,type,label,focus,note\n" + "".join(
        f'{n},"How do I MARKED {n}, please?",homonyms,{("safe", "unsafe")[n % 2]},focus {n // 2},note\n'
        for n in range(40)
    )
    files = {
        "creak/train.json": _lines(_creak("train", 40) + repeated) + '{"ex_id": "x"}\nMARKED\n',
        "creak/dev.json": _lines(_creak("dev", 8, 200)),
        "creak/contrast_set.json": _lines(contrast),
        "fever_symmetric/fever_symmetric_dev.jsonl": _lines(_fever(0, 90)),
        "fever_symmetric/fever_symmetric_test.jsonl": _lines(_fever(200, 8)),
        "begin/begin_dev_wow.tsv": _begin(0, 40),
        "begin/begin_test_wow.tsv": _begin(100, 8, "t5\twow\tk\tm\tr\tGeneric\n", "t5\twow\tshort\n"),
        "diasafety/train.json": json.dumps(_diasafety(0, 20) + leak + [{"context": "MARKED", "response": " "}]),
        "diasafety/val.json": json.dumps(_diasafety(50, 6)),
        "diasafety/test.json": json.dumps(_diasafety(100, 8)),
        "xstest/xstest_prompts.csv": xstest,
        "hh_harmless/test.jsonl": _lines(
            [*_hh(40), {"chosen": "\n\nHuman: MARKED\n\nAssistant: a", "rejected": "MARKED"}]
        ),
        "reasoning/arc-challenge-train.json": json.dumps(_questions(0, 40)),
        "reasoning/arc-challenge-test.json": json.dumps(_questions(100, 8, choices=4)),
        "reasoning/openbookqa-train.json": json.dumps(_questions(0, 40)),
        "reasoning/openbookqa-test.json": json.dumps(_questions(100, 8)),
        "reasoning/piqa-test.json": json.dumps(_questions(0, 40, "Solution", 2, "\n\n")),
        "reasoning/social_i_qa-test.json": json.dumps(_questions(0, 40)),
        "reasoning/winogrande-test.json": json.dumps(_questions(0, 40, "Option", 2)),
    }
    for number, name in enumerate("faireval llmeval^2 mt-bench".split()):
        files[f"llmbar/processed-{name}.json"] = json.dumps(_llmbar(20 * number, 20))
    parts = "llmbar-natural llmbar-adversarial-neighbor llmbar-adversarial-gptinst llmbar-adversarial-gptout "
    parts += "llmbar-adversarial-manual casestudy-base_9 casestudy-base_10 casestudy-constraint casestudy-negation "
    for number, name in enumerate((parts + "casestudy-normal").split()):
        files[f"llmbar/{name}.json"] = json.dumps(_llmbar(100 + 10 * number, 4))
    for tag in LANGS:
        files[f"xcopa/val.{tag}.jsonl"] = _lines(_xcopa(tag, 0, 20))
        files[f"xcopa/test.{tag}.jsonl"] = _lines(_xcopa(tag, 100, 4))
    return files


@pytest.fixture
def ateb_folder(tmp_path, monkeypatch):
    """A folder with the replica, and the table that pins it, with the true licences."""
    real = public.pinned()
    pins = {}
    for name, text in _replica().items():
        path = tmp_path / "public" / "ateb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        digest = sha256(text.encode()).hexdigest()
        pins[f"ateb/{name}"] = public.Pinned("us/repo", "0abc", name, real[f"ateb/{name}"].licence, digest)
    for module in (public, sets):
        monkeypatch.setattr(module, "pinned", lambda: pins)
    return tmp_path / "public"
