"""What the benchmarks run on: packaged checkpoints, parallel texts of mixed length, and the stamps clips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from speechde.cache import cache_root
from speechde.corpora import stamps, texts
from speechde.features.windows import fast_dtype
from speechde.models.backbone import Backbone
from speechde.models.prompt import Prompt
from speechde.types import Utterance
from speechde.weights import resolve

LAYERS = 6  # of Gemma 3 270M
# languages of the Universal Declaration whose pieces are aligned with English
LANGS = ("ar_eg", "bg_bg", "ca_es", "cmn_hans_cn", "da_dk", "de_de", "el_gr", "es_419", "fr_fr", "hi_in", "it_it",
         "ja_jp", "nl_nl", "pt_br", "ro_ro", "ru_ru", "sv_se", "tr_tr")  # fmt: skip
MAX_WORDS = 120


@dataclass
class Inputs:
    """Folders of checkpoints in transformers layout, texts and clips.

    Args:
        backbones: name → folder of a text model; dropout is off and attention bidirectional in its config.
        encoder: folder of a Whisper encoder.
        asr: folder of the whole model of ``encoder``, which CTranslate2's converter wants.
        small: folder of a model of few layers, for batches of thousands.
        pairs: texts and their translations; ``short``: the same of a few words each.
        clips: recordings.
        scratch: for temporary files.
        tiny: sizes of a test, not of a measurement.
        full: all queries of ``ranks``, ten million vectors of ``search``.
        dtype: of matrix products under autocast, on both sides.
    """

    backbones: dict[str, Path]
    small: Path
    encoder: Path
    asr: Path
    pairs: Sequence[tuple[str, str]]
    short: Sequence[tuple[str, str]]
    clips: Sequence[Utterance]
    scratch: Path
    tiny: bool = False
    full: bool = False
    dtype: torch.dtype = field(default_factory=fast_dtype)

    @property
    def dtype_name(self) -> str:
        """Such as ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")


def real(scratch: Path) -> Inputs:
    """The inputs of a measurement, fetched where they are missing."""
    cache = cache_root()
    found = texts.read_udhr(texts.find_udhr(None, cache), LANGS, MAX_WORDS)
    pairs = [(s.text, s.translation) for sentences in found.values() for s in sentences if s.translation]
    archive = stamps.find_archive(None, cache / "downloads")
    corpus = stamps.read_stamps(stamps.unpack(archive, cache / "corpora" / f"{stamps.PACKAGE}-{stamps.VERSION}"))
    short = list(dict.fromkeys((u.text, u.translation) for u in corpus.utterances if u.translation))
    encoder, asr = resolve("packaged:whisper-base-encoder"), resolve("packaged:whisper-base")
    small = prepared(resolve("packaged:multilingual-e5-small"), scratch / "e5_4_layers", 4)
    models = {
        "gemma": prepared(resolve("packaged:gemma-3-270m"), scratch / "gemma", LAYERS),
        "e5": prepared(resolve("packaged:multilingual-e5-small"), scratch / "e5"),
    }
    return Inputs(models, small, encoder, asr, shuffled(pairs), shuffled(short), shuffled(corpus.utterances), scratch)


def prepared(folder: Path, out: Path, layers: int | None = None) -> Path:
    """A copy of a text model that speechde and sentence-transformers read alike, without further options."""
    if out.is_dir():
        return out
    model = Backbone.load(folder, num_layers=layers, dropout=0.0).model
    if hasattr(model.config, "use_bidirectional_attention"):
        model.config.use_bidirectional_attention = True
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out


def shuffled(items: Sequence) -> list:
    """In a fixed random order, so that any stretch has the mix of all."""
    return [items[i] for i in np.random.default_rng(0).permutation(len(items))]


def repeated(items: Sequence, count: int) -> list:
    """The first ``count`` items, from the start again where there are fewer."""
    return [items[i % len(items)] for i in range(count)]


def of_one_length(folder: Path, texts: Sequence[str]) -> list[str]:
    """Those of the length in tokens that has the most tokens altogether, each once."""
    tokenizer, found = AutoTokenizer.from_pretrained(folder), defaultdict(list)
    for text in dict.fromkeys(texts):
        found[len(tokenizer(text)["input_ids"])].append(text)
    return max(found.items(), key=lambda item: item[0] * len(item[1]))[1]


def plain_prompt(folder: Path, backbone: Backbone) -> Prompt:
    """Token ids without a prefix, as sentence-transformers makes them."""
    return Prompt(AutoTokenizer.from_pretrained(folder), mode="none", positions=backbone.positions)
