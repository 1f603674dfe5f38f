"""Bitext layouts, filters and sampling, on files made here."""

from __future__ import annotations

import gzip
import random

import pytest

from speechde.corpora.bitext import TextPair, find_bitext, read_bitext
from speechde.errors import ConfigError, DataError


def write(path, lines):
    data = b"".join(
        (
            line
            if isinstance(line, bytes)
            else "\t".join(map(str, line)).encode()
            if isinstance(line, tuple)
            else line.encode()
        )
        + b"\n"
        for line in lines
    )
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def numbered(n):
    return [(1.3 - i / 10000, f"das ist der Satz {i}", f"this is sentence number {i}") for i in range(n)]


QUIRKS = [
    (1.21, "Der Fuchs springt hoch.", "The fox jumps high."),
    (1.10, '"Ein" einzelnes " Zeichen\u2028im Satz', 'A lone " character here'),  # quotes and U+2028 are text
    (1.04, "genau an der Schwelle", "exactly at the threshold"),
    (1.0399, "knapp unter der Schwelle", "just below the threshold"),
    (1.2, "zu kurz", "much too short"),
    (1.2, "", "an empty foreign side"),
    (1.2, "viele Wörter hier " * 40, "many words in here " * 40),
    (1.2, "Bundesgesundheitsministerium Rindfleischetikettierung Donaudampfschifffahrt", "a b c d"),
    (1.2, "Taylor Swift: The Eras Tour", "TAYLOR SWIFT: the Eras Tour"),
    (1.3, "Der  Fuchs springt hoch.", "The fox jumps high. "),  # a duplicate of the first, scored higher
    (1.2, "Dieser Satz ist Testsatz.", "Some sentence that matters not"),
    (1.2, "Irgendein Satz ohne Bedeutung", "this sentence IS tested"),
    (1.2, "drei Spalten fehlen"),
    (1.2, "ein Satz mit", "one sentence with", "four columns"),
    "",
    ("hoch", "kein Zahlwert am Anfang", "no number in front"),
    ("nan", "kein Zahlwert am Anfang", "no number in front"),
    b"1.2\tkaputte Bytes \xff hier\tbroken bytes in here",
]
EXPECTED_DROPS = {
    "below score": 1,
    "too short": 2,
    "too long": 1,
    "length ratio": 1,
    "identical sides": 1,
    "duplicate": 1,
    "held out": 2,
    "wrong column count": 3,
    "bad score": 2,
    "not UTF-8": 1,
}
HELD_OUT = ("dieser Satz ist Testsatz", "This sentence is tested!")


@pytest.mark.parametrize("name", ["WikiMatrix.de-en.tsv", "WikiMatrix.de-en.tsv.gz"])
def test_wikimatrix_with_every_quirk(tmp_path, name):
    bitext = read_bitext(write(tmp_path / name, QUIRKS), "de", exclude=HELD_OUT)
    assert bitext.dropped == EXPECTED_DROPS
    assert len(bitext.pairs) + sum(bitext.dropped.values()) == len(QUIRKS)
    assert sorted(bitext.pairs, key=lambda pair: pair.source) == [
        TextPair("de_de", "Der Fuchs springt hoch.", "The fox jumps high.", 1.3, f"{name}:10"),
        TextPair("de_de", '"Ein" einzelnes " Zeichen im Satz', 'A lone " character here', 1.1, f"{name}:2"),
        TextPair("de_de", "genau an der Schwelle", "exactly at the threshold", 1.04, f"{name}:3"),
    ]


def test_english_on_either_side(tmp_path):
    rows = [(1.2, "this is the English one", "ceci est une phrase en français")]
    (pair,) = read_bitext(write(tmp_path / "WikiMatrix.en-fr.tsv", rows), "fr_fr").pairs
    assert (pair.text, pair.english) == ("ceci est une phrase en français", "this is the English one")
    (pair,) = read_bitext(write(tmp_path / "mine.en-fr.tsv", [rows[0][1:]]), "fra").pairs
    assert (pair.text, pair.score) == ("ceci est une phrase en français", None)
    for name in ("mine.fr-en.tsv", "mine.tsv", "long-named.tsv", "fr.tsv"):
        (pair,) = read_bitext(write(tmp_path / name, [rows[0][:0:-1]]), "fr").pairs
        assert pair == TextPair(
            "fr_fr", "ceci est une phrase en français", "this is the English one", None, f"{name}:1"
        )


@pytest.mark.parametrize("name", ["WikiMatrix.de-fr.tsv", "WikiMatrix.en-xx.tsv", "x.es-en.tsv", "x.de-nl.tsv"])
def test_a_file_of_other_languages_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="wanted de_de with English; give the file of German"):
        read_bitext(write(tmp_path / name, numbered(3)), "de")


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_moses(tmp_path, gz):
    foreign = write(
        tmp_path / f"news.de-en.de{gz}", ["\ufeffdas ist ein Satz", "", b"\xff kein UTF acht", "das ist keiner"]
    )
    write(tmp_path / "news.de-en.en", ["this is a sentence\r", "", "not UTF eight", "a\tb c d"])
    bitext = read_bitext(foreign, "de")
    assert {(p.text, p.english, p.source) for p in bitext.pairs} == {
        ("das ist ein Satz", "this is a sentence", f"{foreign.name}:1"),
        ("das ist keiner", "a b c d", f"{foreign.name}:4"),
    }
    assert bitext.dropped == {"too short": 1, "not UTF-8": 1}


@pytest.mark.parametrize(("foreign", "english"), [(3, 2), (2, 3)])
def test_moses_sides_of_unequal_length(tmp_path, foreign, english):
    path = write(tmp_path / "a.de", ["das ist ein Satz"] * foreign)
    write(tmp_path / "a.en", ["this is a sentence"] * english)
    with pytest.raises(DataError, match=r"line 3 exists only in a\." + ("de" if foreign == 3 else "en")):
        read_bitext(path, "de")


def test_moses_names(tmp_path):
    path = write(tmp_path / "a.de", ["das ist ein Satz"])
    with pytest.raises(DataError, match=r"a\.en or a\.en\.gz is not beside it"):
        read_bitext(path, "de")
    for name in ("a.txt", "a.en", "a.fr", "de"):
        with pytest.raises(DataError, match=r"neither \.tsv nor the de_de side"):
            read_bitext(write(tmp_path / name, ["x"]), "de")


def test_a_sample_does_not_depend_on_the_order_of_lines(tmp_path):
    rows = numbered(300)
    rows += rows[::3]  # repeats
    samples = []
    for order in range(4):
        shuffled = random.Random(order).sample(rows, len(rows)) if order else rows
        bitext = read_bitext(write(tmp_path / "WikiMatrix.de-en.tsv", shuffled), "de", limit=40, seed=7)
        samples.append([(pair.text, pair.english, pair.score) for pair in bitext.pairs])
        assert 40 + sum(bitext.dropped.values()) == len(rows)
    assert len(set(samples[0])) == 40 and samples.count(samples[0]) == 4
    other = read_bitext(tmp_path / "WikiMatrix.de-en.tsv", "de", limit=40, seed=8).pairs
    assert {(p.text, p.english, p.score) for p in other} != set(samples[0])


def test_a_sample_is_uniform_over_the_file(tmp_path):
    path = write(tmp_path / "WikiMatrix.de-en.tsv", numbered(400))
    lines = [
        int(p.source.split(":")[1]) for seed in range(10) for p in read_bitext(path, "de", limit=50, seed=seed).pairs
    ]
    # 500 draws of a mean of 200 with deviation 115: five standard errors are 26.
    assert abs(sum(lines) / len(lines) - 200) < 26


def test_limits_nest_and_a_large_one_changes_nothing(tmp_path):
    path = write(tmp_path / "WikiMatrix.de-en.tsv", numbered(60))
    everything = read_bitext(path, "de")
    assert everything.dropped == {} and len(everything.pairs) == 60
    assert read_bitext(path, "de", limit=60) == everything
    few = read_bitext(path, "de", limit=20)
    assert few.pairs == everything.pairs[:20] and few.dropped == {"over the limit": 40}


def test_length_of_languages_without_spaces(tmp_path):
    rows = [
        ("他们昨天在城里的图书馆见面了", "they met yesterday at the library in town"),
        ("你好", "hello to all of you"),  # two characters: about one word
        ("他" * 201, "he " * 60),
        ("他们昨天在城里的图书馆见面了", "he and " * 20),
    ]
    bitext = read_bitext(write(tmp_path / "a.zh-en.tsv", rows), "zh-CN")
    assert [pair.text for pair in bitext.pairs] == [rows[0][0]]
    assert bitext.dropped == {"too short": 1, "too long": 1, "length ratio": 1}
    thai = [("พวกเขาพบกันที่ห้องสมุดในเมืองเมื่อวานนี้", "they met yesterday at the library in town")]
    assert len(read_bitext(write(tmp_path / "a.tsv", thai), "th").pairs) == 1


def test_settings_of_the_filters(tmp_path):
    path = write(tmp_path / "WikiMatrix.de-en.tsv", [(1.06, "ein zwei drei", "one two three four five six")])
    assert len(read_bitext(path, "de").pairs) == 1
    for options, reason in (
        ({"min_score": 1.07}, "below score"),
        ({"min_words": 4}, "too short"),
        ({"max_words": 5}, "too long"),
        ({"max_ratio": 1.5}, "length ratio"),
    ):
        with pytest.raises(DataError, match=rf"no usable pair: {reason} \(1\)"):
            read_bitext(path, "de", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lang": "en"}, "en_us: English is the other side"),
        ({"lang": "klingon"}, "klingon"),
        ({"min_words": 0}, "min_words=0"),
        ({"max_words": 2}, "max_words=2"),
        ({"max_ratio": 0.5}, "max_ratio=0.5"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_impossible_settings(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        read_bitext(tmp_path / "a.tsv", **{"lang": "de"} | options)


def test_damaged_files(tmp_path):
    whole = write(tmp_path / "WikiMatrix.de-en.tsv.gz", numbered(2000)).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damaged in (whole[:-20], bytes(flipped), whole[:10] + b"\xff" + whole[11:], b"no gzip at all", whole[:6]):
        (tmp_path / "WikiMatrix.de-en.tsv.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"cannot be read .*get the file again"):
            read_bitext(tmp_path / "WikiMatrix.de-en.tsv.gz", "de")
    with pytest.raises(DataError, match="does not exist"):
        read_bitext(tmp_path / "WikiMatrix.fr-en.tsv", "fr")
    with pytest.raises(DataError, match="no usable pair: it has no lines"):
        read_bitext(write(tmp_path / "empty.tsv", []), "fr")


def test_find_bitext(tmp_path):
    names = ["WikiMatrix.de-en.tsv.gz", "WikiMatrix.de-fr.tsv.gz", "WikiMatrix.en-fr.tsv", "europarl.de", "europarl.en",
             "alone.de", "news.de.gz", "news.en.gz", "own.en-de.tsv", "de.txt", "README", ".de"]  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "folder.de-en.tsv").mkdir()

    def found(lang):
        return [path.name for path in find_bitext(tmp_path, lang)]

    assert found("de_de") == ["WikiMatrix.de-en.tsv.gz", "europarl.de", "news.de.gz", "own.en-de.tsv"]
    assert found("fr_fr") == ["WikiMatrix.en-fr.tsv"] and found("ru_ru") == []
    with pytest.raises(DataError, match=r"bitext folder .*nowhere does not exist"):
        find_bitext(tmp_path / "nowhere", "de_de")


def test_a_table_of_pandas(tmp_path):
    """Two columns, quoted; of WikiMatrix, which has no quoting, a text keeps its quotation marks."""
    (tmp_path / "x.tsv").write_text('"un ""urs"" mare"\ta "big" bear\n', "utf-8")
    (pair,) = read_bitext(tmp_path / "x.tsv", "ro").pairs
    assert (pair.text, pair.english) == ('un "urs" mare', 'a "big" bear')
    (tmp_path / "x.tsv").write_text(
        '"un ""urs"" mare"\t"a\nbig ""bear"""\nun urs foarte mic\ta very small bear\n', "utf-16"
    )
    pairs = {pair.source: (pair.text, pair.english) for pair in read_bitext(tmp_path / "x.tsv", "ro").pairs}
    assert pairs == {"x.tsv:1": ('un "urs" mare', 'a big "bear"'),
                     "x.tsv:3": ("un urs foarte mic", "a very small bear")}  # fmt: skip
    (tmp_path / "WikiMatrix.en-ro.tsv").write_text('1.2\t"a ""big"" bear"\tun urs mare\n', "utf-8")
    assert read_bitext(tmp_path / "WikiMatrix.en-ro.tsv", "ro").pairs[0].english == '"a ""big"" bear"'
