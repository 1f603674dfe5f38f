import io
import json
import tarfile

import pytest

from speechde.corpora import texts
from speechde.corpora.texts import Sentence
from speechde.errors import AssetError, DataError
from speechde.text import normalise_text

ENGLISH = [
    ["Whereas this is the first paragraph of it,", "Now, therefore,"],
    ["Everyone has the right to life. No one shall be held in slavery or servitude."],
    [
        "Everyone has duties to the community.",
        "This is a much longer sentence, which has a clause, and another clause.",
    ],
]


def page(sections, code="eng"):
    """As the package has it: a header, numbered articles, paragraphs also in lists, and headings to pass over."""

    def paragraphs(items):
        return "".join(f"<p>{text}</p>\n" for text in items)

    header, *articles = sections
    body = f"<header>\n<h2>Preamble</h2>\n{paragraphs(header)}</header>\n"
    for number, items in enumerate(articles, 1):
        listed = f"<ol><li>{paragraphs(items)}</li></ol>" if len(items) > 1 else paragraphs(items)
        body += f'<article data-number="{number}">\n<h2>Article {number}</h2>\n{listed}</article>\n'
    return (
        f'<!doctype html>\n<html data-code="{code}" dir="ltr">\n<head><title>X</title></head>\n<body>\n<h1>T</h1>\n'
        f"{body}<footer><p>not a part</p></footer></body></html>"
    )


def write_udhr(path, pages):
    with tarfile.open(path, "w:gz") as tar:
        for code, text in pages.items():
            data = text.encode()
            info = tarfile.TarInfo(f"package/declaration/{code}.html")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_messages(root, messages):
    folder = root / "usr/share/mediawiki/languages/i18n"
    folder.mkdir(parents=True, exist_ok=True)
    for locale, entries in messages.items():
        content = {"@metadata": {"authors": ["A. B."]}, **entries}
        (folder / f"{locale}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return root


def read(tmp_path, lang, sections, code, max_words=9):
    archive = write_udhr(tmp_path / "u.tgz", {"eng": page(ENGLISH), code: page(sections, code)})
    return texts.read_udhr(archive, [lang], max_words)[lang]


def test_paragraphs_and_sentences_carry_the_english(tmp_path):
    french = [
        ["Considérant que ceci est le premier paragraphe,", "En conséquence,"],
        ["Tout individu a droit à la vie. Nul ne sera tenu en esclavage."],
        ["L’individu a des devoirs envers la communauté.", "Ceci est une phrase plus longue, qui a, et autre."],
    ]
    found = {s.key: s for s in read(tmp_path, "fr_fr", french, "fra")}
    assert found["udhr:0.0"] == Sentence("udhr:0.0", french[0][0], ENGLISH[0][0])
    assert found["udhr:1.0.0"] == Sentence(
        "udhr:1.0.0", "Tout individu a droit à la vie.", "Everyone has the right to life."
    )
    assert found["udhr:1.0.1"].translation == "No one shall be held in slavery or servitude."
    assert found["udhr:2.0"].text == french[2][0]
    assert "udhr:0.1" not in found  # two words


def test_long_sentences_are_cut_at_commas_without_a_translation(tmp_path):
    pieces = read(tmp_path, "en_us", ENGLISH, "eng")
    clauses = [s for s in pieces if not s.translation]
    assert [(s.key, s.text) for s in clauses] == [
        ("udhr:2.1.0.0:en_us", "This is a much longer sentence,"),
        ("udhr:2.1.0.1:en_us", "which has a clause, and another clause."),
    ]
    assert pieces[-2:] == clauses  # aligned pieces come first


@pytest.mark.parametrize(
    "articles",
    [
        [["Tout individu a droit à la vie."], ["L’individu a des devoirs envers tous.", "Oui, tous.", "Encore un."]],
        [["Tout individu a droit à la vie."], ["Non.", "L’individu a des devoirs envers la communauté entière ici."]],
    ],
)
def test_what_is_not_aligned_has_neither_translation_nor_a_shared_key(tmp_path, articles):
    """Another number of paragraphs, or as many of quite other lengths."""
    pieces = read(tmp_path, "fr_fr", [["Considérant que ceci est le premier,", "En effet,"], *articles], "fra", 30)
    second = [s for s in pieces if s.key.startswith("udhr:2.")]
    assert second and all(s.key.endswith(":fr_fr") and not s.translation for s in second)


def test_scripts_without_spaces_are_measured_by_their_share(tmp_path):
    chinese = [["鉴于这是它的第一段落文字,", "因此,"], ["人人有权享有生命。任何人不得使为奴隶或奴役。"]]
    chinese += [["人人对社会负有义务。", "这是一个长得多的句子,它有一个从句,还有另外一个从句。"]]
    found = read(tmp_path, "cmn_hans_cn", chinese, "cmn_hans")
    clauses = [s.text for s in found if not s.translation]
    assert "udhr:1.0.1" in {s.key for s in found} and 1 <= len(clauses) <= 3
    assert all(" " not in text for text in clauses)
    assert "".join(clauses) in chinese[2][1]


def test_thai_is_cut_at_spaces(tmp_path):
    thai = [
        ["เพราะว่านี่คือย่อหน้าแรก", "ดังนั้น"],
        ["ทุกคนมีสิทธิ"],
        ["ทุกคนมีหน้าที่", "นี่คือประโยคที่ยาวกว่า ซึ่งมีอนุประโยค และอีกหนึ่งอนุประโยค ซึ่งยาวมาก"],
    ]
    clauses = [s.text for s in read(tmp_path, "th_th", thai, "tha", 7) if ":th_th" in s.key]
    assert len(clauses) > 1 and all(text in thai[2][1] for text in clauses if "อนุประโยค" in text)


def test_texts_are_cleaned_and_unique(tmp_path):
    amharic = [["እያንዳንዱ፡ሰው፡መብት፡አለው፡ዛሬ።", "ስለዚህ"], ["እያንዳንዱ\u200eሰው ነው። ሰው ሁሉ ነው።"], ["እያንዳንዱ፡ሰው፡መብት፡አለው፡ዛሬ፤", "ሌላ"]]
    found = [s.text for s in read(tmp_path, "am_et", amharic, "amh", 20)]
    assert "እያንዳንዱ ሰው መብት አለው ዛሬ።" in found and not any("\u200e" in text for text in found)
    assert len(found) == len({normalise_text(text) for text in found})


def test_languages_without_a_declaration_are_left_out(tmp_path):
    archive = write_udhr(tmp_path / "u.tgz", {"eng": page(ENGLISH)})
    assert list(texts.read_udhr(archive, ["as_in", "en_us"], 8)) == ["en_us"]
    with pytest.raises(DataError, match=r"no declaration/eng\.html"):
        texts.read_udhr(write_udhr(tmp_path / "v.tgz", {"fra": page(ENGLISH)}), ["fr_fr"], 8)


def test_messages(tmp_path):
    english = {
        "a": "View the  media page", "b": "Delete [[this]] page now", "c": "Delete $1 from the list", "d": "Yes",
        "e": "This page is not movable.", "f": "view the media page!", "g": "Use &amp; in this page",
        "h": "Not in the French file",
        "i": "A message that stays English", "j": "One two three four five six seven eight nine",
        "k": "Show it to me again",
    }  # fmt: skip
    french = {
        "a": "Voir la page du\u200e média", "b": "x", "c": "y", "d": "Oui", "e": "Page {{GENDER:x}} bloquée",
        "f": "Une autre page", "g": "z", "i": "A message that stays English.", "j": "un deux",
        "k": "voir la page du média",
    }  # fmt: skip
    found = texts.read_messages(
        write_messages(tmp_path, {"en": english, "fr": french}), ["fr_fr", "en_us", "umb_ao"], 8
    )
    assert found["fr_fr"] == [Sentence("mediawiki:a", "Voir la page du média", "View the media page")]
    assert [s.key for s in found["en_us"]] == [f"mediawiki:{key}" for key in "aehik"]
    assert found["umb_ao"] == []


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": "\\ud800'])
def test_damaged_messages(tmp_path, content):
    with pytest.raises(DataError, match=r"en\.json is missing; unpack the Debian package mediawiki"):
        texts.read_messages(tmp_path, ["fr_fr"], 8)
    write_messages(tmp_path, {"en": {}})
    path = tmp_path / "usr/share/mediawiki/languages/i18n/fr.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"fr\.json (cannot be read|holds no JSON object)"):
        texts.read_messages(tmp_path, ["fr_fr"], 8)


def test_find_messages_unpacks_languages_with_a_voice_in_any_version(tmp_path, make_deb):
    folder = "./usr/share/mediawiki/languages/i18n"
    members = {f"{folder}/{name}.json": b"{}" for name in ("en", "fr", "zh-hans", "tl", "ab", "lo")}
    members |= {"./usr/share/mediawiki/index.php": b"x", "./usr/share/doc/mediawiki/copyright": b"GPL-2.0+"}
    root = texts.find_messages(make_deb(tmp_path / "m.deb", members), tmp_path / "cache")
    assert {path.name for path in root.rglob("*") if path.is_file()} == {
        "copyright", "en.json", "fr.json", "zh-hans.json", "tl.json"
    }  # fmt: skip
    assert texts.find_messages(make_deb(tmp_path / "n.deb", {**members, "./x": b"y"}), tmp_path / "cache") != root


def test_find_udhr_is_pinned(tmp_path):
    archive = write_udhr(tmp_path / "u.tgz", {"eng": page(ENGLISH)})
    with pytest.raises(AssetError, match=r"expected 132b50c2.*set data\.breadth\.udhr=PATH"):
        texts.find_udhr(archive, tmp_path)
