import gzip
from hashlib import sha256

import pytest

from speechde.corpora import ntrex, public
from speechde.errors import AssetError, ConfigError, DataError

TEXTS = {"ntrex/de_de.txt": "Ein Satz.\n\nNoch  einer.\n", "ntrex/sv_se.txt": "En mening.\nTvå.\nTill.\n"}


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A host of two files, and the table that lists them."""
    pins = {}
    for name, text in TEXTS.items():
        served = tmp_path / "host" / "us/repo" / "0abc" / name
        served.parent.mkdir(parents=True, exist_ok=True)
        served.write_bytes(text.encode())
        pins[name] = public.Pinned("us/repo", "0abc", name, "CC0-1.0", sha256(text.encode()).hexdigest())
    monkeypatch.setattr(public, "HOST", (tmp_path / "host").as_uri())
    monkeypatch.setattr(public, "pinned", lambda: pins)
    monkeypatch.setattr(ntrex, "pinned", lambda: pins)
    return pins


def test_the_table_is_whole():
    pins = public.pinned()
    assert len(ntrex.languages()) == 30 and {"de_de", "nl_nl"} < {*ntrex.languages()}
    for name, entry in pins.items():
        assert len(entry.sha256) == 64 and len(entry.commit) >= 12 and entry.licence, name
        assert entry.url.startswith("https://raw.githubusercontent.com/") and " " not in entry.url


def test_fetched_once_and_found_afterwards(table, tmp_path, monkeypatch):
    found = public.find_files(TEXTS, None, tmp_path / "cache")
    assert [path.read_text() for path in found.values()] == [*TEXTS.values()]
    monkeypatch.setattr(public, "HOST", "file:///nowhere")
    assert public.find_files(TEXTS, None, tmp_path / "cache") == found


def test_a_folder_holds_files_plain_or_gzipped(table, tmp_path):
    folder = tmp_path / "folder"
    (folder / "ntrex").mkdir(parents=True)
    (folder / "ntrex/de_de.txt").write_text(TEXTS["ntrex/de_de.txt"])
    (folder / "ntrex/sv_se.txt.gz").write_bytes(gzip.compress(TEXTS["ntrex/sv_se.txt"].encode()))
    read = ntrex.read_ntrex(folder, tmp_path / "cache", ["de_de", "sv_se"])
    assert read == {"de_de": ["Ein Satz.", "", "Noch einer."], "sv_se": ["En mening.", "Två.", "Till."]}
    assert not (tmp_path / "cache").exists()


def test_what_is_not_the_pinned_file_is_refused(table, tmp_path):
    folder = tmp_path / "folder"
    with pytest.raises(AssetError, match=r"data\.x=.*holds no ntrex/de_de\.txt; get file.*or unset data\.x"):
        public.find_files(["ntrex/de_de.txt"], folder, tmp_path, "data.x")
    (folder / "ntrex").mkdir(parents=True)
    (folder / "ntrex/de_de.txt").write_text("Ein anderer Satz.\n")
    with pytest.raises(AssetError, match=r"de_de\.txt has sha256 .* expected .* remove it"):
        public.find_files(["ntrex/de_de.txt"], folder, tmp_path)
    (folder / "ntrex/sv_se.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(AssetError, match=r"sv_se\.txt\.gz cannot be read"):
        public.find_files(["ntrex/sv_se.txt"], folder, tmp_path)
    with pytest.raises(ConfigError, match=r"public file: 'nothing'"):
        public.find_files(["nothing"], None, tmp_path)


def test_what_cannot_be_fetched_leaves_nothing(table, tmp_path, monkeypatch):
    (tmp_path / "host/us/repo/0abc/ntrex/de_de.txt").write_text("Ein anderer Satz.\n")
    with pytest.raises(AssetError, match=r"expected .* set data\.public=FOLDER"):
        public.find_files(["ntrex/de_de.txt"], None, tmp_path / "cache")
    monkeypatch.setattr(public, "HOST", "file:///nowhere")
    with pytest.raises(AssetError, match=r"could not be fetched .* set data\.public=FOLDER"):
        public.find_files(["ntrex/de_de.txt"], None, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_ntrex_names_its_languages_and_refuses_what_is_no_text(table, tmp_path):
    with pytest.raises(ConfigError, match=r"NTREX language: 'zu_za'.*de_de"):
        ntrex.read_ntrex(None, tmp_path, ["zu_za"])
    raw = b"\xff\xfe\xff"
    (tmp_path / "host/us/repo/0abc/ntrex/de_de.txt").write_bytes(raw)
    table["ntrex/de_de.txt"] = public.Pinned("us/repo", "0abc", "ntrex/de_de.txt", "CC0-1.0", sha256(raw).hexdigest())
    with pytest.raises(DataError, match=r"line 1: not UTF-16"):
        ntrex.read_ntrex(None, tmp_path / "cache", ["de_de"])
