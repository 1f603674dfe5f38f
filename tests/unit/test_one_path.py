"""The same clips and texts have the same vectors by every way in: there is one path from an item to its vector."""

from __future__ import annotations

from types import SimpleNamespace

import mteb
import numpy as np
import pytest
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer

from speechde import Audio, Item, SpeechTextEncoder, Text
from speechde.config import FrontendConfig
from speechde.demo.answers import Answers
from speechde.demo.clips import Limits
from speechde.evaluation.embed import stored_embed
from speechde.evaluation.mteb import MtebEncoder
from speechde.evaluation.sizes import cut
from speechde.features.frames import quantise
from speechde.features.sets import build_encoder, training_sets
from speechde.media.audio import load_audio
from speechde.models.prompt import Prompt
from speechde.search.embed import embed
from speechde.search.index import SearchIndex
from speechde.search.items import Item as Row
from speechde.training import recall
from speechde.training.features import training_frames
from speechde.types import SAMPLE_RATE, Utterance

LANG = "ro_ro"
SIZE = 5  # of the shorter vectors
PROMPTS = {
    "qa-query": "task: answers in {language} | query: {item}"
}  # of one task alone, so that query is its name too
TEXTS = ["un autobuz", "o casă roșie, cu două etaje și o grădină", "été"]


@pytest.fixture(params=["discrete", "continuous"])
def case(request, tiny_model, make_wav, tmp_path):
    """A model, its folder, and clips of mixed lengths."""
    folder = tiny_model(request.param, dims=(8, SIZE))
    lengths = enumerate((0.9, 0.3, 1.7))
    clips = [str(make_wav(f"{n}.wav", seconds, 150.0 + 90 * n, seed=n)) for n, seconds in lengths]
    encoder = SpeechTextEncoder.from_pretrained(folder, device="cpu")
    return SimpleNamespace(folder=folder, encoder=encoder, clips=clips, cache=tmp_path / "cache", dim=None, prompt=None)


@pytest.fixture
def prompted(case, request, tiny_model):
    """The same with a model that has a prompt, which is asked for."""
    folder = tiny_model(request.node.callspec.params["case"], dims=(8, SIZE), prompts=PROMPTS)
    encoder = SpeechTextEncoder.from_pretrained(folder, device="cpu")
    return SimpleNamespace(**vars(case) | {"folder": folder, "encoder": encoder, "prompt": "qa-query"})


@pytest.fixture
def shorter(case):
    """The same with a model that gives shorter vectors."""
    encoder = SpeechTextEncoder.from_pretrained(case.folder, device="cpu", dim=SIZE)
    return SimpleNamespace(**vars(case) | {"encoder": encoder, "dim": SIZE})


def by_items(case):
    vectors = case.encoder.embed(items(case), prompt=case.prompt)
    return vectors[:3], vectors[3:]


def by_kind(case):
    speech = case.encoder.encode_speech(case.clips, "ro", prompt=case.prompt)
    return speech, case.encoder.encode_text(TEXTS, "ro", prompt=case.prompt)


def by_command(case):
    rows = [Row(clip, LANG, None, clip) for clip in case.clips] + [Row(text, LANG, text, None) for text in TEXTS]
    vectors = embed(case.encoder, rows, case.prompt).vectors
    return vectors[:3], vectors[3:]


def by_stores(case):
    """As evaluation embeds, from what training has extracted of its clips."""
    trained = case.encoder.trained
    embed = stored_embed(trained.model, trained.prompt, stores(case)[0])
    every, roles = items(case), (case.prompt or "query", case.prompt or "document")
    return embed(every[:3], roles[0]), embed(every[3:], roles[1])


def by_dev_recall(case, monkeypatch):
    found = {}

    def evaluate(tasks, embed, label=None):
        for item in [item for task in tasks for item in (*task.queries, *task.gallery)]:
            (found[item.parts[0].content],) = embed([item], "")
        return SimpleNamespace(rows=["audio_to_text"], mean=lambda name: {"recall@1": 0.0})

    monkeypatch.setattr(recall, "evaluate", evaluate)
    trained = case.encoder.trained
    recall.DevRecall(trained.prompt, utterances(case), stores(case)[1])(trained.model)
    return tuple(np.stack([found[one] for one in some]) for some in (case.clips, TEXTS))


def by_mteb(case):
    model = MtebEncoder(str(case.folder), device="cpu", dim=case.dim)
    clips = [{"array": load_audio(clip), "sampling_rate": SAMPLE_RATE} for clip in case.clips]
    out = []
    for kind, task, rows in (("audio", "FleursA2TRetrieval.v2", clips), ("text", "FleursT2ARetrieval.v2", TEXTS)):
        loader = Loader([{kind: rows}])
        loader.dataset = SimpleNamespace(features=[kind])
        about = {"task_metadata": mteb.get_task(task).metadata, "hf_split": "test", "hf_subset": LANG}
        out.append(model.encode(loader, **about, prompt_type=PromptType.query))
    return tuple(out)


class Loader(list):
    """Batches; a list has no ``dataset``."""


def by_sentence_transformers(case):
    model = SentenceTransformer(str(case.folder), device="cpu", truncate_dim=case.dim)
    options = {"language": "ro", "normalize_embeddings": case.dim is not None, "prompt_name": case.prompt}
    return model.encode(case.clips, **options), model.encode(TEXTS, **options)


def by_saved_folder(case):
    folder = case.cache / "saved"
    case.encoder.save_pretrained(folder)
    model = SentenceTransformer(str(folder), device="cpu")
    options = {"language": "ro", "prompt_name": case.prompt}
    return model.encode(case.clips, **options), model.encode(TEXTS, **options)


def by_evaluation(case):
    """The rows of the sizes are of the vectors of the whole model."""
    whole = SpeechTextEncoder.from_pretrained(case.folder, device="cpu").trained
    embed = stored_embed(whole.model, whole.prompt, stores(case)[0])
    if case.dim:
        embed = cut(embed, case.dim, normalise=True)
    every = items(case)
    return embed(every[:3], "query"), embed(every[3:], "document")


def by_demo(case):
    """Rows of an index that are the axes: the scores are the components."""
    dim = case.encoder.dim
    rows = [{"id": str(axis), "language": None, "text": str(axis), "audio": None} for axis in range(dim)]
    index = SearchIndex.build(np.eye(dim, dtype=np.float32), rows, model="M", fingerprint=case.encoder.fingerprint)
    answers = Answers(case.encoder, index, Limits())

    def vector(found):
        return [each.score for each in sorted(found, key=lambda each: int(each.text))]

    speech = [vector(answers.by_speech(clip, LANG, dim)) for clip in case.clips]
    return np.array(speech), np.array([vector(answers.by_text(text, LANG, dim)) for text in TEXTS])


def utterances(case):
    pairs = zip(case.clips, TEXTS, strict=True)
    return [Utterance(f"u{n}", LANG, text, clip, str(n), "dev") for n, (clip, text) in enumerate(pairs)]


def items(case):
    clips = [Item(Audio(u.audio), id=u.id, lang=LANG) for u in utterances(case)]
    return clips + [Item(Text(text), lang=LANG) for text in TEXTS]


def stores(case):
    """Stored items of the clips as training clips, and as dev clips."""
    settings, quantiser = case.encoder.trained.settings.speech, case.encoder.trained.quantiser
    own = {key: getattr(settings, key) for key in ("encoder", "layer", "rate", "trim_db", "mean_norm")}
    config, clips = FrontendConfig(**own), utterances(case)
    sets = training_sets(config, clips, clips)
    frames = training_frames(sets, build_encoder(config), case.cache, rate=config.rate, seed=0)
    made = [*frames.views, frames.dev]
    return made if quantiser is None else [quantise(store, quantiser, case.cache) for store in made]


WAYS = [by_kind, by_command, by_stores, by_evaluation, by_dev_recall, by_mteb, by_sentence_transformers,
        by_saved_folder, by_demo]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_gives_the_same_vectors(way, case, monkeypatch):
    check(way, case, by_items(case), monkeypatch)


@pytest.mark.parametrize("way", [by_items, *WAYS], ids=lambda way: way.__name__)
def test_every_way_gives_the_same_shorter_vectors(way, case, shorter, monkeypatch):
    """The first components, brought to unit length."""
    first = [vectors[:, :SIZE] for vectors in by_items(case)]
    check(way, shorter, [own / np.linalg.norm(own, axis=1, keepdims=True) for own in first], monkeypatch)


@pytest.mark.parametrize(
    "way",
    [by_kind, by_command, by_stores, by_mteb, by_sentence_transformers, by_saved_folder],
    ids=lambda way: way.__name__,
)
def test_every_way_gives_the_same_vectors_with_a_prompt(way, case, prompted, monkeypatch):
    """That of the item that spells it out."""
    trained = prompted.encoder.trained
    bare = Prompt(trained.prompt.tokenizer, mode="none")
    embed = stored_embed(trained.model, bare, stores(prompted)[0])
    words = Text("task: answers in Romanian | query: ")
    spelled = [Item(words, *item.parts, id=item.id, lang=LANG) for item in items(prompted)]
    expected = [embed(spelled[:3], "query"), embed(spelled[3:], "query")]
    for own, plain in zip(expected, by_items(prompted.__class__(**vars(prompted) | {"prompt": None})), strict=True):
        assert np.abs(own - plain).max() > 1e-3, "the prompt is read"
    for own, named in zip(expected, by_items(prompted), strict=True):
        np.testing.assert_allclose(named, own, rtol=0, atol=1e-6)
    check(way, prompted, expected, monkeypatch)


def check(way, case, expected, monkeypatch):
    found = way(case, monkeypatch) if way is by_dev_recall else way(case)
    for vectors, own in zip(found, expected, strict=True):
        assert len(np.unique(own, axis=0)) == 3, "the clips and the texts differ"
        np.testing.assert_allclose(np.asarray(vectors, np.float32), own, rtol=0, atol=1e-6)
