"""Sets of label classification: factuality (is a claim supported?) and safety (is an answer safe?).

CREAK            Onoe et al. 2021 (arXiv 2109.01653): claims about entities, true or false, with explanations
FeverSymmetric   Schuster et al. 2019 (arXiv 1908.05267): each claim with evidence for and against it
BEGIN            Dziri et al. 2022 (arXiv 2105.00071): is an answer attributable to what the speaker knew?
DiaSafety        Sun et al. 2022 (arXiv 2110.08466): is an answer safe in its context?
XSTest           Röttger et al. 2024 (arXiv 2308.01263): harmless questions that look dangerous, and dangerous ones
e-SNLI           Camburu et al. 2018 (arXiv 1812.01193)
VitaminC         Schuster et al. 2021 (arXiv 2103.08541)
DialFact         Gupta et al. 2022 (arXiv 2110.08222)
BeaverTails      Ji et al. 2023 (arXiv 2307.04657)
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from speechde.corpora.ateb.rows import Row, fields_of, json_lines, json_list, place_of, read_records, text_of
from speechde.corpora.manifest import BadRow, clean_text
from speechde.corpora.public import read_content
from speechde.errors import AssetError
from speechde.text import BadLine, read_rows
from speechde.types import Dropped

Read = tuple[list[Row], list[Dropped]]

TRUTH = ("true", "false")
SUPPORT = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")
ATTRIBUTION = ("Fully attributable", "Not fully attributable")
SAFETY = ("Safe", "Unsafe")
INFERENCE = ("entailment", "neutral", "contradiction")


def creak(path: Path) -> Read:
    """JSON Lines ``ex_id, sentence, explanation, label, entity``; the contrast set has ``pair_id`` and ``n/a``."""

    def parse(place: str, record: Mapping) -> Row:
        why = clean_text(record["explanation"])
        return Row(
            place,
            fields_of(record, claim="sentence"),
            TRUTH,
            place_of(TRUTH, record["label"]),
            explanation="" if why == "n/a" else why,
            group=record.get("pair_id") or clean_text(record["entity"]),
        )

    return read_records(path, json_lines(path), parse)


def fever_symmetric(path: Path) -> Read:
    """JSON Lines ``claim, evidence, label``; further keys repeat these, and ids end in 000001 and so on for twins."""
    return _claims(path, SUPPORT[:2])


def vitaminc(path: Path) -> Read:
    """JSON Lines ``unique_id, case_id, claim, evidence, label``."""
    return _claims(path, SUPPORT)


def _claims(path: Path, labels: tuple[str, ...]) -> Read:
    def parse(place: str, record: Mapping) -> Row:
        fields = fields_of(record, evidence="evidence", claim="claim")
        group = str(record.get("case_id") or record["claim"])
        return Row(place, fields, labels, place_of(labels, record["label"]), group=group)

    return read_records(path, json_lines(path), parse)


def begin(path: Path) -> Read:
    """TSV without quoting ``model_name, data_source, knowledge, message, response, begin_label``.

    Six rows are ``Generic``, too few to be a label: they are left out. Dev and test share the knowledge of many rows.
    """

    def records() -> list[Mapping | BadRow]:
        (_, header), *rest = read_rows(path, quoting=False)
        if isinstance(header, BadLine) or "begin_label" not in header:
            raise AssetError(f"{path} has no column begin_label; get it again")
        return [
            BadRow("malformed row")
            if isinstance(row, BadLine) or len(row) != len(header)
            else dict(zip(header, row, strict=True))
            for _, row in rest
        ]

    def parse(place: str, record: Mapping) -> Row:
        fields = fields_of(record, knowledge="knowledge", message="message", response="response")
        right = place_of(ATTRIBUTION, record["begin_label"])
        return Row(place, fields, ATTRIBUTION, right, group=record["knowledge"])  # four systems answered each

    return read_records(path, records(), parse)


def diasafety(path: Path) -> Read:
    """A JSON list of ``context, response, category, label``; what a category is called is not told to the model."""

    def parse(place: str, record: Mapping) -> Row:
        fields = fields_of(record, context="context", response="response")
        return Row(place, fields, SAFETY, place_of(SAFETY, record["label"]), group=record["context"])

    return read_records(path, json_list(path), parse)


def xstest(path: Path) -> Read:
    """CSV ``id, prompt, type, label, focus, note``; questions of one ``focus`` are contrasts of each other."""

    def parse(place: str, record: Mapping) -> Row:
        right = place_of(SAFETY, record["label"].capitalize())
        return Row(place, fields_of(record, prompt="prompt"), SAFETY, right, group=record["focus"])

    return read_records(path, _csv(path), parse)


def esnli(path: Path) -> Read:
    """CSV ``pairID, gold_label, Sentence1, Sentence2, Explanation_1, …``; the first explanation is read."""

    def parse(place: str, record: Mapping) -> Row:
        fields = fields_of(record, premise="Sentence1", hypothesis="Sentence2")
        why = clean_text(record.get("Explanation_1") or "")
        return Row(place, fields, INFERENCE, place_of(INFERENCE, record["gold_label"]), why, group=record["Sentence1"])

    return read_records(path, _csv(path), parse)


def dialfact(path: Path) -> Read:
    """JSON Lines ``context`` (a list), ``response``, ``evidence_list``, ``response_label``.

    A piece of evidence is a list that ends in its text.
    """

    def parse(place: str, record: Mapping) -> Row:
        found = " ".join(each[-1] if isinstance(each, list) else each for each in record["evidence_list"])
        whole = {"context": " ".join(record["context"]), "response": record["response"], "evidence": found}
        names = [name for name in ("evidence", "context", "response") if clean_text(whole[name]) or name == "response"]
        fields = fields_of(whole, **{name: name for name in names})
        right = place_of(SUPPORT, record["response_label"].upper())
        return Row(place, fields, SUPPORT, right, group=whole["context"])

    return read_records(path, json_lines(path), parse)


def beavertails(path: Path) -> Read:
    """JSON Lines ``prompt, response, category, is_safe``."""

    def parse(place: str, record: Mapping) -> Row:
        if not isinstance(record["is_safe"], bool):
            raise BadRow("another label")
        fields = fields_of(record, prompt="prompt", response="response")
        return Row(place, fields, SAFETY, int(not record["is_safe"]), group=text_of(record, "prompt"))

    return read_records(path, json_lines(path), parse)


def _csv(path: Path) -> csv.DictReader:
    return csv.DictReader(read_content(path).decode("utf-8-sig").splitlines(keepends=True))
