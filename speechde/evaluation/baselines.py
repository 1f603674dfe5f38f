"""Baselines: other ways to answer the same queries from the same galleries (``eval.baselines``; docs/protocol.md).

Seconds per query are wall time on this machine from the clip to its ranked gallery; frames and transcripts keep the
seconds that they took when they were made. What is computed once for a gallery is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from rapidfuzz import fuzz, process

from speechde.errors import unknown_value
from speechde.evaluation import metrics as m
from speechde.evaluation import protocol
from speechde.evaluation.dtw import dtw_distances
from speechde.evaluation.rivals import Rival, SentenceEncoder, TextEncoder
from speechde.evaluation.scene import Answer, Language, Scene, Skipped, score
from speechde.export.folder import TrainedModel, assemble, languages_heard, model_folder
from speechde.models.backbone import Backbone
from speechde.weights import resolve

E5 = "packaged:multilingual-e5-small"


def run_baselines(scene: Scene, model_seconds: float) -> dict:
    """``baselines`` of ``metrics.json``: the model itself, then each baseline by name; ``notes`` where there are any.

    Args:
        model_seconds: in which the model's adapter and LLM embedded all queries from their frames.
    """
    count = len(scene.utterances)
    ranks = {}
    for lang in scene.languages:
        own = scene.own_ranks["audio_to_text", lang.lang]
        ranks[lang.lang] = np.array([own[scene.utterances[row].id] for row in lang.rows])
    output = {"model": score(scene, Answer(ranks, model_seconds + count * scene.encoder_seconds))}
    for name in scene.request.names:
        try:
            output[name] = score(scene, baseline(name)(scene))
        except Skipped as reason:
            scene.notes.append(f"{name} is left out: {reason}")
    return output | ({"notes": scene.notes} if scene.notes else {})


def baseline(name: str) -> Callable[[Scene], Answer]:
    """The baseline of a name.

    Raises:
        ConfigError: there is none.
    """
    kind, colon, model = name.partition(":")
    if colon and kind in WITH_MODEL:
        return lambda scene: WITH_MODEL[kind](scene, model)
    if name not in BASELINES:
        raise unknown_value("eval.baselines", name, [*BASELINES, *(f"{kind}:MODEL" for kind in WITH_MODEL)])
    return BASELINES[name]


def chance(scene: Scene) -> Answer:
    """Random scores, seeded."""
    rng = np.random.default_rng(scene.request.seed)
    return _by_scores(scene, lambda lang: rng.random((len(lang.rows), len(lang.items))))


def untrained(scene: Scene) -> Answer:
    """The model's architecture as its training started: the same seed, no step."""
    fresh = initialised(scene.trained, scene.request.initial)
    vectors = scene.text_vectors(fresh, scene.texts)
    start = time.perf_counter()
    answer = _by_vectors(scene, scene.speech(fresh), vectors)
    seconds = time.perf_counter() - start + len(scene.utterances) * scene.encoder_seconds
    return Answer(answer.ranks, seconds)


def initialised(trained: TrainedModel, initial: Mapping) -> TrainedModel:
    """A model as it was before its first step; ``initial`` is the configuration group ``model`` of its run."""
    torch.manual_seed(trained.settings["training"]["seed"])
    names = ("init", "num_layers", "attention", "dropout", "dtype", "attn_implementation")
    backbone = Backbone.load(resolve(initial["source"]), **{name: initial[name] for name in names})
    model = assemble(backbone.model, trained.settings)
    if trained.quantiser is not None:
        model.backbone.embedding.reset_audio(initial["audio_init"], torch.from_numpy(trained.quantiser.centroids))
    else:
        frontend = trained.model.frontend
        model.frontend.set_statistics(frontend.frame_mean.cpu(), frontend.frame_std.cpu())
    model = model.to(next(trained.model.parameters()).device).eval()
    return TrainedModel(model, trained.prompt, trained.quantiser, trained.settings)


def oracle(scene: Scene) -> Answer:
    """The true transcript asks through the model's text side: what it leaves are texts that it cannot tell apart."""
    start = time.perf_counter()
    spoken = [(u.lang, protocol.clean(u.text)) for u in scene.utterances]
    return _by_vectors(scene, scene.text_vectors(scene.trained, spoken), scene.vectors, since=start)


def cascade_chars(scene: Scene) -> Answer:
    """The transcript and the texts compared letter by letter, after ``metrics.normalise_text`` (``fuzz.ratio``)."""
    heard = scene.transcripts
    asked = [m.normalise_text(heard.texts[u.id]) for u in scene.utterances]
    offered = [m.normalise_text(text) for _, text in scene.texts]

    def scores(lang: Language) -> np.ndarray:
        return process.cdist([asked[i] for i in lang.rows], [offered[i] for i in lang.items], scorer=fuzz.ratio)

    return _after_asr(scene, time.perf_counter(), _by_scores(scene, scores))


def cascade_text(scene: Scene) -> Answer:
    """The transcript asks through the model's text side."""
    return _cascade(scene, lambda heard: scene.text_vectors(scene.trained, heard), scene.vectors)


def cascade_e5(scene: Scene) -> Answer:
    """The transcript asks through multilingual-e5-small."""
    encoder = TextEncoder(resolve(E5))
    answer = _text_cascade(scene, encoder)
    scene.note_cut(encoder.cut, encoder.max_tokens)
    return answer


def cascade_rival(scene: Scene, name: str) -> Answer:
    """The transcript asks through any SentenceTransformer or mteb model."""
    return _text_cascade(scene, Rival(name))


def rival(scene: Scene, name: str) -> Answer:
    """Any SentenceTransformer or mteb model that embeds speech and text."""
    model = Rival(name)
    vectors = model.embed_texts(scene.texts)
    start = time.perf_counter()
    return _by_vectors(scene, model.embed_clips(scene.utterances), vectors, since=start)


def trained_run(scene: Scene, path: str) -> Answer:
    """Another trained model of this project, such as one trained on all languages that are zero-shot here."""
    other = TrainedModel.load(model_folder(path))
    items = scene.request.items_of(other)
    if missing := [u.id for u in scene.utterances if u.id not in items]:
        raise Skipped(
            f"{len(missing)} recordings cannot be read as its speech encoder reads them ({missing[0]}, first)"
        )
    vectors = scene.text_vectors(other, scene.texts)
    start = time.perf_counter()
    answer = _by_vectors(scene, scene.speech(other, items), vectors, since=start)
    heard = [lang for lang in scene.roles if lang in languages_heard(other.settings["training"])]
    scene.notes.append(f"run:{path} was trained on speech of {', '.join(heard) or 'none of these languages'}")
    return Answer(answer.ranks, answer.seconds + len(scene.utterances) * scene.seconds_to_encode(items))


def mean_pooled(scene: Scene) -> Answer:
    """Speech to speech: the cosine of mean frames, no training."""

    def distances(frames: list[np.ndarray], gallery: list[np.ndarray]) -> np.ndarray:
        means = [np.stack([each.astype(np.float32).mean(0) for each in side]) for side in (frames, gallery)]
        return -_unit(means[0]) @ _unit(means[1]).T

    return _speech_to_speech(scene, distances)


def dtw(scene: Scene) -> Answer:
    """Speech to speech: dynamic time warping over frames, no training."""
    return _speech_to_speech(scene, dtw_distances)


BASELINES = {
    "chance": chance,
    "untrained": untrained,
    "oracle": oracle,
    "cascade_chars": cascade_chars,
    "cascade_text": cascade_text,
    "cascade_e5": cascade_e5,
    "mean_pooled": mean_pooled,
    "dtw": dtw,
}
WITH_MODEL = {"cascade": cascade_rival, "rival": rival, "run": trained_run}


def _text_cascade(scene: Scene, encoder: SentenceEncoder) -> Answer:
    return _cascade(scene, lambda heard: encoder.embed_texts(heard, query=True), encoder.embed_texts(scene.texts))


def _cascade(scene: Scene, embed: Callable[[Sequence[tuple[str, str]]], np.ndarray], vectors: np.ndarray) -> Answer:
    heard = scene.transcripts
    start = time.perf_counter()
    asked = embed([(u.lang, heard.texts[u.id]) for u in scene.utterances])
    return _after_asr(scene, start, _by_vectors(scene, asked, vectors))


def _after_asr(scene: Scene, start: float, answer: Answer) -> Answer:
    seconds = time.perf_counter() - start + len(scene.utterances) * scene.transcripts.seconds
    return Answer(answer.ranks, seconds)


def _by_vectors(scene: Scene, queries: np.ndarray, texts: np.ndarray, since: float | None = None) -> Answer:
    start = since or time.perf_counter()
    ranks = {
        lang.lang: m.ranks(queries[lang.rows], texts[lang.items], lang.sentences, lang.items)
        for lang in scene.languages
    }
    return Answer(ranks, time.perf_counter() - start)


def _by_scores(scene: Scene, scores: Callable[[Language], np.ndarray]) -> Answer:
    start = time.perf_counter()
    ranks = {
        lang.lang: np.concatenate([m.ranks_of_scores(scores(p), p.sentences, p.items) for p in _blocks(lang)])
        for lang in scene.languages
    }
    return Answer(ranks, time.perf_counter() - start)


def _blocks(lang: Language) -> list[Language]:
    """The language in parts of at most ``metrics.BLOCK`` queries, whose scores are held at once."""
    starts = range(0, len(lang.rows), m.BLOCK)
    return [replace(lang, rows=lang.rows[s:][: m.BLOCK], sentences=lang.sentences[s:][: m.BLOCK]) for s in starts]


def _speech_to_speech(scene: Scene, distances: Callable[[list[np.ndarray], list[np.ndarray]], np.ndarray]) -> Answer:
    """Recordings of the same sentence by other speakers (``audio_to_audio`` of the protocol)."""
    pairs = {lang.lang: _Speakers(scene, lang) for lang in scene.languages}
    pairs = {lang: each for lang, each in pairs.items() if len(each.asked)}
    if not pairs:
        raise Skipped(
            "it looks for another speaker's recording of the sentence, and the data name no two speakers of one"
        )
    frames = scene.request.frames()
    ids = [u.id for u in scene.utterances]
    start = time.perf_counter()
    ranks = {}
    for lang, each in pairs.items():
        clips = [[frames[ids[i]] for i in side] for side in (each.asked, each.known)]
        ranks[lang] = m.ranks_of_scores(-distances(*clips), *each.groups, each.apart)
    seconds = time.perf_counter() - start
    asked = {lang: each.asked.tolist() for lang, each in pairs.items()}
    seconds += sum(map(len, asked.values())) * scene.encoder_seconds
    chances = {lang: m.chance_recall(*each.groups, apart=each.apart) for lang, each in pairs.items()}
    return Answer(ranks, seconds, "audio_to_audio", asked, chances)


class _Speakers:
    """Queries and items of one language that the protocol scores across speakers, and their labels."""

    def __init__(self, scene: Scene, lang: Language) -> None:
        speakers = [scene.utterances[i].speaker for i in lang.rows]
        asked, known, voice = protocol.across_speakers(lang.sentences, speakers)
        self.asked, self.known = lang.rows[asked], lang.rows[known]
        self.groups = lang.sentences[asked], lang.sentences[known]
        self.apart = voice[asked], voice[known]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
