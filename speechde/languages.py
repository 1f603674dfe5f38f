"""The one language table: the 102 languages of FLEURS (Conneau et al. 2022, arXiv 2205.12446).

Every other module names a language by its FLEURS code (``ca_es``); tags of other corpora enter through ``resolve``.
Regions are the seven geographical groups of the FLEURS paper. ``covost`` marks the 21 source languages of CoVoST-2
X->English (Wang et al. 2020, arXiv 2007.10310), the *seen* languages of the paper's setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from speechde.errors import ConfigError, unknown_value

REGIONS = {
    "WE": "Western Europe",
    "EE": "Eastern Europe",
    "CMN": "Central Asia, Middle East and North Africa",
    "SSA": "Sub-Saharan Africa",
    "SA": "South Asia",
    "SEA": "South-East Asia",
    "CJK": "Chinese, Japanese and Korean",
}


@dataclass(frozen=True, slots=True)
class Language:
    """``code`` is the FLEURS code, ``name`` the English name used in prompts, ``script`` an ISO 15924 code."""

    code: str
    name: str
    iso639_3: str
    script: str
    region: str
    covost: bool


# code, ISO 639-3, script, English name; "*" before the code: CoVoST-2 X->English source language.
_TABLE = {
    "WE": """
        ast_es ast Latn Asturian
        bs_ba bos Latn Bosnian
        *ca_es cat Latn Catalan
        hr_hr hrv Latn Croatian
        da_dk dan Latn Danish
        *nl_nl nld Latn Dutch
        en_us eng Latn English
        fi_fi fin Latn Finnish
        *fr_fr fra Latn French
        gl_es glg Latn Galician
        *de_de deu Latn German
        el_gr ell Grek Greek
        hu_hu hun Latn Hungarian
        is_is isl Latn Icelandic
        ga_ie gle Latn Irish
        *it_it ita Latn Italian
        kea_cv kea Latn Kabuverdianu
        lb_lu ltz Latn Luxembourgish
        mt_mt mlt Latn Maltese
        nb_no nob Latn Norwegian
        oc_fr oci Latn Occitan
        *pt_br por Latn Portuguese
        *es_419 spa Latn Spanish
        *sv_se swe Latn Swedish
        *cy_gb cym Latn Welsh
    """,
    "EE": """
        hy_am hye Armn Armenian
        be_by bel Cyrl Belarusian
        bg_bg bul Cyrl Bulgarian
        cs_cz ces Latn Czech
        *et_ee est Latn Estonian
        ka_ge kat Geor Georgian
        *lv_lv lav Latn Latvian
        lt_lt lit Latn Lithuanian
        mk_mk mkd Cyrl Macedonian
        pl_pl pol Latn Polish
        ro_ro ron Latn Romanian
        *ru_ru rus Cyrl Russian
        sr_rs srp Cyrl Serbian
        sk_sk slk Latn Slovak
        *sl_si slv Latn Slovenian
        uk_ua ukr Cyrl Ukrainian
    """,
    "CMN": """
        *ar_eg ara Arab Arabic
        az_az aze Latn Azerbaijani
        he_il heb Hebr Hebrew
        kk_kz kaz Cyrl Kazakh
        ky_kg kir Cyrl Kyrgyz
        *mn_mn mon Cyrl Mongolian
        ps_af pus Arab Pashto
        *fa_ir fas Arab Persian
        ckb_iq ckb Arab Sorani Kurdish
        tg_tj tgk Cyrl Tajik
        *tr_tr tur Latn Turkish
        uz_uz uzb Latn Uzbek
    """,
    "SSA": """
        af_za afr Latn Afrikaans
        am_et amh Ethi Amharic
        ff_sn ful Latn Fula
        lg_ug lug Latn Ganda
        ha_ng hau Latn Hausa
        ig_ng ibo Latn Igbo
        kam_ke kam Latn Kamba
        ln_cd lin Latn Lingala
        luo_ke luo Latn Luo
        nso_za nso Latn Northern Sotho
        ny_mw nya Latn Nyanja
        om_et orm Latn Oromo
        sn_zw sna Latn Shona
        so_so som Latn Somali
        sw_ke swa Latn Swahili
        umb_ao umb Latn Umbundu
        wo_sn wol Latn Wolof
        xh_za xho Latn Xhosa
        yo_ng yor Latn Yoruba
        zu_za zul Latn Zulu
    """,
    "SA": """
        as_in asm Beng Assamese
        bn_in ben Beng Bengali
        gu_in guj Gujr Gujarati
        hi_in hin Deva Hindi
        kn_in kan Knda Kannada
        ml_in mal Mlym Malayalam
        mr_in mar Deva Marathi
        ne_np nep Deva Nepali
        or_in ori Orya Oriya
        pa_in pan Guru Punjabi
        sd_in snd Arab Sindhi
        *ta_in tam Taml Tamil
        te_in tel Telu Telugu
        ur_pk urd Arab Urdu
    """,
    "SEA": """
        my_mm mya Mymr Burmese
        ceb_ph ceb Latn Cebuano
        fil_ph fil Latn Filipino
        *id_id ind Latn Indonesian
        jv_id jav Latn Javanese
        km_kh khm Khmr Khmer
        lo_la lao Laoo Lao
        ms_my msa Latn Malay
        mi_nz mri Latn Maori
        th_th tha Thai Thai
        vi_vn vie Latn Vietnamese
    """,
    "CJK": """
        yue_hant_hk yue Hant Cantonese
        *ja_jp jpn Jpan Japanese
        ko_kr kor Kore Korean
        *cmn_hans_cn cmn Hans Mandarin
    """,
}


def _parse() -> dict[str, Language]:
    languages = {}
    for region, rows in _TABLE.items():
        for row in rows.strip().splitlines():
            code, iso, script, name = row.split(maxsplit=3)
            covost = code.startswith("*")
            code = code.lstrip("*")
            languages[code] = Language(code, name, iso, script, region, covost)
    return dict(sorted(languages.items()))


LANGUAGES: dict[str, Language] = _parse()

# Tags that neither a FLEURS code, its first part, an ISO 639-3 code nor an English name of the table covers:
# retired and macrolanguage codes, ISO 639-2/B, single varieties of a macrolanguage, second names.
_ALIASES = {
    "cmn_hans_cn": "zh zho chi chinese zh_guoyu",
    "yue_hant_hk": "zh_hk zh_hant_hk zh_mo zh_hant_mo",
    "nb_no": "no nor nn nno no_bok no_nyn bokmål nynorsk",
    "fil_ph": "tl tgl tagalog",
    "ar_eg": "arb arz",
    "az_az": "azj",
    "bn_in": "bangla",
    "cs_cz": "cze",
    "cy_gb": "wel",
    "de_de": "ger",
    "el_gr": "gre",
    "es_419": "castilian",
    "et_ee": "ekk",
    "fa_ir": "per pes farsi",
    "ff_sn": "fuc fuv fulah",
    "fr_fr": "fre",
    "he_il": "iw",
    "hy_am": "arm",
    "id_id": "in",
    "is_is": "ice",
    "jv_id": "jw",
    "ka_ge": "geo",
    "km_kh": "cambodian",
    "ky_kg": "kirghiz",
    "lg_ug": "luganda",
    "lv_lv": "lvs",
    "mi_nz": "mao māori",
    "mk_mk": "mac",
    "mn_mn": "khk",
    "ms_my": "may zsm",
    "my_mm": "bur",
    "ne_np": "npi",
    "nl_nl": "dut",
    "nso_za": "sepedi",
    "ny_mw": "chichewa",
    "om_et": "gaz",
    "or_in": "ory odia",
    "pa_in": "panjabi",
    "ps_af": "pbt",
    "ro_ro": "rum mo",
    "sk_sk": "slo",
    "sw_ke": "swh",
    "uz_uz": "uzn",
}


def _index() -> dict[str, str]:
    index = {}
    for code, language in LANGUAGES.items():
        names = (code, code.split("_")[0], language.iso639_3, language.name.casefold())
        index.update(dict.fromkeys(names, code))
    for code, names in _ALIASES.items():
        index.update(dict.fromkeys(names.split(), code))
    return index


_INDEX = _index()


def get(code: str) -> Language:
    """The language of a FLEURS code; any other string is a ``ConfigError``."""
    if code not in LANGUAGES:
        raise unknown_value("language", code, LANGUAGES, "Other tags (ro, pt_BR, Romanian) go through resolve().")
    return LANGUAGES[code]


@lru_cache(4096)
def resolve(tag: str) -> str:
    """The FLEURS code of a language tag: FLEURS code, ISO 639-1/-2/-3 code, BCP 47 tag, locale or English name.

    FLEURS has one variety of each language, so script and region are ignored: ``pt_BR``, ``pt-PT`` and ``Portuguese``
    all give ``pt_br``, ``sr-Latn`` gives ``sr_rs``. An extended language subtag (RFC 5646, 2.2.2) is not: it names a
    language of its own, so ``zh-yue`` is Cantonese and ``zh-min-nan`` is refused, as is every other language that
    FLEURS does not have.

    Raises:
        ConfigError: no such language; the message names the nearest.

    >>> resolve("es"), resolve("ron"), resolve("zh-CN"), resolve("Romanian"), resolve("zh-yue")
    ('es_419', 'ro_ro', 'cmn_hans_cn', 'ro_ro', 'yue_hant_hk')
    """
    key = tag.strip().casefold()
    locale, *_ = re.split("[.@]", key.replace("-", "_"))  # ca_ES.UTF-8@valencia, as POSIX writes it
    code = _INDEX.get(key) or _INDEX.get(locale) or _of_subtags(locale)
    if code is None:
        fix = "Give a FLEURS code, an ISO 639 code or an English name."
        raise unknown_value("language", tag, LANGUAGES, fix, spellings=_INDEX)
    return code


def resolve_roles(
    seen: Iterable[str], zero_shot: Iterable[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The FLEURS codes of seen and zero-shot languages given by any tag, each once; ``zero_shot=None`` stays None.

    Raises:
        ConfigError: an unknown language, or one that is both.
    """
    seen = tuple(dict.fromkeys(map(resolve, seen)))
    zero_shot = None if zero_shot is None else tuple(dict.fromkeys(map(resolve, zero_shot)))
    if both := sorted(set(seen) & set(zero_shot or ())):
        raise ConfigError(f"{', '.join(both)}: both seen and zero-shot (data.seen, data.zero_shot); list each once")
    return seen, zero_shot


# language, extended languages, script, region, variants, extensions; in lower case, with "_" for "-"
_TAG = re.compile(
    "(?P<language>[a-z]{2,3})(?P<extended>(?:_[a-z]{3}){0,3})(?:_[a-z]{4})?(?:_(?:[a-z]{2}|[0-9]{3}))?"
    "(?P<variants>(?:_(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*)(?:_[a-z0-9](?:_[a-z0-9]{2,8})+)*"
)
_OTHER_LANGUAGES = {"hakka", "xiang"}  # in the form of a variant, by tags older than RFC 5646


def _of_subtags(locale: str) -> str | None:
    """The language of a BCP 47 tag: an extended one must be the same language, or Cantonese under Chinese."""
    match = _TAG.fullmatch(locale)
    if not match or _OTHER_LANGUAGES & set(match["variants"].split("_")):
        return None
    code, extended = _INDEX.get(match["language"]), match["extended"].strip("_")
    if code is None or not extended:
        return code
    named = _INDEX.get(extended)
    return named if named == code or (named, code) == ("yue_hant_hk", "cmn_hans_cn") else None
