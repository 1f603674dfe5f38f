from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest

from speechde.errors import DataError
from speechde.evaluation import speech
from speechde.evaluation.metrics import bootstrap_means, interval
from speechde.types import Audio, Utterance

LANGS = {"seen": ["ca_es"], "zero_shot": ["sw_ke"]}


def utterance(lang, number, text, translation="", split="test"):
    return Utterance(f"{lang}-{number}", lang, text, "", text, split, translation=translation)


# Catalan: "un" is recorded twice, once with outer spaces; a wrong retrieval only for the second recording of it.
UTTERANCES = [
    utterance("ca_es", 0, "un gat", "a cat"),
    utterance("sw_ke", 0, "paka"),
    utterance("ca_es", 1, " un gat ", "a cat"),
    utterance("ca_es", 2, "dos gossos", "two dogs"),
    utterance("sw_ke", 1, "mbwa"),
]
CAT, DOG, HALF = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]
SPEECH = np.array([CAT, CAT, HALF, DOG, CAT], np.float32)
TEXTS = [
    ("sw_ke", "mbwa"),
    ("ca_es", "un gat"),
    ("ca_es", "dos gossos"),
    ("sw_ke", "paka"),
    ("ca_es", "no one says it"),
]
VECTORS = np.array([DOG, CAT, DOG, CAT, CAT], np.float32)
ENGLISH = (["two dogs", "a cat"], np.array([DOG, CAT], np.float32))


def lookup(utterances, vectors, texts, text_vectors, english):
    """What embeds recordings by their ids and texts by themselves, from tables of vectors."""
    clips = dict(zip([u.id for u in utterances], np.asarray(vectors, np.float32), strict=True))
    words = dict(zip(texts, np.asarray(text_vectors, np.float32), strict=True))
    translations = dict(zip(*english, strict=True)) if english else {}

    def embed(items, role):
        def one(item):
            if isinstance(item.parts[0], Audio):
                return clips[item.id]
            assert item.id == item.parts[0].content
            return words[item.lang, item.id] if (item.lang, item.id) in words else translations[item.id]

        return np.stack([one(item) for item in items])

    return embed


def run(utterances=UTTERANCES, vectors=SPEECH, texts=TEXTS, text_vectors=VECTORS, english=ENGLISH, **changes):
    embed = lookup(utterances, vectors, texts, text_vectors, english)
    return speech.evaluate_speech(utterances, embed, **{**LANGS, **changes})


def unique_texts(utterances):
    return list(dict.fromkeys((u.lang, speech.clean(u.text)) for u in utterances))


def test_audio_to_text_by_hand():
    row = run()[0]["audio_to_text"]["per_language"]["ca_es"]
    assert row["recall@1"] == pytest.approx(2 / 3)
    assert row["recall@5"] == 1.0
    assert row["mrr"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert (row["queries"], row["gallery"], row["chance"]) == (3, 2, 0.5)  # duplicates are one item, extra texts none
    assert row["wer"] == pytest.approx(2 / 6)
    assert row["role"] == "seen"
    low, high = row["ci95"]
    assert low <= 2 / 3 <= high


def test_text_to_audio_takes_any_recording_of_the_sentence():
    row = run()[0]["text_to_audio"]["per_language"]["ca_es"]
    assert (row["queries"], row["gallery"], row["recall@1"]) == (2, 3, 1.0)
    assert row["chance"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert "wer" not in row


def test_audio_to_english_leaves_out_languages_without_translations():
    result = run()[0]["audio_to_english_text"]
    assert list(result["per_language"]) == ["ca_es"]
    assert result["per_language"]["ca_es"]["recall@1"] == pytest.approx(2 / 3)
    assert result["seen"]["languages"] == 1
    assert result["zero_shot"] == {
        "languages": 0,
        **dict.fromkeys(("ci95", "recall@1", "recall@1_micro", "recall@5", "mrr", "bleu", "chance", "recall@1_fixed")),
    }


def test_recordings_without_translation_are_no_queries():
    utterances = [*UTTERANCES[:3], utterance("ca_es", 2, "dos gossos"), UTTERANCES[4]]
    row = run(utterances)[0]["audio_to_english_text"]["per_language"]["ca_es"]
    assert (row["queries"], row["gallery"]) == (2, 1)


def test_english_is_not_matched_with_itself():
    utterances = [utterance("en_us", 0, "a cat", "a cat")]
    tasks = speech.speech_tasks(utterances, {"seen": ["en_us"]})
    assert [task.name for task in tasks] == ["audio_to_text", "text_to_audio"]


def test_seen_and_zero_shot_are_averaged_apart():
    result = run()[0]["audio_to_text"]
    assert result["seen"]["recall@1"] == pytest.approx(2 / 3)
    # "mbwa" sounds like a cat: one right, one wrong
    assert result["zero_shot"]["recall@1"] == 0.5
    both = run(seen=["ca_es", "sw_ke"], zero_shot=[])[0]["audio_to_text"]
    assert both["seen"]["recall@1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert both["seen"]["languages"] == 2
    assert both["seen"]["recall@1_micro"] == pytest.approx((2 + 1) / (3 + 2))
    assert both["zero_shot"]["recall@1"] is None
    assert result["per_region"]["SSA"]["zero_shot"] == result["zero_shot"]
    assert result["per_region"]["SSA"]["seen"]["languages"] == 0


def test_keys_are_stable():
    metrics, _ = run([replace(u, translation="") for u in UTTERANCES])
    assert set(metrics) == {*speech.DIRECTIONS, "fixed_gallery", "bleu_signature"}
    assert metrics["fixed_gallery"] == {"size": 2, "draws": 100, "seed": 0}
    for direction in speech.DIRECTIONS:
        assert set(metrics[direction]) == {"per_language", "per_region", "seen", "zero_shot"}
    assert set(metrics["audio_to_text"]["per_language"]["ca_es"]) == {
        *("role", "queries", "gallery", "chance", "ci95", "recall@1", "recall@5", "mrr", "wer", "recall@1_fixed")
    }
    assert metrics["audio_to_english_text"]["per_language"] == {}


def test_records_name_every_query():
    _, records = run()
    assert len(records) == 5 + 4 + 3 + 2
    assert {
        "direction": "audio_to_text",
        "lang": "ca_es",
        "id": "ca_es-1",
        "sentence": "un gat",
        "rank": 2,
        "retrieved": "dos gossos",
    } in records
    (cat,) = [r for r in records if r["direction"] == "text_to_audio" and r["id"] == "un gat"]
    assert (cat["sentence"], cat["rank"], cat["retrieved"]) == ("un gat", 1, "ca_es-0")
    english = [r for r in records if r["direction"] == "audio_to_english_text"]
    assert [r["sentence"] for r in english] == ["un gat", "un gat", "dos gossos"]


def test_text_to_english_asks_each_transcript_once():
    vectors = np.array([DOG, HALF, DOG, CAT, CAT], np.float32)
    result = run(text_vectors=vectors)[0]["text_to_english_text"]
    row = result["per_language"]["ca_es"]
    # "un gat" lies nearer to the dogs
    assert (row["queries"], row["gallery"], row["recall@1"]) == (2, 2, 0.5)
    assert list(result["per_language"]) == ["ca_es"]


def test_bleu_of_what_was_retrieved():
    texts = ["she sat on the old mat", "they ran to the far hill"]
    utterances = [utterance("ca_es", number, f"t{number}", text) for number, text in enumerate(texts)]
    vectors = np.array([CAT, DOG])
    arguments = {"texts": unique_texts(utterances), "text_vectors": vectors, "zero_shot": []}
    for spoken, expected in ((vectors, 100), (vectors[::-1], 0)):
        metrics, _ = run(utterances, spoken, english=(texts, vectors), **arguments)
        row = metrics["audio_to_english_text"]["per_language"]["ca_es"]
        assert (row["bleu"] > 99) if expected else (row["bleu"] < 15)
        assert metrics["audio_to_english_text"]["seen"]["bleu"] == row["bleu"]
    assert "bleu" not in metrics["audio_to_text"]["per_language"]["ca_es"]


def recording(number, text, speaker):
    return Utterance(f"ca_es-{number}", "ca_es", text, "", text, "test", speaker)


def across(speakers, vectors=(CAT, CAT, DOG, HALF)):
    names = ["gat", "gat", "gos", "gos"]
    utterances = [recording(i, text, speaker) for i, (text, speaker) in enumerate(zip(names, speakers, strict=True))]
    texts = unique_texts(utterances)
    return run(utterances, np.array(vectors), texts, np.array([CAT, DOG]), None, zero_shot=[])


def test_audio_to_audio_leaves_out_own_recordings():
    metrics, records = across(["ana", "pau", "ana", "pau"])
    row = metrics["audio_to_audio"]["per_language"]["ca_es"]
    # Ana's two are searched among Pau's two and the other way round; each finds its sentence.
    assert (row["queries"], row["gallery"], row["recall@1"], row["chance"]) == (4, 4, 1.0, 0.5)
    assert "recall@1_fixed" not in row and "wer" not in row
    found = {r["id"]: r["retrieved"] for r in records if r["direction"] == "audio_to_audio"}
    assert found == {"ca_es-0": "ca_es-1", "ca_es-1": "ca_es-0", "ca_es-2": "ca_es-3", "ca_es-3": "ca_es-2"}


def test_audio_to_audio_needs_two_known_speakers_of_a_sentence():
    for speakers in (["", "", "", ""], ["ana", "ana", "pau", "pau"], ["ana", "", "pau", ""]):
        assert "audio_to_audio" not in across(speakers)[0]
    row = across(["ana", "pau", "ana", ""])[0]["audio_to_audio"]["per_language"]["ca_es"]
    assert (row["queries"], row["gallery"]) == (2, 3)


def test_constant_encoder_scores_zero():
    metrics, _ = run(vectors=np.ones((5, 2)), text_vectors=np.ones((5, 2)))
    for direction in ("audio_to_text", "text_to_audio"):
        assert metrics[direction]["seen"]["recall@1"] == 0.0
        assert metrics[direction]["zero_shot"]["recall@1"] == 0.0


def noisy_corpus(repeats=1, sentences=20):
    """Two languages in which pairs of transcripts share one translation, with about half of the queries right."""
    rng = np.random.default_rng(0)
    utterances, spoken = [], []
    for lang in ("ca_es", "sw_ke"):
        for number in range(sentences):
            vector = np.eye(sentences)[number] + 0.6 * rng.normal(size=sentences)
            for repeat in range(repeats):
                name = f"{number}-{repeat}"
                utterances.append(
                    Utterance(f"{lang}-{name}", lang, f"t{number}", "", "", "test", "", f"e{number // 2}")
                )
                spoken.append(vector)
    vectors = np.tile(np.eye(sentences), (2, 1))
    translations = list(dict.fromkeys(u.translation for u in utterances))
    english = (translations, np.repeat(np.eye(sentences // 2), 2, axis=1))
    return utterances, np.array(spoken), unique_texts(utterances), vectors, english


def test_a_language_scores_alike_whatever_else_is_evaluated():
    utterances, spoken, texts, vectors, english = noisy_corpus()
    alone = [row for row, u in enumerate(utterances) if u.lang == "sw_ke"]
    together = run(utterances, spoken, texts, vectors, english)[0]
    single = run([utterances[row] for row in alone], spoken[alone], texts, vectors, english, seen=[])[0]
    assert 0 < single["audio_to_text"]["zero_shot"]["recall@1"] < 1
    for direction in speech.DIRECTIONS:
        assert single[direction]["per_language"]["sw_ke"] == together[direction]["per_language"]["sw_ke"]


def test_more_recordings_of_the_same_sentences_do_not_narrow_the_interval():
    once, thrice = (run(*noisy_corpus(repeats))[0]["audio_to_text"] for repeats in (1, 3))
    for role in ("seen", "zero_shot"):
        assert once[role]["ci95"] == pytest.approx(thrice[role]["ci95"])
        assert once[role]["ci95"][0] < once[role]["recall@1"] < once[role]["ci95"][1]


def test_languages_of_a_proxy_voice_are_averaged_apart():
    usual = run()[0]["audio_to_text"]
    apart = run(zero_shot=[], proxy=["sw_ke"])[0]["audio_to_text"]
    assert "proxy" not in usual and apart["proxy"] == usual["zero_shot"]
    assert apart["seen"] == usual["seen"] and apart["zero_shot"]["languages"] == 0
    assert apart["per_language"]["sw_ke"]["role"] == "proxy"
    assert set(apart["per_region"]["SSA"]) == {"seen", "zero_shot", "proxy"}


def test_english_direction_resamples_transcripts():
    metrics, records = run(*noisy_corpus(2))
    mine = [r for r in records if r["direction"] == "audio_to_english_text" and r["lang"] == "ca_es"]
    groups = [int(r["id"].split("-")[1]) for r in mine]
    expected = interval(bootstrap_means([r["rank"] == 1 for r in mine], groups, seed=(0, crc32(b"ca_es"))))
    assert metrics["audio_to_english_text"]["per_language"]["ca_es"]["ci95"] == pytest.approx(expected)


def test_texts_are_one_item_when_they_are_equal_after_nfc_and_strip():
    decomposed, composed = utterance("ca_es", 9, "cafe\u0301"), utterance("ca_es", 10, " caf\u00e9")
    (task, _) = speech.speech_tasks([decomposed, composed], {"seen": ["ca_es"]})
    assert [item.id for item in task.gallery] == ["caf\u00e9"]
    assert task.relevance.query.tolist() == [0, 0]


def test_a_translation_shared_by_languages_is_one_item():
    both = [utterance("ca_es", 0, "un gat", "a cat"), utterance("sw_ke", 0, "paka", "a cat")]
    tasks = speech.speech_tasks(both, {"seen": ["ca_es", "sw_ke"]})
    one, other = (task.gallery for task in tasks if task.name == "audio_to_english_text")
    assert one[0] is other[0] and one[0].lang == "en_us"


def test_data_counts():
    assert speech.data_counts(UTTERANCES) == {"languages": 2, "recordings": 5, "transcripts": 4, "synthetic": 0}
    lengths = {u.id: float(seconds) for seconds, u in enumerate(UTTERANCES[:-1])}
    found = speech.data_counts(UTTERANCES, lengths | {"another clip": 100.0})
    assert found["seconds"] == {"5 %": 0.15, "50 %": 1.5, "95 %": 2.85}, "of the clips whose length is known"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seen": ["ca_es", "sw_ke"]}, "in several of seen, synthetic_only, zero_shot, proxy"),
        ({"proxy": ["sw_ke"]}, "in several of seen, synthetic_only, zero_shot, proxy"),
        ({"zero_shot": []}, "in none of seen, synthetic_only, zero_shot, proxy"),
        ({"zero_shot": ["sw_ke", "de_de"]}, "have no recordings"),
        ({"utterances": [*UTTERANCES[:4], utterance("sw_ke", 1, "mbwa", split="dev")]}, "one split at a time"),
        ({"utterances": [*UTTERANCES[:4], utterance("sw_ke", 0, "mbwa")]}, "occur more than once"),
        ({"utterances": [], "vectors": SPEECH[:0], "seen": [], "zero_shot": []}, "0 utterances"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        run(**changes)


def test_a_sample_keeps_all_recordings_of_the_same_sentences_in_each_language():
    clips = [
        Utterance(f"{lang}{s}-{n}", lang, f"{lang} {s}", "", f"s{s}", "test")
        for lang in ("ca_es", "fr_fr") for s in range(20) for n in range(1 + s % 3)
    ]  # fmt: skip
    drawn = speech.sample_sentences(clips, 5, seed=0)
    by_lang = {lang: {u.sentence_id for u in drawn if u.lang == lang} for lang in ("ca_es", "fr_fr")}
    assert by_lang["ca_es"] == by_lang["fr_fr"] and len(by_lang["ca_es"]) == 5
    assert drawn == [u for u in clips if u.sentence_id in by_lang[u.lang]]
    assert drawn == speech.sample_sentences(clips[::-1], 5, seed=0)[::-1] != speech.sample_sentences(clips, 5, seed=1)
    assert {u.id for u in drawn} < {u.id for u in speech.sample_sentences(clips, 6, seed=0)}
    assert speech.sample_sentences(clips, None, seed=0) == speech.sample_sentences(clips, 100, seed=0) == clips


def test_a_text_under_two_ids_is_one_sentence_of_a_sample():
    clips = [Utterance(str(n), "ln_cd", f"t{n // 2}", "", f"s{n}", "test") for n in range(8)]
    for seed in range(5):
        assert len(speech.sample_sentences(clips, 1, seed)) == 2


def test_counts_of_a_sample():
    clips = [Utterance(str(n), "ln_cd", f"t{n // 2}", "", f"s{n}", "test") for n in range(8)]
    assert speech.sample_counts(clips, None) == {}
    assert speech.sample_counts(clips, 3) == {
        "sample": {"sentences per language": 3, "of recordings": 8, "of transcripts": 4}
    }
