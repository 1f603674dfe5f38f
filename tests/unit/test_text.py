"""Lines and rows of other people's text files: encodings, line ends, quotation."""

from __future__ import annotations

import csv
import gzip
import io
import unicodedata

import pytest

from speechde.text import BadLine, normalise_text, quoted, read_lines, read_rows, unquoted

LINES = ["un autobuz", "", "a\u2028b\u0085c\x0bd", " ends in a space ", "日本語 ĊĀ 𝄞"]  # Ċ, Ā: bytes 0A and 00


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_lines(tmp_path, encoding, end, last):
    path = tmp_path / "x.txt"
    path.write_bytes((end.join(LINES) + end * last).encode(encoding))
    expected = list(enumerate(LINES, 1))
    assert list(read_lines(path)) == expected
    with gzip.open(tmp_path / "x.txt.gz", "wb") as file:
        file.write(path.read_bytes())
    assert list(read_lines(tmp_path / "x.txt.gz")) == expected
    assert list(read_lines(io.BytesIO(path.read_bytes()))) == expected


@pytest.mark.parametrize("mark", ["utf-16-be", "utf-32-be"])
def test_big_endian(mark):
    assert list(read_lines(io.BytesIO("\ufeffĀ\nb".encode(mark)))) == [(1, "Ā"), (2, "b")]


def test_nothing():
    assert list(read_lines(io.BytesIO(b""))) == [] == list(read_lines(io.BytesIO("".encode("utf-16"))))


def test_lines_that_are_no_text_are_passed_over():
    (_, first), (_, second), (_, third), fourth = read_lines(io.BytesIO(b"caf\xe9\na\0b\n\xff\xfe\nd"))
    assert (first.reason, second.reason, third.reason) == ("not UTF-8", "NUL character", "not UTF-8")
    assert fourth == (4, "d")


def test_utf_16_without_a_mark_is_no_text():
    found = [line for _, line in read_lines(io.BytesIO("one\ntwo\n".encode("utf-16-le")))]
    assert all(isinstance(line, BadLine) and "UTF-16 without a byte order mark" in line.detail for line in found)


def test_a_damaged_character_of_utf_16():
    data = "one\ntwo\n".encode("utf-16") + b"\x00\xd8" + "\nfour".encode("utf-16-le")
    found = dict(read_lines(io.BytesIO(data)))
    assert found[1] == "one" and found[3].reason == "not UTF-16" and found[4] == "four"


ROWS = [["id", "text"], ["1", 'He said "no".'], ["2", '"A ""word"" in it."'], ["3", "two\nlines\tand a tab"],
        ["4", '"'], ["5", "plain"], ["6", ""]]  # fmt: skip


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_rows_as_pandas_and_spreadsheets_write_them(tmp_path, quoting, encoding):
    with (tmp_path / "x.tsv").open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter="\t", quoting=quoting, lineterminator="\r\n").writerows(ROWS)
    found = list(read_rows(tmp_path / "x.tsv"))
    assert [row for _, row in found] == ROWS
    assert [number for number, _ in found] == [1, 2, 3, 4, 6, 7, 8]


def test_plain_rows_keep_their_quotation_marks(tmp_path):
    texts = ['He said "no".', '"One," he said.', '"', '"Whole."', '5"']
    rows = [["id", "text"], *(["1", text] for text in texts)]
    (tmp_path / "x.tsv").write_text("\n".join("\t".join(row) for row in rows), "utf-8")
    assert [row for _, row in read_rows(tmp_path / "x.tsv")] == rows
    (tmp_path / "x.tsv").write_text('1\t"Whole ""x"""\n', "utf-8")
    assert list(read_rows(tmp_path / "x.tsv", quoting=False)) == [(1, ["1", '"Whole ""x"""'])]


def test_one_row_of_another_kind(tmp_path):
    """Doubled quotation marks are undone beside a field that was never quoted; an open one swallows nothing."""
    (tmp_path / "x.tsv").write_text('1\t"A ""word""."\n2\t5" wide\n3\t"open\n4\tlast\n', "utf-8")
    assert [row[1] for _, row in read_rows(tmp_path / "x.tsv")] == ['A "word".', '5" wide', '"open', "last"]


def test_a_bad_line_in_a_quoted_row(tmp_path):
    (tmp_path / "x.tsv").write_bytes(b'1\t"a ""b""\n\xff\n c"\n2\t"d ""e"""\n\xff\n')
    (first, bad), second, (last, also) = read_rows(tmp_path / "x.tsv")
    assert (first, bad.reason) == (1, "not UTF-8") == (1, also.reason)
    assert second == (4, ["2", 'd "e"']) and last == 5


@pytest.mark.parametrize("text", ['"', '""', 'a "b" c', '"whole"', '"a ""b"" c"', "plain", ""])
def test_quoted_and_back(text):
    assert unquoted(quoted(text)) == text


@pytest.mark.parametrize("text", ['"', '"a', 'a"', '""a""', '"a" "b"'])
def test_what_is_not_quoted_stays(text):
    assert unquoted(text) == text


def test_normalised_as_by_asking_of_each_character():
    texts = ["", "Don't — stop!", "¿Qué?  «Straße»\t№ 5", "ﬁn…", "「日本」、𝄞", *map(chr, range(0x20, 0x3100, 7))]
    for text in [*texts, *texts]:  # the second time from the table
        folded = unicodedata.normalize("NFKC", text).casefold()
        slow = " ".join("".join(c for c in folded if not unicodedata.category(c).startswith("P")).split())
        assert normalise_text(text) == slow
