"""Sets of multiple choice: commonsense and school science, each question with answers of its own.

ARC-Challenge (Clark et al. 2018, arXiv 1803.05457), OpenBookQA (Mihaylov et al. 2018, arXiv 1809.02789), PIQA (Bisk et
al. 2020, arXiv 1911.11641), SIQA (Sap et al. 2019, arXiv 1904.09728), WinoGrande (Sakaguchi et al. 2020, arXiv
1907.10641), XCOPA (Ponti et al. 2020, arXiv 2005.00333), HellaSwag (Zellers et al. 2019, arXiv 1905.07830), αNLI
(Bhagavatula et al. 2020, arXiv 1908.05739).

The first five are public as instructions (Hu et al. 2023, LLM-Adapters, arXiv 2304.01933), which have their choices
inside the text; their authors' own layouts are read too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from speechde.corpora.ateb.labels import Read
from speechde.corpora.ateb.rows import Row, beginning, fields_of, json_lines, json_list, read_records, text_of
from speechde.corpora.manifest import BadRow, clean_text
from speechde.errors import ConfigError
from speechde.languages import resolve
from speechde.text import read_lines

_INSTRUCTION = re.compile(
    r"Please choose the correct (?:answer|solution) to (?:the question|fill in the blank to complete the given "
    r"sentence): (?P<question>.*?)\s*\n\s*\n(?P<choices>(?:Answer|Solution|Option)1: .*)"
    r"Answer format: (?P<format>\S+)\s*",
    re.DOTALL,
)


def instructions(path: Path, twins: bool = False) -> Read:
    """A JSON list of ``instruction, answer``: ``…: QUESTION\\n\\nAnswer1: … Answer2: …\\n\\nAnswer format: answer1/…``.

    The choices are called Answer, Solution or Option, and stand on one line or several. The format names them all, so
    that an answer that happens to hold ``Answer2:`` makes a bad row and not a wrong one. ``twins``: those that begin
    alike are of one family.
    """

    def parse(place: str, record: Mapping) -> Row:
        if not (match := _INSTRUCTION.fullmatch(record["instruction"])):
            raise BadRow("another instruction")
        names = match["format"].split("/")
        kind = names[0].rstrip("1").capitalize()
        _, *found = re.split(rf"(?:^|\s){kind}(\d): ", match["choices"])
        numbers, texts = found[::2], tuple(clean_text(text) for text in found[1::2])
        if [f"{kind.lower()}{number}" for number in numbers] != names or record["answer"] not in names:
            raise BadRow("choices that are not those of the format")
        if not all(texts):
            raise BadRow("an empty choice")
        question = text_of(match.groupdict(), "question")
        group = beginning(question) if twins else ""
        return Row(place, (("question", question),), texts, names.index(record["answer"]), group=group)

    return read_records(path, json_list(path), parse)


def twin_instructions(path: Path) -> Read:
    """Of WinoGrande, whose sentences come in pairs, and of SIQA, which asks several questions about one event."""
    return instructions(path, twins=True)


def xcopa(path: Path) -> Read:
    """JSON Lines ``premise, choice1, choice2, question`` (cause or effect) ``, label`` (0 or 1); ``test.LL.jsonl``.

    FLEURS has neither Haitian Creole nor Quechua: their rows are of no language, and of a part by their tag.
    """
    split, tag, *_ = path.name.split(".")
    try:
        lang = resolve(tag)
    except ConfigError:
        lang = None

    def parse(place: str, record: Mapping) -> Row:
        if record["question"] not in ("cause", "effect"):
            raise BadRow("another question")
        fields = (*fields_of(record, premise="premise"), ("question", f"What was the {record['question']}?"))
        answers = text_of(record, "choice1"), text_of(record, "choice2")
        group = f"{split} {record['idx']}"  # one premise in all languages
        return Row(place, fields, answers, record["label"], part=lang or tag, lang=lang, group=group)

    return read_records(path, json_lines(path), parse)


def hellaswag(path: Path) -> Read:
    """JSON Lines ``ctx, endings, label, source_id``; the published test file has no labels."""

    def parse(place: str, record: Mapping) -> Row:
        endings = tuple(clean_text(ending) for ending in record["endings"])
        return Row(place, fields_of(record, context="ctx"), endings, int(record["label"]), group=record["source_id"])

    return read_records(path, json_lines(path), parse)


def winogrande(path: Path) -> Read:
    """JSON Lines ``qID, sentence, option1, option2, answer`` (1 or 2); twins share all of a ``qID`` but its end."""

    def parse(place: str, record: Mapping) -> Row:
        answers = text_of(record, "option1"), text_of(record, "option2")
        group = record["qID"].rpartition("-")[0]
        return Row(place, fields_of(record, question="sentence"), answers, int(record["answer"]) - 1, group=group)

    return read_records(path, json_lines(path), parse)


def arc(path: Path) -> Read:
    """JSON Lines ``question`` (``stem``, ``choices`` of ``label`` and ``text``) ``, answerKey``: letters or digits."""

    def parse(place: str, record: Mapping) -> Row:
        choices = record["question"]["choices"]
        right = [choice["label"] for choice in choices].index(record["answerKey"])
        texts = tuple(text_of(choice, "text") for choice in choices)
        return Row(place, fields_of(record["question"], question="stem"), texts, right)

    return read_records(path, json_lines(path), parse)


def piqa(path: Path) -> Read:
    """JSON Lines ``goal, sol1, sol2``, and a digit a line, 0 or 1, in ``NAME-labels.lst`` beside them."""
    return _with_labels(path, {"question": "goal"}, ("sol1", "sol2"), first=0)


def alphanli(path: Path) -> Read:
    """JSON Lines ``obs1, obs2, hyp1, hyp2``, and a digit a line, 1 or 2, in ``NAME-labels.lst`` beside them."""
    return _with_labels(path, {"before": "obs1", "after": "obs2"}, ("hyp1", "hyp2"), first=1)


def _with_labels(path: Path, asked: Mapping[str, str], answers: tuple[str, str], first: int) -> Read:
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
    labels = [line for _, line in read_lines(path.with_name(f"{stem}-labels.lst"))]

    def parse(place: str, record: Mapping) -> Row:
        right = int(labels[int(place.rpartition(":")[2])]) - first
        return Row(place, fields_of(record, **asked), tuple(text_of(record, key) for key in answers), right)

    return read_records(path, json_lines(path), parse)
