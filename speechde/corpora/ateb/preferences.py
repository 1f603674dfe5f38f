"""Sets of preference: of two answers to one request people, or the makers of the set, hold one to be the better.

HH-RLHF      Bai et al. 2022 (arXiv 2204.05862): two answers at the end of a dialogue, harmless or helpful
LLMBar       Zeng et al. 2024 (arXiv 2310.07641): of two answers one follows the instruction; its adversarial parts
             have wrong ones that read well
SHP          Ethayarajh et al. 2022 (arXiv 2110.08420): of two comments on Reddit the one with more votes
AlpacaFarm   Dubois et al. 2023 (arXiv 2305.14387)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from speechde.corpora.ateb.labels import Read
from speechde.corpora.ateb.rows import Row, fields_of, json_lines, json_list, place_of, read_records, text_of
from speechde.corpora.bitext import ENGLISH
from speechde.corpora.manifest import BadRow, clean_text

_TURN = "\n\nAssistant:"


def hh(path: Path) -> Read:
    """JSON Lines ``chosen, rejected``: dialogues ``\\n\\nHuman: … \\n\\nAssistant: …`` that differ in the last answer.

    Pairs that part before it are left out, of which the harmless test file has five.
    """

    def parse(place: str, record: Mapping) -> Row:
        (before, chosen), (other, rejected) = (record[key].rsplit(_TURN, 1) for key in ("chosen", "rejected"))
        if before != other:
            raise BadRow("the dialogues differ before the last answer")
        dialogue = clean_text(before)
        answers = tuple(text_of({"answer": text}, "answer") for text in (chosen, rejected))
        return Row(place, (("dialogue", dialogue),), answers, 0, group=dialogue[:100])

    return read_records(path, json_lines(path), parse)


def llmbar(path: Path) -> Read:
    """A JSON list of ``input, output_1, output_2, label`` (1 or 2); the name of the file is the part."""
    name = path.name.removesuffix(".gz").removesuffix(".json")
    part = name.removeprefix("llmbar-").removeprefix("casestudy-").removeprefix("adversarial-")

    def parse(place: str, record: Mapping) -> Row:
        fields = fields_of(record, instruction="input")
        answers = text_of(record, "output_1"), text_of(record, "output_2")
        right = place_of((1, 2), record["label"])
        return Row(place, fields, answers, right, part=part, group=fields[0][1])  # several pairs answer one instruction

    return read_records(path, json_list(path), parse)


def shp(path: Path) -> Read:
    """JSON Lines ``post_id, history, human_ref_A, human_ref_B, labels``: 1 where A is preferred."""

    def parse(place: str, record: Mapping) -> Row:
        answers = text_of(record, "human_ref_A"), text_of(record, "human_ref_B")
        right = place_of((1, 0), record["labels"])
        return Row(place, fields_of(record, post="history"), answers, right, group=str(record["post_id"]))

    return read_records(path, json_lines(path), parse)


def alpacafarm(path: Path) -> Read:
    """A JSON list of ``instruction, input, output_1, output_2, preference`` (1 or 2); the input may be empty."""

    def parse(place: str, record: Mapping) -> Row:
        keys = {"instruction": "instruction"} | ({"input": "input"} if clean_text(record.get("input") or "") else {})
        answers = text_of(record, "output_1"), text_of(record, "output_2")
        right = place_of((1, 2), record["preference"])
        return Row(place, fields_of(record, **keys), answers, right, part=ENGLISH, group=record["instruction"])

    return read_records(path, json_list(path), parse)
