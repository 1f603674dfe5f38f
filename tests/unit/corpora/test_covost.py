"""CoVoST 2 in both layouts: replicas made here, with every quirk of the real files."""

from __future__ import annotations

import io
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from speechde.corpora.covost import TAGS, read_covost
from speechde.errors import ConfigError, DataError
from speechde.languages import LANGUAGES
from speechde.media.audio import AudioError, load_audio

CV_COLUMNS = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent"
COVOST_COLUMNS = "path\ttranslation\tsplit"
ANNA, BEN = "a1" * 64, "b2" * 64  # client ids are 128 hex digits

# clip number, client, sentence as in validated.tsv, translation and label as in covost_v2.*.tsv
CLIPS = [
    (1, ANNA, "Guten Morgen, Welt!", "Good morning, world!", "train"),
    (2, BEN, "guten Morgen Welt", "Good morning, world.", "train_covost"),  # the same sentence by another speaker
    (3, ANNA, '"Das Wort ""Haus"" ist kurz."', 'The word "house" is short.', "train"),  # CSV quotation left over
    (4, ANNA, '"Ja", sagte sie, "gern"', '"Yes," she said "gladly', "train"),  # real quotation marks, one unpaired
    (5, ANNA, r"Ein \" und ein\\Strich", r"A \" and a\\stroke", "train"),  # escaped
    (6, ANNA, "Ohne Übersetzung", "", "train"),
    (7, ANNA, "Diese soll weg", "REMOVE", "train"),
    (8, ANNA, "REMOVE", "Never mind", "train"),
    (9, ANNA, "  ", "There was a sentence", "train"),
    (10, ANNA, "?!", "There was a sentence", "train"),
    (11, ANNA, "Null Bytes", "Zero bytes", "train"),
    (12, ANNA, "Nicht da", "Not there", "train"),
    (13, ANNA, "Zweimal gelistet", "Listed twice", "train"),
    (14, BEN, "zweimal GELISTET", "Listed twice", "train"),
    (15, BEN, "Auch in Dev.", "Also in dev", "train"),
    (16, BEN, "Auch in Test.", "Also in test", "train"),
    (17, BEN, "Kommt nur in Dev\u2028und so vor", "Dev only", "dev"),
    (18, ANNA, "auch in dev", "Also in dev", "dev"),
    (19, ANNA, "auch in test", "Also in test", "test"),
    (20, ANNA, "Guten Morgen, Welt!", "Good morning, world!", "dev_dup"),
    (21, ANNA, "Erweiterung", "Extension", "test_covost"),
    (22, ANNA, "REMOVE", "Never mind", "dev"),
    (23, ANNA, "Remove!", "Remove!", "train"),  # a sentence like any other
]
ZERO, MISSING, TWICE = 11, 12, 13
TEXTS = {  # what is left of train and dev
    1: "Guten Morgen, Welt!",
    2: "guten Morgen Welt",
    3: 'Das Wort "Haus" ist kurz.',
    4: '"Ja", sagte sie, "gern"',
    5: 'Ein " und ein\\Strich',
    6: "Ohne Übersetzung",
    7: "Diese soll weg",
    13: "Zweimal gelistet",
    14: "zweimal GELISTET",
    23: "Remove!",
    17: "Kommt nur in Dev und so vor",
    18: "auch in dev",
}
DROPS = {
    "split not used": {20, 21},
    "sentence is REMOVE": {8, 22},
    "empty sentence": {9, 10},
    "zero-length clip": {ZERO},
    "missing clip": {MISSING},
    "sentence also in dev": {15},
    "sentence also in test": {16},
}

SHARD_SCHEMA = pa.schema(
    {
        "client_id": pa.string(),
        "file": pa.string(),
        "audio": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "sentence": pa.string(),
        "translation": pa.string(),
        "id": pa.string(),
    }
)


def clip_id(number):
    return f"common_voice_de_{number}"


def unescaped(field):
    return field.replace(r"\"", '"').replace("\\\\", "\\")


def wav(seconds=0.2):
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.sin(np.arange(int(16000 * seconds)) / 8), 16000, format="WAV")
    return buffer.getvalue()


def write_official(root, tag="de", clips=CLIPS, extra_cv=(), extra_covost=(), beside=True):
    folder = root / tag
    (folder / "clips").mkdir(parents=True)
    names = {number: f"common_voice_{tag}_{number}.mp3" for number, *_ in clips}
    cv = [
        CV_COLUMNS,
        *(f"{client}\t{names[n]}\t{sentence}\t2\t0\t\t\t" for n, client, sentence, *_ in clips),
        *extra_cv,
    ]
    covost = [COVOST_COLUMNS, *(f"{names[n]}\t{english}\t{label}" for n, _, _, english, label in clips), *extra_covost]
    for path, lines in (
        (folder / "validated.tsv", cv),
        ((folder if beside else root) / f"covost_v2.{tag}_en.tsv", covost),
    ):
        path.write_bytes(b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in lines))
    for number, name in names.items():
        if number != MISSING:
            (folder / "clips" / name).write_bytes(b"" if number == ZERO else b"mp3")
    return folder


def write_shards(root, tag="de", clips=None, pattern="{split}-{shard:05d}-of-00002.parquet", drop=(), **splits):
    """Two shards a split, rows in several row groups; the rows are as the official script merges them."""
    folder = root / f"{tag}_en"
    labels = splits or {"train": ("train", "train_covost"), "validation": ("dev",), "test": ("test",)}
    for split, names in labels.items():
        rows = [
            {
                "client_id": client,
                "file": f"/data/{tag}/clips/{clip_id(n)}.mp3",
                "audio": {"bytes": b"" if n == ZERO else wav(0.2 + n / 100), "path": f"{clip_id(n)}.mp3"},
                "sentence": unescaped(sentence),
                "translation": None if n == 6 else unescaped(english),
                "id": clip_id(n),
            }
            for n, client, sentence, english, label in (clips or CLIPS)
            if label in names
        ]
        for shard in range(2):
            path = folder / pattern.format(split=split, shard=shard)
            path.parent.mkdir(parents=True, exist_ok=True)
            table = pa.Table.from_pylist(rows[shard::2], schema=SHARD_SCHEMA).drop_columns(list(drop))
            pq.write_table(table, path, row_group_size=3)
    return folder


def by_reason(corpus):
    found = {}
    for dropped in corpus.dropped:
        found.setdefault(dropped.reason, []).append(dropped.id)
    return {reason: sorted(ids) for reason, ids in found.items()}


def ids(numbers):
    return sorted(map(clip_id, numbers))


def test_official_layout_with_every_quirk(tmp_path):
    name = "common_voice_de_{}.mp3".format
    folder = write_official(
        tmp_path,
        extra_cv=[
            f"{BEN}\t{name(TWICE)}\tNoch einmal\t2\t0\t\t\t",
            f"{BEN}\t{name(30)}",
            f"{BEN}\t{name(31)}\tein\tTabulator\t2\t0\t\t\t",
            b"x\t" + name(32).encode() + b"\tkaputt \xff\t2\t0\t\t\t",
            f"{ANNA}\t{name(40)}\tNicht in CoVoST\t2\t0\t\t\t",
            f"{ANNA}\t../clips/{name(1)}\tHinaus\t2\t0\t\t\t",
            "",
        ],
        extra_covost=[
            f"{name(TWICE)}\tOnce more\ttrain",
            f"{name(33)}\tNobody validated it\ttrain",
            f"{name(34)}\tNot asked for\ttest",
            f"{name(35)}\tno label",
            f"../clips/{name(1)}\tOutside\ttrain",
        ],
    )
    corpus = read_covost(tmp_path, ["German"])
    assert (corpus.name, corpus.licence, corpus.seen, corpus.zero_shot) == ("covost2", "CC0-1.0", ("de_de",), ())
    assert {u.id: u.text for u in corpus.utterances} == {clip_id(n): text for n, text in TEXTS.items()}
    assert [(d.id, d.reason) for d in corpus.noted] == [
        (clip_id(6), "translation empty"),
        (clip_id(7), "translation is REMOVE"),
    ]
    assert by_reason(corpus) == {reason: ids(numbers) for reason, numbers in DROPS.items()} | {
        "clip listed twice": ids([TWICE, TWICE]),
        "not in validated.tsv": ids([33]),
        "too few columns": ["covost_v2.de_en.tsv:28", "validated.tsv:26"],
        "too many columns": ["validated.tsv:27"],
        "unreadable row": ["validated.tsv:28"],
        "bad clip name": [f"../clips/{name(1)}"],
    }
    first, second, *_ = corpus.utterances
    assert first.audio == str(folder / "clips" / name(1)) and os.path.isfile(first.audio)
    assert (first.split, first.source, first.synthetic) == ("train", "covost2", False)
    assert (first.speaker, second.speaker) == (ANNA[:16], BEN[:16])
    assert first.sentence_id == second.sentence_id and first.sentence_id.startswith("de_de:")
    assert len({u.sentence_id for u in corpus.utterances}) == len(TEXTS) - 2
    assert [u.id for u in corpus.utterances if u.split == "dev"] == [clip_id(17), clip_id(18)]
    english = {u.id: u.translation for u in corpus.utterances}
    assert english[clip_id(3)] == 'The word "house" is short.' and english[clip_id(5)] == 'A " and a\\stroke'
    assert english[clip_id(6)] == english[clip_id(7)] == ""


def test_the_hub_form_gives_the_same_corpus(tmp_path):
    write_official(tmp_path / "official")
    shards = write_shards(tmp_path / "hub", clips=[clip for clip in CLIPS if clip[0] not in (MISSING, ZERO)])
    official = {u.id: replace(u, audio="") for u in read_covost(tmp_path / "official", ["de"]).utterances}
    corpus = read_covost(tmp_path / "hub", ["de"])
    assert {u.id: replace(u, audio="") for u in corpus.utterances} == official
    expected = {r: ids(n) for r, n in DROPS.items() if r not in ("split not used", "missing clip", "zero-length clip")}
    assert by_reason(corpus) == expected
    for utterance in corpus.utterances:
        number = int(utterance.id.rpartition("_")[2])
        assert utterance.audio.startswith(str(shards)) and len(load_audio(utterance.audio)) == 3200 + 160 * number


def test_a_clip_without_bytes_in_the_hub_form_shows_when_it_is_loaded(tmp_path):
    write_shards(tmp_path)
    (empty,) = [u for u in read_covost(tmp_path, ["de"]).utterances if u.id == clip_id(ZERO)]
    with pytest.raises(AudioError) as caught:
        load_audio(empty.audio)
    assert caught.value.reason == "empty"


def test_hub_form_variants(tmp_path):
    folders = write_shards(tmp_path / "a", pattern="{split}/{shard:04d}.parquet")
    plain = write_shards(tmp_path / "b", drop=["id"])
    a, b = (read_covost(root, ["de"]).utterances for root in (tmp_path / "a", tmp_path / "b"))
    assert [u.id for u in a] == [u.id for u in b]
    assert {len(list(folders.rglob("*.parquet"))), len(list(plain.glob("*.parquet")))} == {6}
    # Test shards are not needed for train and dev.
    write_shards(tmp_path / "c", train=("train", "train_covost"), validation=("dev",))
    assert by_reason(read_covost(tmp_path / "c", ["de"])).get("sentence also in test") is None
    with pytest.raises(DataError, match=r"neither test-\*\.parquet nor test/\*\.parquet"):
        read_covost(tmp_path / "c", ["de"], splits=["test"])


@pytest.mark.parametrize("write", [write_official, write_shards])
def test_train_holds_no_sentence_of_dev_or_test_whatever_is_asked_for(tmp_path, write):
    write(tmp_path)
    both = read_covost(tmp_path, ["de"], splits=("train", "dev", "test"))
    sentences = {split: {u.sentence_id for u in both.select(split)} for split in ("train", "dev", "test")}
    assert len(sentences["dev"]) == 2 and len(sentences["test"]) == 1
    assert not sentences["train"] & (sentences["dev"] | sentences["test"])
    train = read_covost(tmp_path, ["de"], splits=("train",))
    assert train.utterances == both.select("train")
    assert by_reason(train)["sentence also in dev"] == ids([15])
    assert not by_reason(read_covost(tmp_path, ["de"], splits=("dev",))).keys() & {"zero-length clip", "empty sentence"}


def test_several_languages_in_mixed_layouts(tmp_path):
    pair = [(1, ANNA, "ett två", "one two", "train"), (2, ANNA, "tre fyra", "three four", "dev")]
    write_official(tmp_path, "sv-SE", pair, beside=False)
    write_official(tmp_path, "zh-CN", pair)
    write_shards(tmp_path, "de")
    corpus = read_covost(tmp_path, ["zh", "cmn_hans_cn", "Swedish", "de"])
    assert corpus.seen == ("cmn_hans_cn", "sv_se", "de_de")
    assert [u.id for u in corpus.select("train", ["sv_se"])] == ["common_voice_sv-SE_1"]
    # Equal strings in two languages are two sentences, and no leak from one language's dev into another's train.
    assert len({u.sentence_id for u in corpus.select(langs=["sv_se", "cmn_hans_cn"])}) == 4


def test_the_languages_are_those_of_the_paper():
    assert set(TAGS) == {code for code, language in LANGUAGES.items() if language.covost} and len(TAGS) == 21
    assert TAGS["cmn_hans_cn"] == "zh-CN" and TAGS["sv_se"] == "sv-SE"


@pytest.mark.parametrize(
    ("langs", "splits", "message"),
    [
        (["pl"], ["train"], "CoVoST 2 language: 'pl_pl' is not known"),
        (["de"], ["validation"], "split: 'validation' is not known; allowed: dev, test, train"),
        ([], ["train"], "name at least one of each"),
        (["de"], [], "name at least one of each"),
    ],
)
def test_wrong_requests(tmp_path, langs, splits, message):
    with pytest.raises(ConfigError, match=message):
        read_covost(tmp_path, langs, splits=splits)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"neither de/validated\.tsv .* nor a folder de_en"):
        read_covost(tmp_path, ["de"])
    folder = write_official(tmp_path)
    with pytest.raises(DataError, match=r"CoVoST 2 fr: .*take the language off the list"):
        read_covost(tmp_path, ["de", "fr"])
    (folder / "covost_v2.de_en.tsv").write_text("path\ttext\nx\ty\n")
    with pytest.raises(DataError, match="lacks the columns translation, split; it has path, text"):
        read_covost(tmp_path, ["de"])
    (folder / "covost_v2.de_en.tsv").write_text(COVOST_COLUMNS + "\n")
    with pytest.raises(DataError, match="no usable train clip: no row at all"):
        read_covost(tmp_path, ["de"])
    (folder / "covost_v2.de_en.tsv").unlink()
    with pytest.raises(DataError, match=r"covost_v2\.de_en\.tsv is neither in"):
        read_covost(tmp_path, ["de"])


def test_a_wholly_bad_split_is_an_error(tmp_path):
    folder = write_official(tmp_path)
    for clip in (folder / "clips").iterdir():
        clip.write_bytes(b"")
    with pytest.raises(DataError, match=r"no usable train clip: zero-length clip \(\d+\)"):
        read_covost(tmp_path, ["de"])


def test_damaged_shards(tmp_path):
    folder = write_shards(tmp_path)
    shard = folder / "train-00001-of-00002.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet is not a readable Parquet file"):
        read_covost(tmp_path, ["de"])
    write_shards(tmp_path, drop=["audio", "translation"])
    with pytest.raises(DataError, match="lacks the columns translation, audio"):
        read_covost(tmp_path, ["de"])
