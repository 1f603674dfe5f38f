"""Baselines: other ways to answer the same queries from the same galleries (``eval.baselines``; docs/protocol.md).

Seconds per query are wall time on this machine from the clip to its ranked gallery; frames and transcripts keep the
seconds that they took when they were made. What is computed once for a gallery is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from rapidfuzz import fuzz, process

from speechde.checkpoint.folder import TrainedModel, assemble, languages_heard, model_folder
from speechde.errors import unknown_value
from speechde.evaluation.dtw import dtw_distances
from speechde.evaluation.embed import stored_embed
from speechde.evaluation.retrieval import DOCUMENT, QUERY, Embed, Ranking, Remembered, Retrieval
from speechde.evaluation.rivals import Rival, SentenceEncoder, TextEncoder
from speechde.evaluation.scene import EMBEDDING, Answer, Scene, Skipped, score, spoken_as
from speechde.models.backbone import Backbone
from speechde.text import normalise_text
from speechde.types import Audio, Item
from speechde.weights import resolve

E5 = "packaged:multilingual-e5-small"


def run_baselines(scene: Scene, model_seconds: float) -> dict:
    """``baselines`` of ``metrics.json``: the model itself, then each baseline by name; ``notes`` where there are any.

    Args:
        model_seconds: in which the model's adapter and LLM embedded all queries from their frames.
    """
    own = scene.results.ranks["audio_to_text"]
    seconds = model_seconds + len(scene.utterances) * scene.seconds_to_encode()
    output = {"model": score(scene, "model", Answer(lambda task: Ranking(own[task.subset]), seconds))}
    for name in scene.request.names:
        try:
            output[name] = score(scene, name, baseline(name)(scene))
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

    def rank(task: Retrieval) -> Ranking:
        return task.rank_scores(lambda rows: rng.random((len(task.queries[rows]), len(task.gallery))))

    return Answer(rank)


def untrained(scene: Scene) -> Answer:
    """The model's architecture as its training started: the same seed, no step."""
    fresh = initialised(scene.trained, scene.request.initial)
    return _embedded(scene, stored_embed(fresh.model, fresh.prompt, scene.items, EMBEDDING), scene.seconds_to_encode())


def initialised(trained: TrainedModel, initial: Mapping) -> TrainedModel:
    """A model as it was before its first step; ``initial`` is the configuration group ``model`` of its run."""
    torch.manual_seed(trained.settings.training["seed"])
    names = ("init", "num_layers", "attention", "dropout", "dtype", "attn_implementation")
    backbone = Backbone.load(resolve(initial["source"]), **{name: initial[name] for name in names})
    model = assemble(backbone.model, trained.settings)
    if trained.settings.discrete:
        model.backbone.embedding.reset_audio(initial["audio_init"], torch.from_numpy(trained.quantiser.centroids))
    for modality, own in trained.model.frontends.items():
        if hasattr(own, "set_statistics"):
            model.frontends[modality].set_statistics(own.frame_mean.cpu(), own.frame_std.cpu())
    model = model.to(next(trained.model.parameters()).device).eval()
    return TrainedModel(model, trained.prompt, trained.quantiser, trained.settings)


def oracle(scene: Scene) -> Answer:
    """The true transcript asks through the model's text side: what it leaves are texts that it cannot tell apart."""
    said = {query.id: query.meaning for task in scene.of("audio_to_text") for query in task.queries}
    return _embedded(scene, scene.embed, said=said)


def cascade_chars(scene: Scene) -> Answer:
    """The transcript and the texts compared letter by letter, after ``text.normalise_text`` (``fuzz.ratio``)."""
    heard = scene.transcripts

    def rank(task: Retrieval) -> Ranking:
        asked = [normalise_text(heard.texts[query.id]) for query in task.queries]
        offered = [normalise_text(item.id) for item in task.gallery]
        return task.rank_scores(lambda rows: process.cdist(asked[rows], offered, scorer=fuzz.ratio))

    return Answer(rank, len(scene.utterances) * heard.seconds)


def cascade_text(scene: Scene) -> Answer:
    """The transcript asks through the model's text side."""
    return _cascade(scene, scene.embed)


def cascade_e5(scene: Scene) -> Answer:
    """The transcript asks through multilingual-e5-small."""
    encoder = TextEncoder(resolve(E5))
    answer = _cascade(scene, _texts_of(encoder))
    scene.note_cut(encoder.cut, encoder.max_tokens)
    return answer


def cascade_rival(scene: Scene, name: str) -> Answer:
    """The transcript asks through any SentenceTransformer or mteb model."""
    return _cascade(scene, _texts_of(Rival(name)))


def rival(scene: Scene, name: str) -> Answer:
    """Any SentenceTransformer or mteb model that embeds speech and text."""
    model = Rival(name)
    texts = _texts_of(model)

    def embed(items: Sequence[Item], role: str) -> np.ndarray:
        if isinstance(items[0].parts[0], Audio):
            return model.embed_clips([scene.recordings[item.id] for item in items], scene.condition)
        return texts(items, role)

    return _embedded(scene, embed)


def trained_run(scene: Scene, path: str) -> Answer:
    """Another trained model of this project, such as one trained on all languages that are zero-shot here."""
    other = TrainedModel.load(model_folder(path))
    items = scene.request.items_of(other, scene.condition)
    if missing := [u.id for u in scene.utterances if u.id not in items]:
        raise Skipped(
            f"{len(missing)} recordings cannot be read as its speech encoder reads them ({missing[0]}, first)"
        )
    present = dict.fromkeys(task.subset for task in scene.tasks)
    heard = [lang for lang in present if lang in languages_heard(other.settings.training)]
    scene.notes.append(f"run:{path} was trained on speech of {', '.join(heard) or 'none of these languages'}")
    return _embedded(scene, stored_embed(other.model, other.prompt, items, EMBEDDING), scene.seconds_to_encode(items))


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
BETWEEN_RECORDINGS = ("mean_pooled", "dtw")  # those that have no place among texts
WITH_MODEL = {"cascade": cascade_rival, "rival": rival, "run": trained_run}


def _embedded(scene: Scene, embed: Embed, seconds_before: float = 0.0, said: Mapping[str, str] | None = None) -> Answer:
    """Queries and galleries embedded, the seconds of the queries taken.

    Args:
        seconds_before: of each query, before it is embedded: to encode or to transcribe its clip.
        said: texts that ask in place of the recordings, by their id.
    """
    tasks = {task.subset: spoken_as(task, said) if said else task for task in scene.of("audio_to_text")}
    remembered = embed if isinstance(embed, Remembered) else Remembered(embed)
    remembered([item for task in tasks.values() for item in task.gallery], DOCUMENT)
    start = time.perf_counter()
    remembered([item for task in tasks.values() for item in task.queries], QUERY)
    seconds = time.perf_counter() - start + len(scene.utterances) * seconds_before
    return Answer(lambda task: remembered.rank(tasks[task.subset]), seconds)


def _cascade(scene: Scene, embed: Embed) -> Answer:
    return _embedded(scene, embed, scene.transcripts.seconds, scene.transcripts.texts)


def _texts_of(encoder: SentenceEncoder) -> Embed:
    """``Embed`` of items of one text."""
    return lambda items, role: encoder.embed_texts(
        [(item.lang, item.parts[0].content) for item in items], query=role == QUERY
    )


def _speech_to_speech(scene: Scene, distances: Callable[[list[np.ndarray], list[np.ndarray]], np.ndarray]) -> Answer:
    """Recordings of the same sentence by other speakers (``audio_to_audio`` of the protocol)."""
    tasks = scene.of("audio_to_audio")
    if not tasks:
        raise Skipped(
            "it looks for another speaker's recording of the sentence, and the data name no two speakers of one"
        )
    frames = scene.request.frames()

    def rank(task: Retrieval) -> Ranking:
        queries, gallery = ([frames[item.id] for item in side] for side in (task.queries, task.gallery))
        return task.rank_scores(lambda rows: -distances(queries[rows], gallery))

    seconds = sum(len(task.queries) for task in tasks) * scene.seconds_to_encode()
    return Answer(rank, seconds, "audio_to_audio")


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
