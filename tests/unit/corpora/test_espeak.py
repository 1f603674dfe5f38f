import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import numpy as np
import pytest

from speechde.corpora import espeak
from speechde.corpora.espeak import NATIVE, PROXY, VARIANTS, VOICES, Espeak, Speaker, spoken_form
from speechde.errors import AssetError, ConfigError
from speechde.languages import LANGUAGES

TEXTS = {"ca_es": "un gat content", "es_419": "cara sonriendo", "fr_fr": "un ours brun", "ru_ru": "улыбка"}
PLAIN = Speaker("", 150, 50, 50)


@pytest.fixture
def synthesiser():
    pytest.importorskip("espeakng_loader", reason="reads with espeak-ng, which espeakng-loader brings")
    return Espeak()


def test_speakers_depend_on_the_key_alone_and_differ():
    speakers = [Speaker.draw(str(i)) for i in range(300)]
    assert speakers == [Speaker.draw(str(i)) for i in range(300)]
    assert len(set(speakers)) > 290
    assert {speaker.variant for speaker in speakers} == set(VARIANTS)


def test_speakers_of_disjoint_sets():
    for _ in range(2):
        speakers = [Speaker.draw(str(i), ("+m1", "+f1"), rate=(160, 170), pitch=(10, 20)) for i in range(100)]
        assert {s.variant for s in speakers} == {"+m1", "+f1"}
        assert {s.rate for s in speakers} <= set(range(160, 171)) and len({s.pitch for s in speakers}) == 11


def test_every_fleurs_language_has_a_voice_a_proxy_or_none():
    assert (len(NATIVE), len(PROXY)) == (73, 22) and not set(NATIVE) & set(PROXY)
    assert set(LANGUAGES) - set(VOICES) == {"ckb_iq", "kam_ke", "km_kh", "lo_la", "luo_ke", "tg_tj", "yo_ng"}
    assert set(VOICES) <= set(LANGUAGES)
    assert not set(PROXY) & {lang for lang, voice in NATIVE.items() if voice in PROXY.values()}
    assert [espeak.voice_kind(lang) for lang in ("ro_ro", "gl_es")] == ["native", "proxy"]
    with pytest.raises(ConfigError, match="synthetic language: 'kam_ke' is not known"):
        espeak.voice_kind("kam_ke")


def test_every_voice_is_installed(synthesiser):
    with synthesiser._library() as (library, _):
        assert [v for v in VOICES.values() if library.espeak_SetVoiceByName(v.encode()) != 0] == []


@pytest.mark.parametrize("lang", TEXTS)
def test_a_reading_is_speech_of_plausible_length(synthesiser, lang):
    waveform = synthesiser.read(TEXTS[lang], lang, PLAIN)
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert 0.4 < len(waveform) / 16_000 < 4
    assert 0.02 < np.sqrt(np.mean(waveform**2)) < 0.5


def test_the_whole_text_is_read_in_its_language(synthesiser):
    short, long = (synthesiser.read(text, "fr_fr", PLAIN) for text in ("un ours", "un ours " * 20))
    assert len(long) > 8 * len(short)
    assert not np.array_equal(synthesiser.read("la mesa", "ca_es", PLAIN), synthesiser.read("la mesa", "fr_fr", PLAIN))


def test_a_reading_does_not_depend_on_those_before(synthesiser):
    jobs = [(text, lang, Speaker.draw(f"{lang}{i}")) for lang, text in TEXTS.items() for i in range(4)]
    forward = [synthesiser.read(*job) for job in jobs]
    backward = [Espeak().read(*job) for job in reversed(jobs)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))


def test_the_speaker_is_heard(synthesiser):
    plain = synthesiser.read("un ours brun", "fr_fr", PLAIN)
    assert len(synthesiser.read("un ours brun", "fr_fr", replace(PLAIN, rate=120))) > 1.1 * len(plain)
    for other in (replace(PLAIN, variant="+f2"), replace(PLAIN, pitch=75), replace(PLAIN, pitch_range=30)):
        assert not np.array_equal(synthesiser.read("un ours brun", "fr_fr", other), plain)


@pytest.mark.parametrize("text", ["", " \n "])
def test_nothing_to_say_is_an_empty_waveform(synthesiser, text):
    waveform = synthesiser.read(text, "fr_fr", PLAIN)
    assert waveform.shape == (0,) and waveform.dtype == np.float32


def test_letters_that_a_voice_would_name_are_replaced(synthesiser):
    assert spoken_form("Ọ bụla ʼ ị", "ig_ng") == "O bula ' i"
    assert spoken_form("ب ښار", "ps_af") == "ب شار"
    assert all(spoken_form(text, lang) == text for lang, text in TEXTS.items())
    named = synthesiser.read("A mụrụ mmadụ nile", "sw_ke", PLAIN)
    assert len(synthesiser.read("A mụrụ mmadụ nile", "ig_ng", PLAIN)) < 0.5 * len(named)


def test_burmese_is_given_in_short_clauses():
    text = " ".join(["လွတ်လပ်သော"] * 20) + "၊ လူ။"
    clauses = spoken_form(text, "my_mm").split(", ")
    assert max(map(len, clauses)) <= 40 and "".join(clauses).replace(" ", "") == text.translate(
        {ord(c): None for c in " ၊။"}
    )


def test_japanese_and_mandarin_need_a_package(monkeypatch):
    monkeypatch.setattr(espeak, "find_spec", lambda name: None)
    assert [espeak.missing_package(lang) for lang in ("ja_jp", "cmn_hans_cn", "fr_fr")] == ["pykakasi", "pypinyin", ""]
    with pytest.raises(AssetError, match=r"ja_jp needs pykakasi.*pip install -e '.*\[breadth\]'"):
        spoken_form("熊", "ja_jp")


def test_japanese_is_read_from_kana(synthesiser):
    pytest.importorskip("pykakasi", reason="an optional package")
    assert spoken_form("人間は平等である。", "ja_jp").replace(" ", "") == "にんげんはびょうどうである。"
    assert len(synthesiser.read("人間は平等である。", "ja_jp", PLAIN)) < 3 * 16_000


def test_mandarin_is_read_from_pinyin(synthesiser):
    pytest.importorskip("pypinyin", reason="an optional package")
    assert spoken_form("人人生而自由", "cmn_hans_cn") == "ren2 ren2 sheng1 er2 zi4 you2"
    assert 0.5 < len(synthesiser.read("人人生而自由", "cmn_hans_cn", PLAIN)) / 16_000 < 4


def test_processes_that_cannot_start_name_the_fix(monkeypatch):
    class Pool(espeak.ProcessPoolExecutor):
        def map(self, *args):
            raise BrokenProcessPool("gone")

    monkeypatch.setattr(espeak, "ProcessPoolExecutor", Pool)
    with pytest.raises(AssetError, match=r"ended early.*workers=1.*__main__"):
        list(espeak.in_processes(str, [("a",)], 2))


def test_unknown_language_and_variant(synthesiser):
    with pytest.raises(ConfigError, match=r"synthetic language: 'kam_ke'.*ca_es, "):
        synthesiser.read("un urs", "kam_ke", PLAIN)
    with pytest.raises(ConfigError, match=r"voice variant: '\+zz' is not known"):
        synthesiser.read("un ours", "fr_fr", replace(PLAIN, variant="+zz"))
    assert len(synthesiser.read("un ours", "fr_fr", PLAIN))


def test_missing_package_names_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(AssetError, match=r"pip install -e '.*\[synthetic\]'"):
        Espeak()

    def not_found(name):
        raise espeak.PackageNotFoundError(name)

    monkeypatch.setattr(espeak, "version", not_found)
    with pytest.raises(AssetError, match=r"pip install -e '.*\[synthetic\]'"):
        espeak.reading_version()


class Loader:
    """Stands for espeakng_loader with a broken installation."""

    def __init__(self, library, data):
        self.get_library_path, self.get_data_path = lambda: str(library), lambda: str(data)


def test_broken_installations_name_the_fix(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "espeakng_loader", Loader(tmp_path / "none.so", tmp_path / "data"))
    with pytest.raises(AssetError, match=r"cannot be loaded .*none\.so.*pip install"):
        Espeak()


def test_missing_voices_do_not_end_the_process(monkeypatch, tmp_path):
    real = pytest.importorskip("espeakng_loader", reason="reads with espeak-ng, which espeakng-loader brings")
    monkeypatch.setitem(sys.modules, "espeakng_loader", Loader(real.get_library_path(), tmp_path / "no" / "data"))
    with pytest.raises(AssetError, match="did not start with the data in"):
        Espeak()
