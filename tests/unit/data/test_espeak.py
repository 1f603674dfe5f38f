import sys
from dataclasses import replace

import numpy as np
import pytest

from speechde.data import espeak
from speechde.data.espeak import VARIANTS, VOICES, Espeak, Speaker
from speechde.errors import AssetError, ConfigError

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


@pytest.mark.parametrize("lang", VOICES)
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


def test_unknown_language_and_variant(synthesiser):
    with pytest.raises(ConfigError, match=r"synthetic language: 'ro_ro'.*ca_es, es_419"):
        synthesiser.read("un urs", "ro_ro", PLAIN)
    with pytest.raises(ConfigError, match=r"voice variant: '\+zz' is not known"):
        synthesiser.read("un ours", "fr_fr", replace(PLAIN, variant="+zz"))
    assert len(synthesiser.read("un ours", "fr_fr", PLAIN))


def test_missing_package_names_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(AssetError, match="pip install 'espeakng-loader"):
        Espeak()

    def not_found(name):
        raise espeak.PackageNotFoundError(name)

    monkeypatch.setattr(espeak, "version", not_found)
    with pytest.raises(AssetError, match="pip install 'espeakng-loader"):
        espeak.installed_version()


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
