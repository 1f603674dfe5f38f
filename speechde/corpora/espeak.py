"""Synthetic speech: texts read by espeak-ng, in this process.

A few thousand real clips of a few hundred sentences are soon memorised. Machine-read text costs nothing and adds
sentences; what comes out is called synthetic wherever it is counted. espeak-ng is a formant synthesiser with one voice
a language, so voice variant, rate and pitch are drawn per sentence.

Of the 102 FLEURS languages 73 have a voice of their own (``NATIVE``). For 22 more the voice of another language reads
the letters, hardly ever spelling them out (``PROXY``): that is not speech of the language, and is kept apart wherever
it is counted. Seven have neither: Sorani Kurdish, Khmer, Lao, Tajik and Yoruba are spelled out or passed over by every
voice, and of Kamba and Luo no text is at hand.

The shared library and its data come from the PyPI package ``espeakng-loader`` (GPL-3+) and are called through ctypes.
Its Japanese and Mandarin voices know few characters: kana come from pykakasi (GPL-3+), pinyin from pypinyin (MIT), both
optional.
"""

from __future__ import annotations

import _ctypes
import ctypes
import hashlib
import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from textwrap import wrap

import numpy as np

from speechde.errors import AssetError, unknown_value
from speechde.install import install_command
from speechde.media import audio
from speechde.progress import progress
from speechde.types import SAMPLE_RATE

# FLEURS code: espeak-ng voice.
NATIVE = {
    **{"af_za": "af", "am_et": "am", "ar_eg": "ar", "as_in": "as", "az_az": "az", "be_by": "be", "bg_bg": "bg"},
    **{"bn_in": "bn", "bs_ba": "bs", "ca_es": "ca", "cmn_hans_cn": "cmn-latn-pinyin", "cs_cz": "cs", "cy_gb": "cy"},
    **{"da_dk": "da", "de_de": "de", "el_gr": "el", "en_us": "en-us", "es_419": "es-419", "et_ee": "et", "fa_ir": "fa"},
    **{"fi_fi": "fi", "fr_fr": "fr", "ga_ie": "ga", "gu_in": "gu", "he_il": "he", "hi_in": "hi", "hr_hr": "hr"},
    **{"hu_hu": "hu", "hy_am": "hy", "id_id": "id", "is_is": "is", "it_it": "it", "ja_jp": "ja", "ka_ge": "ka"},
    **{"kk_kz": "kk", "kn_in": "kn", "ko_kr": "ko", "ky_kg": "ky", "lb_lu": "lb", "lt_lt": "lt", "lv_lv": "lv"},
    **{"mi_nz": "mi", "mk_mk": "mk", "ml_in": "ml", "mr_in": "mr", "ms_my": "ms", "mt_mt": "mt", "my_mm": "my"},
    **{"nb_no": "nb", "ne_np": "ne", "nl_nl": "nl", "om_et": "om", "or_in": "or", "pa_in": "pa", "pl_pl": "pl"},
    **{"pt_br": "pt-br", "ro_ro": "ro", "ru_ru": "ru", "sd_in": "sd", "sk_sk": "sk", "sl_si": "sl", "sr_rs": "sr"},
    **{"sv_se": "sv", "sw_ke": "sw", "ta_in": "ta", "te_in": "te", "th_th": "th", "tr_tr": "tr", "uk_ua": "uk"},
    **{"ur_pk": "ur", "uz_uz": "uz", "vi_vn": "vi", "yue_hant_hk": "yue"},
}
# Another language's voice, chosen by spelling and sounds.
PROXY = {
    **{"ast_es": "es", "ceb_ph": "id", "ff_sn": "sw", "fil_ph": "id", "gl_es": "pt", "ha_ng": "sw", "ig_ng": "sw"},
    **{"jv_id": "id", "kea_cv": "pt", "lg_ug": "sw", "ln_cd": "sw", "mn_mn": "kk", "nso_za": "tn", "ny_mw": "tn"},
    **{"oc_fr": "ca", "ps_af": "fa", "sn_zw": "tn", "so_so": "om", "umb_ao": "sw", "wo_sn": "sw", "xh_za": "tn"},
    **{"zu_za": "tn"},
}
VOICES = NATIVE | PROXY
# What turns a text into letters that the voice knows: a package that is not among the requirements.
_TRANSLITERATORS = {"ja_jp": "pykakasi", "cmn_hans_cn": "pypinyin"}
# Characters that a voice would read by name, and what stands for them when it reads.
_RESPELLED = {
    "ig_ng": str.maketrans("ịọụṅỊỌỤṄ", "iounIOUN"),
    "kea_cv": str.maketrans("êôÊÔ", "éóÉÓ"),
    "ps_af": str.maketrans("ټډړځڅږښګڼېۍيے", "تدرزسژشگنیییی"),
}
_RESPELLED_ANYWHERE = str.maketrans("ʼ।", "'.")
_BURMESE_CLAUSE = 40  # characters; the shortest that aborted had 58
VARIANTS = ("", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+f1", "+f2", "+f3", "+f4", "+f5")

VERSION = 1  # raise it when the same text gets another reading
_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: the callback runs within the call, on its thread
_RETURN_ERRORS = 0x8000  # without it the library ends the process when it finds no data
_UTF8, _END_PAUSE = 1, 0x1000
_RATE, _PITCH, _RANGE = 1, 3, 4
_log = logging.getLogger(__name__)
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Speaker:
    """One way to read: espeak-ng variant, words per minute, pitch and pitch range (0 to 99)."""

    variant: str
    rate: int
    pitch: int
    pitch_range: int

    @classmethod
    def draw(
        cls,
        key: str,
        variants: Sequence[str] = VARIANTS,
        rate: tuple[int, int] = (120, 200),
        pitch: tuple[int, int] = (25, 75),
    ) -> Speaker:
        """The speaker of a sentence, a function of the arguments alone (so that a rerun reads alike)."""
        rng = random.Random(hashlib.sha256(key.encode()).digest())
        return cls(rng.choice(variants), rng.randint(*rate), rng.randint(*pitch), rng.randint(30, 70))


class Espeak:
    """The synthesiser. A reading depends on text, language and speaker alone, never on what was read before.

    espeak-ng keeps its state (position in the pitch flutter, previous phonemes, random numbers) in globals that
    neither terminating nor initialising it resets, so the same call differs from one time to the next. The library
    is therefore loaded anew for each reading and its random numbers are seeded: some milliseconds, for audio that
    has the same bits in any order, in any number of processes.

    Raises:
        AssetError: the package is not installed, or its library does not start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader

            self._path = espeakng_loader.get_library_path()
            self._data = str(Path(espeakng_loader.get_data_path()).parent).encode()
        except ImportError as error:
            raise _not_usable("synthetic speech needs a package that is not installed") from error
        except RuntimeError as error:
            raise _not_usable(f"espeakng-loader holds no voices ({error})") from error
        with self._library():
            pass

    @contextmanager
    def _library(self) -> Iterator[tuple[ctypes.CDLL, int]]:
        """The freshly started library and its sample rate."""
        try:
            library = ctypes.CDLL(self._path)
        except OSError as error:
            raise _not_usable(f"espeak-ng cannot be loaded ({error})") from error
        try:
            rate = library.espeak_Initialize(_SYNCHRONOUS, 0, self._data, _RETURN_ERRORS)
            if rate <= 0:
                raise _not_usable(f"espeak-ng did not start with the data in {self._data.decode()}")
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            yield library, rate
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)

    def read(self, text: str, lang: str, speaker: Speaker) -> np.ndarray:
        """The text, as :func:`spoken_form` gives it, as 16 kHz mono float32 ``(samples,)``.

        Empty when espeak-ng finds nothing to say.

        Raises:
            ConfigError: no voice for ``lang`` (a FLEURS code), or an unknown variant.
        """
        voice_kind(lang)
        if speaker.variant not in VARIANTS:  # the library would quietly read without one
            raise unknown_value("voice variant", speaker.variant, VARIANTS)
        voice = VOICES[lang] + speaker.variant
        chunks: list[np.ndarray] = []

        def collect(samples, count: int, _events) -> int:
            if count > 0:
                chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
            return 0

        callback = _CALLBACK(collect)  # kept in a name: ctypes frees a callback that nobody refers to
        data = ctypes.create_string_buffer(spoken_form(text, lang).encode())
        with self._library() as (library, rate):
            library.espeak_SetSynthCallback(callback)
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise _not_usable(f"espeak-ng has no voice {voice!r}")
            for parameter, value in ((_RATE, speaker.rate), (_PITCH, speaker.pitch), (_RANGE, speaker.pitch_range)):
                library.espeak_SetParameter(parameter, value, 0)
            flags = _UTF8 | _END_PAUSE
            library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, flags, None, None)
        samples = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
        if not samples.any():  # a text without words is answered with a short pause
            return np.zeros(0, np.float32)
        return audio.resample(samples.astype(np.float32) / 32768, rate, SAMPLE_RATE)


def voice_kind(lang: str) -> str:
    """``native``, or ``proxy`` where the voice is another language's. Raises ``ConfigError`` without a voice."""
    if lang not in VOICES:
        raise unknown_value("synthetic language", lang, VOICES)
    return "native" if lang in NATIVE else "proxy"


def missing_package(lang: str) -> str:
    """The package that must be installed before ``lang`` can be read, an empty string if none is missing."""
    package = _TRANSLITERATORS.get(lang, "")
    return package if package and find_spec(package) is None else ""


def spoken_form(text: str, lang: str) -> str:
    """What the voice is given for ``text``: kana for Japanese, pinyin for Mandarin, otherwise nearly the text itself.

    Some letters are replaced by those that the voice knows, because it would read out their names. Burmese gets commas:
    espeak-ng knows no end of a Burmese clause and aborts the process in a longer one.

    Raises ``AssetError`` when the package that transliterates is not installed.
    """
    if package := missing_package(lang):
        raise AssetError(f"reading {lang} needs {package}, which is not installed; run: {install_command('breadth')}")
    if lang == "ja_jp":
        return " ".join(part["hira"] for part in _kakasi().convert(text))
    if lang == "cmn_hans_cn":
        import pypinyin

        return " ".join(pypinyin.lazy_pinyin(text, pypinyin.Style.TONE3, neutral_tone_with_five=True))
    if lang == "my_mm":
        clauses = re.split("[၊။]", text)
        return ", ".join(line for clause in clauses for line in wrap(clause, _BURMESE_CLAUSE, break_long_words=False))
    return text.translate(_RESPELLED.get(lang, {})).translate(_RESPELLED_ANYWHERE)


def in_processes(task: Callable, items: Sequence[tuple], workers: int) -> Iterator:
    """``task(*item)`` for each item, in order, in ``workers`` processes of one thread each; 1 is this process.

    Raises ``AssetError`` when a process cannot be started or dies.
    """
    if workers == 1:
        yield from (task(*item) for item in items)
        return
    # spawn: a fork would copy whatever threads and device contexts the caller holds.
    with ProcessPoolExecutor(min(workers, len(items)), get_context("spawn")) as pool:
        try:
            yield from pool.map(task, *zip(*items, strict=True))
        except BrokenProcessPool as error:
            raise AssetError(
                f"a process that reads with espeak-ng ended early ({error}); use workers=1, or put the code that "
                "starts it below `if __name__ == '__main__':`"
            ) from error


def read_missing(task: Callable, folders: Mapping[str, Path], texts: Mapping[str, Sequence], workers: int) -> None:
    """``task(folder, lang, texts[lang])``, which returns ``lang``, for each language whose folder is not there yet."""
    jobs = [(folder, lang, texts[lang]) for lang, folder in folders.items() if not folder.is_dir()]
    if not jobs:
        return
    sizes = {lang: len(own) for _, lang, own in jobs}
    total = sum(sizes.values())
    _log.info("espeak-ng reads %d texts in %d languages, to %s", total, len(jobs), jobs[0][0].parent)
    with progress("espeak-ng", total, "texts") as advance:
        for lang in in_processes(task, jobs, workers):
            advance(sizes[lang])


@cache
def synthesiser() -> Espeak:
    """The synthesiser of this process, started on first use."""
    return Espeak()


def reading_version() -> str:
    """The versions of ``espeakng-loader`` and of the code around it, part of the name of what is read.

    Raises ``AssetError`` when it is not installed.
    """
    try:
        return f"{version('espeakng-loader')}, {VERSION}, {audio.VERSION}"
    except PackageNotFoundError as error:
        raise _not_usable("synthetic speech needs a package that is not installed") from error


def _not_usable(reason: str) -> AssetError:
    return AssetError(f"{reason}; run: {install_command('synthetic')}")


@cache
def _kakasi():
    import pykakasi

    return pykakasi.kakasi()
