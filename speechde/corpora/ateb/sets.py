"""The sets by name: what each tests, where its files are, and how they are split.

ATEB (Han et al. 2025, arXiv 2502.16766) has 21 tasks of five abilities; its data were never released. Here are public
sets of the same abilities, some of them its own, as ``docs/ateb.md`` lists them. The fifth ability, documents, is asked
by ``evaluation.text`` (``ntrex``, ``ntrex_documents``, ``xquad``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from speechde.corpora.ateb import choices, labels, preferences
from speechde.corpora.ateb.rows import Row
from speechde.corpora.ateb.splits import Rows, split_rows
from speechde.corpora.public import find_files, pinned
from speechde.errors import AssetError, DataError, unknown_value
from speechde.types import Dropped

LABEL, PREFERENCE, CHOICE = "label", "preference", "choice"
ABILITIES = ("factuality", "safety", "instruction following", "reasoning")
FOLDER = "ateb"


@dataclass(frozen=True)
class AtebSet:
    """One set.

    ``kind``: the answers are labels that all rows share, two answers to one request, or choices of a question.
    ``files``: the split of each, ``WHOLE`` of one that is cut here; below ``FOLDER``, pinned or brought by the user.
    ``alone``: the field that should not say the answer by itself; a control reads it alone. ``explained``: rows have
    explanations. ``kin``: sets that test the same ability on the same training rows, whose inputs no training has.
    """

    ability: str
    kind: str
    read: Callable[[Path], tuple[list[Row], list[Dropped]]]
    files: Mapping[str, str]
    alone: str = ""
    explained: bool = False
    kin: tuple[str, ...] = ()
    licence: str = field(default="", compare=False)  # of a set that is not pinned


def _files(folder: str, **splits: str) -> dict[str, str]:
    """``train="a.json b.json"`` → the split of each file."""
    return {f"{folder}/{name}": split for split, names in splits.items() for name in names.split()}


_LLMBAR = "natural adversarial-neighbor adversarial-gptinst adversarial-gptout adversarial-manual".split()
_CASES = "base_9 base_10 constraint negation normal".split()
_RELATED = "faireval llmeval^2 mt-bench".split()
_XCOPA = "et ht id it qu sw ta th tr vi zh".split()
_FACT, _SAFE, _FOLLOW, _REASON = ABILITIES

SETS: dict[str, AtebSet] = {
    "creak": AtebSet(_FACT, LABEL, labels.creak, _files("creak", train="train.json", test="dev.json"), explained=True,
                     kin=("creak_contrast",)),
    "creak_contrast": AtebSet(_FACT, LABEL, labels.creak, _files("creak", train="train.json", test="contrast_set.json"),
                              kin=("creak",)),
    "fever_symmetric": AtebSet(_FACT, LABEL, labels.fever_symmetric,
                               _files("fever_symmetric", train="fever_symmetric_dev.jsonl",
                                      test="fever_symmetric_test.jsonl"),
                               alone="claim"),
    "begin": AtebSet(_FACT, LABEL, labels.begin, _files("begin", whole="begin_dev_wow.tsv begin_test_wow.tsv"),
                     alone="response"),
    "diasafety": AtebSet(_SAFE, LABEL, labels.diasafety,
                         _files("diasafety", train="train.json", dev="val.json", test="test.json"), alone="response"),
    "xstest": AtebSet(_SAFE, LABEL, labels.xstest, _files("xstest", whole="xstest_prompts.csv")),
    "hh_harmless": AtebSet(_SAFE, PREFERENCE, preferences.hh, _files("hh_harmless", whole="test.jsonl")),
    "llmbar": AtebSet(_FOLLOW, PREFERENCE, preferences.llmbar,
                      _files("llmbar", train=" ".join(f"processed-{name}.json" for name in _RELATED),
                             test=" ".join(f"llmbar-{name}.json" for name in _LLMBAR)), kin=("llmbar_cases",)),
    "llmbar_cases": AtebSet(_FOLLOW, PREFERENCE, preferences.llmbar,
                            _files("llmbar", train=" ".join(f"processed-{name}.json" for name in _RELATED),
                                   test=" ".join(f"casestudy-{name}.json" for name in _CASES)), kin=("llmbar",)),
    "arc_challenge": AtebSet(_REASON, CHOICE, choices.instructions,
                             _files("reasoning", train="arc-challenge-train.json", test="arc-challenge-test.json")),
    "openbookqa": AtebSet(_REASON, CHOICE, choices.instructions,
                          _files("reasoning", train="openbookqa-train.json", test="openbookqa-test.json")),
    "piqa": AtebSet(_REASON, CHOICE, choices.instructions, _files("reasoning", whole="piqa-test.json")),
    "social_i_qa": AtebSet(_REASON, CHOICE, choices.twin_instructions,
                            _files("reasoning", whole="social_i_qa-test.json")),
    "winogrande": AtebSet(_REASON, CHOICE, choices.twin_instructions,
                           _files("reasoning", whole="winogrande-test.json")),
    "xcopa": AtebSet(_REASON, CHOICE, choices.xcopa,
                     _files("xcopa", train=" ".join(f"val.{tag}.jsonl" for tag in _XCOPA),
                            test=" ".join(f"test.{tag}.jsonl" for tag in _XCOPA))),
    # brought by the user: as their authors publish them
    "esnli": AtebSet(_FACT, LABEL, labels.esnli,
                     _files("esnli", train="esnli_train_1.csv esnli_train_2.csv", dev="esnli_dev.csv",
                            test="esnli_test.csv"),
                     alone="hypothesis", explained=True),
    "vitaminc": AtebSet(_FACT, LABEL, labels.vitaminc,
                        _files("vitaminc", train="train.jsonl", dev="dev.jsonl", test="test.jsonl"), alone="claim",
                        licence="CC-BY-SA-3.0"),
    "dialfact": AtebSet(_FACT, LABEL, labels.dialfact,
                        _files("dialfact", train="valid_split.jsonl", test="test_split.jsonl"), alone="response"),
    "beavertails": AtebSet(_SAFE, LABEL, labels.beavertails,
                           _files("beavertails", train="30k_train.jsonl", test="30k_test.jsonl"), alone="response",
                           licence="CC-BY-NC-4.0"),
    "hh_helpful": AtebSet(_FOLLOW, PREFERENCE, preferences.hh,
                          _files("hh_helpful", train="train.jsonl", test="test.jsonl"), licence="MIT"),
    "shp": AtebSet(_FOLLOW, PREFERENCE, preferences.shp,
                   _files("shp", train="train.json", dev="validation.json", test="test.json")),
    "alpacafarm": AtebSet(_FOLLOW, PREFERENCE, preferences.alpacafarm,
                          _files("alpacafarm", whole="alpaca_human_preference.json"), licence="CC-BY-NC-4.0"),
    "hellaswag": AtebSet(_REASON, CHOICE, choices.hellaswag,
                         _files("hellaswag", train="hellaswag_train.jsonl", test="hellaswag_val.jsonl"), licence="MIT"),
    "alphanli": AtebSet(_REASON, CHOICE, choices.alphanli, _files("alphanli", train="train.jsonl", test="dev.jsonl")),
    "piqa_full": AtebSet(_REASON, CHOICE, choices.piqa, _files("piqa", train="train.jsonl", test="valid.jsonl")),
    "winogrande_full": AtebSet(_REASON, CHOICE, choices.winogrande,
                               _files("winogrande", train="train_xl.jsonl", test="dev.jsonl")),
    "arc_full": AtebSet(_REASON, CHOICE, choices.arc,
                        _files("arc", train="ARC-Challenge-Train.jsonl", dev="ARC-Challenge-Dev.jsonl",
                               test="ARC-Challenge-Test.jsonl")),
}  # fmt: skip


def set_of(name: str) -> AtebSet:
    """The set of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SETS:
        raise unknown_value("ATEB set", name, SETS)
    return SETS[name]


def is_public(name: str) -> bool:
    """Whether a set's files are pinned, so that they are fetched where they are missing."""
    return all(_place(file) in pinned() for file in SETS[name].files)


def licences_of(name: str) -> str:
    """The terms of a set, as far as they are known; empty where nobody states them."""
    own = SETS[name]
    found = dict.fromkeys(pinned()[file].licence for file in map(_place, own.files) if file in pinned())
    return "; ".join(found) or own.licence


def read_set(name: str, folder: str | Path | None, cache_dir: str | Path, option: str = "data.public") -> Rows:
    """Rows of a set by split.

    ``folder`` holds ``ateb/``; pinned files are found or fetched as ``public.find_files`` does, others must lie there.

    Raises:
        ConfigError: there is no such set.
        AssetError: a file cannot be had, or is of another layout.
        DataError: a file has no usable row.
    """
    own = set_of(name)
    found, dropped = _read(own, own.files, folder, cache_dir, option)
    elsewhere: list[Row] = []
    for kin in map(set_of, own.kin):
        tested = {file: split for file, split in kin.files.items() if split == "test"}
        elsewhere += _read(kin, tested, folder, cache_dir, option)[0]["test"]
    rows = split_rows(found, elsewhere)
    rows.dropped[:0] = dropped
    return rows


def _read(
    own: AtebSet, files: Mapping[str, str], folder: str | Path | None, cache_dir: str | Path, option: str
) -> tuple[dict[str, list[Row]], list[Dropped]]:
    found: dict[str, list[Row]] = {}
    dropped: list[Dropped] = []
    for file, path in _paths(files, folder, cache_dir, option).items():
        rows, left_out = own.read(path)
        if not rows:
            why = ", ".join(f"{reason}: {count}" for reason, count in Counter(d.reason for d in left_out).items())
            raise DataError(f"{path} has no usable row ({why or 'it is empty'}); docs/ateb.md lists the layouts")
        found.setdefault(files[file], []).extend(rows)
        dropped += left_out
    return found, dropped


def brought(name: str, folder: str | Path | None) -> list[Path]:
    """Those files of a set that are not pinned and lie in ``folder``: only a hash says which they are."""
    places = [_place(file) for file in set_of(name).files]
    return [path for place in places if place not in pinned() and (path := _found(place, folder))]


def _paths(files: Mapping[str, str], folder: str | Path | None, cache_dir: str | Path, option: str) -> dict[str, Path]:
    """The path of each file."""
    places = {file: _place(file) for file in files}
    paths = find_files([place for place in places.values() if place in pinned()], folder, cache_dir, option)
    for place in places.values():
        if place in pinned():
            continue
        if (path := _found(place, folder)) is None:
            where = f"{option}={folder} holds no {place}" if folder is not None else f"{place} is not fetched"
            raise AssetError(
                f"{where}; get it from its authors (docs/ateb.md) and set {option}=FOLDER to what holds it"
            )
        paths[place] = path
    return {file: paths[place] for file, place in places.items()}


def _found(place: str, folder: str | Path | None) -> Path | None:
    """A file that the user brought, gzipped or not."""
    ways = [] if folder is None else [Path(folder) / place, Path(folder) / f"{place}.gz"]
    return next((path for path in ways if path.is_file()), None)


def _place(file: str) -> str:
    return f"{FOLDER}/{file}"
