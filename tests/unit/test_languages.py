from collections import Counter

import pytest

from speechde import languages
from speechde.errors import ConfigError


def test_table_holds_the_102_fleurs_languages_by_region():
    assert len(languages.LANGUAGES) == 102
    counts = Counter(language.region for language in languages.LANGUAGES.values())
    assert counts == {"WE": 25, "EE": 16, "CMN": 12, "SSA": 20, "SA": 14, "SEA": 11, "CJK": 4}
    assert set(counts) == set(languages.REGIONS)


def test_covost_flag_marks_the_21_source_languages():
    covost = {code.split("_")[0] for code, language in languages.LANGUAGES.items() if language.covost}
    assert covost == set("ar ca cy de es et fa fr id it ja lv cmn nl pt ru sl sv ta tr mn".split())


def test_names_and_iso_codes_are_unique():
    for field in ("name", "iso639_3"):
        values = [getattr(language, field) for language in languages.LANGUAGES.values()]
        assert len(set(values)) == 102
    assert all(len(language.iso639_3) == 3 for language in languages.LANGUAGES.values())
    assert all(len(language.script) == 4 for language in languages.LANGUAGES.values())


def test_get_names_the_language():
    assert languages.get("es_419").name == "Spanish"
    assert languages.get("cmn_hans_cn").name == "Mandarin"
    assert languages.get("ckb_iq").name == "Sorani Kurdish"


def test_get_takes_codes_only_and_suggests():
    with pytest.raises(ConfigError, match=r"'ro' is not known.*resolve"):
        languages.get("ro")
    with pytest.raises(ConfigError, match="Did you mean 'fr_fr'"):
        languages.get("fr_fe")


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("ro", "ro_ro"),
        ("ron", "ro_ro"),
        ("rum", "ro_ro"),
        ("Romanian", "ro_ro"),
        ("ro_ro", "ro_ro"),
        (" RO ", "ro_ro"),
        ("es", "es_419"),
        ("es-ES", "es_419"),
        ("pt_BR", "pt_br"),
        ("zh", "cmn_hans_cn"),
        ("zh-CN", "cmn_hans_cn"),
        ("zh_HK", "yue_hant_hk"),
        ("sv-SE", "sv_se"),
        ("no", "nb_no"),
        ("tl", "fil_ph"),
        ("Northern Sotho", "nso_za"),
        ("zh-yue", "yue_hant_hk"),
        ("zh-yue-HK", "yue_hant_hk"),
        ("zh_Hant_HK", "yue_hant_hk"),
        ("zh-MO", "yue_hant_hk"),
        ("yue-Hans", "yue_hant_hk"),
        ("zh-cmn-Hans-CN", "cmn_hans_cn"),
        ("zh-Hant-TW", "cmn_hans_cn"),
        ("zh-guoyu", "cmn_hans_cn"),
        ("ar-arz", "ar_eg"),
        ("ar-MA", "ar_eg"),
        ("nn-NO", "nb_no"),
        ("no-nyn", "nb_no"),
        ("iw", "he_il"),
        ("in", "id_id"),
        ("sr-Latn-RS", "sr_rs"),
        ("eng_Latn", "en_us"),
        ("ca_ES@valencia", "ca_es"),
        ("ca-valencia", "ca_es"),
        ("pt_BR.UTF-8", "pt_br"),
        ("de-1996", "de_de"),
        ("en-x-lab", "en_us"),
    ],
)
def test_resolve_knows_common_tags(tag, code):
    assert languages.resolve(tag) == code


def test_every_code_name_and_iso_code_resolves_to_itself():
    for code, language in languages.LANGUAGES.items():
        assert {languages.resolve(tag) for tag in (code, language.name, language.iso639_3)} == {code}


@pytest.mark.parametrize(
    "tag",
    # other languages; under the tag of a macrolanguage; a name with more behind it; what is no tag at all
    "|xx|Klingon|lat|ku|pnb|sh"
    "|zh-nan|zh-min-nan|zh-min|zh-hakka|zh-wuu|ar-ary|fa-yue|en-cmn|et-vro"
    "|chinese_cantonese|no way|pt_brasil_or_so_they_say|ro-".split("|"),
)
def test_resolve_refuses_other_languages(tag):
    with pytest.raises(ConfigError, match="is not known"):
        languages.resolve(tag)


def test_aliases_hide_no_tag_of_the_table():
    own = {}
    for code, language in languages.LANGUAGES.items():
        own.update(dict.fromkeys((code, code.split("_")[0], language.iso639_3, language.name.casefold()), code))
    assert {tag: languages.resolve(tag) for tag in own} == own


@pytest.mark.parametrize(("tag", "code"), [("fr-fr-fr", "fr_fr"), ("Romanain", "ro_ro"), ("cantonés", "yue_hant_hk")])
def test_an_unknown_language_names_the_nearest(tag, code):
    with pytest.raises(ConfigError, match=f"Did you mean '{code}'"):
        languages.resolve(tag)


def test_roles_take_any_tag_and_each_language_once():
    roles = languages.resolve_roles(["fr", "fra", "ro_ro"], ["zh-yue", "de"])
    assert roles == (("fr_fr", "ro_ro"), ("yue_hant_hk", "de_de"))
    assert languages.resolve_roles([], None) == ((), None)
    with pytest.raises(ConfigError, match=r"fr_fr: both seen and zero-shot"):
        languages.resolve_roles(["fr"], ["French"])
