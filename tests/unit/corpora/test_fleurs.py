"""A replica of the upstream layout: ``data/<code>/<split>.tsv`` and ``data/<code>/audio/<split>.tar.gz``."""

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from huggingface_hub.errors import LocalEntryNotFoundError

from speechde.corpora import fleurs
from speechde.errors import AssetError, ConfigError, DataError
from speechde.evaluation.speech import data_counts
from speechde.media import archives
from speechde.media.audio import check_waveform, load_audio
from speechde.media.containers import split_locator


def wav(seconds=0.2, seed=0):
    """32-bit float WAV at 16 kHz, as upstream; silence with a tone at its start."""
    samples = np.zeros(round(16_000 * seconds), np.float32)
    samples[:1600] = 0.5 * np.sin(np.arange(1600) / (5 + seed))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def row(sentence, file, raw, plain=None, samples=3200, gender="FEMALE"):
    plain = raw.lower().rstrip(".") if plain is None else plain
    split = " ".join(plain.replace(" ", "|")) + " |"
    return "\t".join([str(sentence), file, raw, plain, split, str(samples), gender])


def write_part(root, lang, split, rows, members=None, newline="\n", links=()):
    """``members``: name → bytes, by default a clip for every row, in the order opposite to the rows."""
    audio = root / "data" / lang / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    (audio.parent / f"{split}.tsv").write_bytes("".join(line + newline for line in rows).encode())
    if members is None:
        files = dict.fromkeys(line.split("\t")[1] for line in reversed(rows))
        members = {f"{split}/{file}": wav(seed=n) for n, file in enumerate(files)}
    with tarfile.open(audio / f"{split}.tar.gz", "w:gz", compresslevel=1) as tar:
        folder = tarfile.TarInfo(split)
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return audio / f"{split}.tar.gz"


SENTENCES = {1: "One bear.", 2: "Two bears.", 3: "Three bears."}


@pytest.fixture
def root(tmp_path):
    """French is seen; English, Oromo (one recording) and Lingala (one text under two ids) are not."""
    folder = tmp_path / "fleurs"
    for split, ids in (("train", (1,)), ("dev", (2,)), ("test", (3, 4, 5))):
        english = {**SENTENCES, 4: 'He said "no".', 5: "Five."}
        write_part(folder, "en_us", split, [row(i, f"{i}0.wav", english[i]) for i in ids])
        write_part(folder, "fr_fr", split, [row(i, f"{i}{k}.wav", f"Phrase {i}.") for i in ids for k in range(3)])
    write_part(folder, "om_et", "test", [row(3, "31.wav", "Jecha sadii.")])
    lingala = [row(4, "41.wav", "Liloba moko."), row(5, "51.wav", "Liloba moko."), row(5, "52.wav", "Liloba moko.")]
    write_part(folder, "ln_cd", "test", [*lingala, row(3, "33.wav", "Misato.")])
    return folder


ZERO_SHOT = ("en_us", "om_et", "ln_cd")


def read(root, seen=("fr_fr",), zero_shot=ZERO_SHOT, **options):
    return fleurs.read_fleurs(root, seen, zero_shot, cache_dir=root.parent / "cache", **options)


def test_recordings_and_languages(root):
    corpus = read(root)
    assert Counter((u.split, u.lang) for u in corpus.utterances) == {
        ("train", "fr_fr"): 3,
        ("dev", "fr_fr"): 3,
        ("test", "fr_fr"): 9,
        ("test", "en_us"): 3,
        ("test", "om_et"): 1,
        ("test", "ln_cd"): 4,
    }
    assert (corpus.name, corpus.licence, corpus.seen, corpus.zero_shot) == (
        "fleurs",
        "CC-BY-4.0",
        ("fr_fr",),
        ZERO_SHOT,
    )
    assert len({u.id for u in corpus.utterances}) == len(corpus.utterances)
    first = corpus.select("test", ["fr_fr"])[0]
    assert (first.id, first.text, first.sentence_id) == ("fleurs:fr_fr:test:52", "phrase 5", "fleurs:5")
    assert first.seconds == pytest.approx(load_audio(first.audio).size / 16_000)
    assert (first.translation, first.speaker, first.source, first.synthetic) == ("five", "", "fleurs", False)
    assert load_audio(first.audio).shape == (3200,)


def test_order_is_that_of_the_archive_and_reading_is_one_pass(root, monkeypatch):
    opened = []
    plain = archives.gzip.open
    monkeypatch.setattr(archives.gzip, "open", lambda path, *rest: opened.append(Path(path)) or plain(path, *rest))
    clips = read(root).select("test", ["fr_fr"])
    assert [u.id.rsplit(":")[-1] for u in clips] == ["52", "51", "50", "42", "41", "40", "32", "31", "30"]
    assert len(opened) == 6  # each archive was listed once
    for clip in clips:
        load_audio(clip.audio)
    assert len(opened) == 7
    assert read(root).utterances
    assert len(opened) == 7


def test_sentences_are_parallel_and_shared_texts_are_one_gallery_item(root):
    corpus = read(root)
    ids = {lang: {u.sentence_id for u in corpus.select("test", [lang])} for lang in (*corpus.seen, *corpus.zero_shot)}
    assert ids["fr_fr"] == ids["en_us"] == ids["ln_cd"] == {"fleurs:3", "fleurs:4", "fleurs:5"}
    assert ids["om_et"] == {"fleurs:3"}
    lingala = corpus.select("test", ["ln_cd"])
    assert len(lingala) == 4
    assert data_counts(lingala)["transcripts"] == 2
    assert {u.translation for u in lingala if u.text == "liloba moko"} == {'he said "no"', "five"}
    assert corpus.dropped == []
    assert [(d.id, d.reason) for d in corpus.noted] == [("fleurs:ln_cd:test", "text under several ids")]
    assert corpus.noted[0].detail == "fleurs:5, fleurs:4: liloba moko"


def test_a_sentence_tested_in_any_language_is_not_trained_on(tmp_path):
    for lang, split, sentences in (
        ("fr_fr", "train", (1, 2, 3, 4)),
        ("fr_fr", "dev", (2, 5, 6)),
        ("fr_fr", "test", (7,)),
        ("ro_ro", "test", (3, 5)),
    ):
        write_part(tmp_path / "f", lang, split, [row(n, f"{n}.wav", f"Phrase {n}.") for n in sentences])
    corpus = read(tmp_path / "f", zero_shot=("ro_ro",), english=False)
    left = {split: {u.sentence_id for u in corpus.select(split)} for split in ("train", "dev", "test")}
    assert left == {
        "train": {"fleurs:1", "fleurs:4"},
        "dev": {"fleurs:2", "fleurs:6"},
        "test": {"fleurs:3", "fleurs:5", "fleurs:7"},
    }
    assert corpus.dropped_counts() == {
        "train sentence is in dev": 1,
        "train sentence is in test": 1,
        "dev sentence is in test": 1,
    }


def test_text_column_and_quotes(root):
    raw = {u.sentence_id: u.text for u in read(root, text="raw").select("test", ["en_us"])}
    assert raw == {"fleurs:3": "Three bears.", "fleurs:4": 'He said "no".', "fleurs:5": "Five."}
    plain = {u.sentence_id: u.text for u in read(root).select("test", ["en_us"])}
    assert plain["fleurs:4"] == 'he said "no"'


def test_an_opening_quote_does_not_swallow_the_next_rows(tmp_path):
    rows = [row(1, "1.wav", '"Ja, sagt er'), row(2, "2.wav", "Zwei\u2028Bären"), row(3, "3.wav", 'Drei" Bären')]
    write_part(tmp_path / "f", "de_de", "test", rows)
    corpus = read(tmp_path / "f", (), ("de_de",), text="raw", english=False)
    assert [u.text for u in corpus.utterances] == ['Drei" Bären', "Zwei Bären", '"Ja, sagt er']


def test_crlf_byte_order_mark_and_blank_lines(tmp_path):
    rows = ["\ufeff" + row(1, "1.wav", "Ein Bär."), "", row(2, "2.wav", "Zwei Bären.")]
    members = {"test/1.wav": wav(), "test/2.wav": wav()}
    write_part(tmp_path / "f", "de_de", "test", rows, members, newline="\r\n")
    corpus = read(tmp_path / "f", (), ("de_de",), english=False)
    assert [(u.sentence_id, u.text) for u in corpus.utterances] == [("fleurs:1", "ein bär"), ("fleurs:2", "zwei bären")]
    assert corpus.dropped == []


def test_everything_left_out_is_counted(tmp_path):
    good = [row(n, f"{n}.wav", f"Satz {n}.") for n in range(4)]
    bad = [
        row(1, "1.wav", "Satz eins noch einmal."),  # the same recording again
        row(5, "5.wav", "Kein Clip."),
        row(6, "6.wav", "?!"),
        row(7, "7.wav", "Leer.", samples=0),
        row(8, "8.wav", "Null Bytes."),
        row(9, "9.wav", "Zu\tviele Spalten."),
        "10\t10.wav\tZu wenige.",
        row("x", "11.wav", "Keine Nummer."),
        row(12, "12.wav", "Keine Zahl.", samples="viele"),
        row(13, "../13.wav", "Ein anderer Ordner."),
        row(15, "link.wav", "Ein Link."),
    ]
    members = {f"test/{n}.wav": wav(seed=n) for n in (3, 0, 2, 1, 6, 7, 9, 14)}
    members |= {"test/8.wav": b"", "../13.wav": wav(), "readme.txt": b"hello"}
    archive = write_part(tmp_path / "f", "de_de", "test", good + bad, members, links=["test/link.wav"])
    with (archive.parents[1] / "test.tsv").open("ab") as file:
        file.write(b"20\t20.wav\t\xff\t\xff\t\xff\t3200\tMALE\n")
    corpus = read(tmp_path / "f", (), ("de_de",), english=False)
    assert [u.id for u in corpus.utterances] == [f"fleurs:de_de:test:{n}" for n in (3, 0, 2, 1)]
    assert corpus.utterances[-1].text == "satz 1"
    assert corpus.dropped_counts() == {
        "malformed row": 5,
        "no transcript": 3,
        "refused member": 2,
        "no samples": 2,
        "missing clip": 2,
        "repeated file name": 1,
        "empty transcript": 1,
        "not UTF-8": 1,
    }
    reasons = {d.id: d.reason for d in corpus.dropped}
    assert reasons["fleurs:de_de:test:../13.wav"] == reasons["fleurs:de_de:test:test/link.wav"] == "refused member"
    assert reasons["fleurs:de_de:test:5"] == reasons["fleurs:de_de:test:link"] == "missing clip"
    assert reasons["fleurs:de_de:test:14"] == reasons["fleurs:de_de:test:readme"] == "no transcript"
    assert reasons["fleurs:de_de:test:test.tsv line 11"] == "malformed row"
    assert not (tmp_path / "13.wav").exists()


def test_a_long_clip_is_kept(tmp_path):
    write_part(tmp_path / "f", "de_de", "test", [row(1, "1.wav", "Lang.", samples=2_560_000)],
               {"test/1.wav": wav(160)})  # fmt: skip
    (clip,) = read(tmp_path / "f", (), ("de_de",), english=False).utterances
    assert check_waveform(load_audio(clip.audio)).shape == (2_560_000,)


def test_clips_before_a_cut_are_used(tmp_path):
    rng = np.random.default_rng(0)
    members = {f"test/{n}.wav": wav() + rng.bytes(20_000) for n in range(10)}
    archive = write_part(
        tmp_path / "f", "de_de", "test", [row(n, f"{n}.wav", f"Satz {n}.") for n in range(10)], members
    )
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    corpus = read(tmp_path / "f", (), ("de_de",), english=False)
    assert 3 <= len(corpus.utterances) <= 5
    assert corpus.dropped_counts() == {"missing clip": 10 - len(corpus.utterances), "damaged archive": 1}
    assert load_audio(corpus.utterances[-1].audio).shape == (3200,)


def test_a_language_without_a_usable_clip(root):
    archive = root / "data" / "om_et" / "audio" / "test.tar.gz"
    archive.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"no recording of om_et test .* can be used; first: damaged archive"):
        read(root)
    corpus = read(root, missing="skip")
    assert corpus.zero_shot == ("en_us", "ln_cd")
    assert corpus.dropped_counts()["damaged archive"] == 1


def test_missing_languages_are_named_with_the_command(root):
    (root / "data" / "om_et" / "test.tsv").unlink()
    with pytest.raises(DataError) as caught:
        read(root, seen=("fr_fr", "de_de"))
    text = str(caught.value)
    assert "2 language(s) (train, dev, test)" in text
    assert "de_de, om_et" in text
    assert f"hf download google/fleurs --repo-type dataset --revision {fleurs.REVISION} --local-dir {root}" in text
    assert "--include 'data/de_de/*train*'" in text and "--include 'data/om_et/*test*'" in text
    assert "'data/om_et/*train*'" not in text and "data.missing=skip" in text
    corpus = read(root, seen=("fr_fr", "de_de"), missing="skip")
    assert (corpus.seen, corpus.zero_shot) == (("fr_fr",), ("en_us", "ln_cd"))
    missing = [d.id for d in corpus.dropped if d.reason == "missing language"]
    assert missing == [f"fleurs:{part}" for part in ("de_de:train", "de_de:dev", "de_de:test", "om_et:test")]
    with pytest.raises(DataError, match="has no usable recording"):
        read(root, ("de_de",), (), missing="skip")


def test_splits_can_be_chosen(root):
    corpus = read(root, splits={"train": ["fr", "English"], "test": ["om_et"]})
    assert Counter((u.split, u.lang) for u in corpus.utterances) == {
        ("train", "fr_fr"): 3,
        ("train", "en_us"): 1,
        ("test", "om_et"): 1,
    }
    assert corpus.zero_shot == ("en_us", "om_et")


def test_translations_need_only_the_english_table(root, caplog):
    for path in (root / "data" / "en_us" / "audio").iterdir():
        path.unlink()
    assert {u.translation for u in read(root, zero_shot=()).select("train")} == {"one bear"}
    assert {u.translation for u in read(root, zero_shot=(), english=False).utterances} == {""}
    assert "no English transcripts" not in caplog.text
    for path in (root / "data" / "en_us").glob("*.tsv"):
        path.unlink()
    assert {u.translation for u in read(root, zero_shot=()).utterances} == {""}
    assert "no English transcripts" in caplog.text


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seen": ("fr_fr", "om_et")}, "both seen and zero-shot"),
        ({"seen": ("xx_xx",)}, "'xx_xx' is not known"),
        ({"text": "lower"}, "FLEURS text: 'lower'"),
        ({"missing": "ignore"}, "FLEURS missing: 'ignore'"),
        ({"splits": {"validation": ["fr_fr"]}}, "split: 'validation'"),
        ({"splits": {"test": ["de_de"]}}, "language of split test: 'de_de'"),
        ({"splits": {}}, "no language of any split"),
    ],
)
def test_bad_options(root, options, match):
    with pytest.raises(ConfigError, match=match):
        read(root, **options)


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    """Stands in for the hub; files are put where its cache or ``local_dir`` would have them."""
    calls = []

    def download(repo, name, *, repo_type, revision, local_dir):
        calls.append((repo, name, repo_type, revision))
        path = Path(local_dir or tmp_path / "snapshots" / revision) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return str(path)

    def cached(repo, name, *, repo_type, revision):
        path = tmp_path / "snapshots" / revision / name
        return str(path) if path.is_file() else None

    monkeypatch.setattr(fleurs, "hf_hub_download", download)
    monkeypatch.setattr(fleurs, "try_to_load_from_cache", cached)
    monkeypatch.setattr(fleurs.hub, "unreachable", lambda: None)
    return calls


def test_fetch_takes_pinned_files_of_the_languages(tmp_path, fake_hub):
    assert fleurs.fetch_fleurs({"test": ["fr", "om_et"]}, tmp_path / "f") == tmp_path / "f"
    assert [name for _, name, _, _ in fake_hub] == [
        "data/fr_fr/test.tsv",
        "data/fr_fr/audio/test.tar.gz",
        "data/om_et/test.tsv",
        "data/om_et/audio/test.tar.gz",
        "data/en_us/test.tsv",
    ]
    assert {(repo, kind, revision) for repo, _, kind, revision in fake_hub} == {
        ("google/fleurs", "dataset", fleurs.REVISION)
    }
    fake_hub.clear()
    wanted = {"train": ["en_us"], "dev": [], "test": ["fr"]}
    assert fleurs.fetch_fleurs(wanted, revision="abc") == tmp_path / "snapshots" / "abc"
    assert [name for _, name, _, _ in fake_hub] == [
        "data/en_us/train.tsv",
        "data/en_us/audio/train.tar.gz",
        "data/fr_fr/test.tsv",
        "data/fr_fr/audio/test.tar.gz",
        "data/en_us/test.tsv",
    ]


def test_what_is_there_needs_no_hub(tmp_path, fake_hub, monkeypatch):
    wanted = {"test": ["fr"], "train": ["fr"]}
    folders = [fleurs.fetch_fleurs(wanted, root) for root in (None, tmp_path / "f")]
    monkeypatch.setattr(fleurs.hub, "unreachable", lambda: "gone")
    fake_hub.clear()
    assert [fleurs.fetch_fleurs(wanted, root) for root in (None, tmp_path / "f")] == folders and not fake_hub
    with pytest.raises(AssetError, match=r"3 of 9 files .* could not be fetched \(gone\), e\.g\. data/fr_fr/dev\.tsv"):
        fleurs.fetch_fleurs({**wanted, "dev": ["fr"]}, tmp_path / "f")


def test_files_in_several_folders_are_refused(tmp_path, fake_hub, monkeypatch):
    """The folder of one split is not that of another: nothing says that the hub's cache is one folder."""
    monkeypatch.setattr(fleurs, "try_to_load_from_cache", lambda repo, name, **_: str(
        tmp_path / ("a" if "train" in name else "b") / name))  # fmt: skip
    with pytest.raises(AssetError, match="several folders"):
        fleurs.fetch_fleurs({"train": ["fr"], "test": ["fr"]})


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("offline mode is on"), OSError("no route")])
def test_a_download_that_fails_names_its_file(tmp_path, fake_hub, monkeypatch, error):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(fleurs, "hf_hub_download", download)
    with pytest.raises(AssetError) as caught:
        fleurs.fetch_fleurs({"test": ["om_et"]}, tmp_path)
    for part in ("data/om_et/test.tsv", str(error), fleurs.REVISION):
        assert part in str(caught.value)
    for wanted in ({"test": []}, {}, {"validation": ["om_et"]}, {"test": ["xx"]}):
        with pytest.raises(ConfigError):
            fleurs.fetch_fleurs(wanted, tmp_path)


def test_fetched_files_are_read(root, tmp_path, monkeypatch):
    """The hub's cache holds links to files of other names; the reader goes by the names of the links."""
    snapshot = tmp_path / "snapshots" / "abc"
    for number, path in enumerate(sorted(root.rglob("*.t*"))):
        blob = tmp_path / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(path.read_bytes())
        link = snapshot / path.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    corpus = read(snapshot)
    container, member = split_locator(corpus.utterances[0].audio)
    assert (Path(container), member) == (snapshot / "data" / "fr_fr" / "audio" / "train.tar.gz", "train/12.wav")
    assert (len(corpus.utterances), load_audio(corpus.utterances[0].audio).shape) == (23, (3200,))
