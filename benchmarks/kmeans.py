"""k-means of Whisper frames: fit 1,024 clusters, then assign every frame, against scikit-learn and faiss.

``kmeans_faiss``: faiss's own ``Kmeans`` with the same iterations and seed, on frames that are standardised already.
``kmeans_sklearn``: ``MiniBatchKMeans`` as it comes; it looks at less data, so its quantisation error stands beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import faiss
import numpy as np

from benchmarks.harness import Different, Result, paired, timed
from benchmarks.inputs import Inputs
from benchmarks.speech_encoder import encode
from speechde.features.kmeans import fit_kmeans
from speechde.features.whisper import WhisperFrames
from speechde.media.audio import load_audio, trim_silence

ITERATIONS = 25
# ours may have at most this many times a peer's quantisation error; few clusters end in another minimum from each start
ERROR, ERROR_TINY = 1.01, 1.1


def run(inputs: Inputs) -> Iterator[Result]:
    """Two rows; that of scikit-learn where it is installed."""
    clips = [trim_silence(load_audio(u.audio), 40.0) for u in inputs.clips[: 6 if inputs.tiny else 256]]
    frames = np.concatenate(encode(WhisperFrames(inputs.encoder, dtype=inputs.dtype), clips)).astype(np.float32)
    units = 8 if inputs.tiny else 1024
    scaled = np.ascontiguousarray((frames - frames.mean(0)) / (frames.std(0) + 1e-5))
    yield _row(inputs, "faiss", "faiss.Kmeans and IndexFlatL2", 1.0, frames, units, scaled, _faiss)
    try:
        import sklearn  # noqa: F401
    except ImportError:
        return
    yield _row(inputs, "sklearn", "scikit-learn MiniBatchKMeans", 2.0, frames, units, scaled, _sklearn)


Fit = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def _row(inputs: Inputs, name, peer_name, target, frames, units, scaled, fit: Fit) -> Result:
    errors: dict[str, float] = {}

    def quantise() -> tuple[np.ndarray, np.ndarray]:
        kmeans = fit_kmeans(frames, units, ITERATIONS)
        return kmeans.centroids, kmeans.assign(frames)

    def measured(side: str, function: Callable) -> float:
        seconds, (centroids, assigned) = timed(function)
        errors[side] = float(((scaled - centroids[assigned]) ** 2).sum(1).mean())
        return seconds

    runs = paired(lambda: measured("ours", quantise), lambda: measured("peer", lambda: fit(scaled, units)),
                  rounds=1 if inputs.tiny else 2, warm_up=False)  # fmt: skip
    if errors["ours"] > (ERROR_TINY if inputs.tiny else ERROR) * errors["peer"]:
        raise Different(f"k-means: mean squared error {errors['ours']:.4g}, {peer_name} has {errors['peer']:.4g}")
    result = Result(f"kmeans_{name}", f"k-means, {units} clusters: fit and assign {len(frames)} frames",
                    peer_name, "s", runs, target, lower_is_better=True)  # fmt: skip
    result.facts = {"frames": len(frames), "dim": frames.shape[1], "iterations, at most": ITERATIONS,
                    "mean squared error": errors}  # fmt: skip
    return result


def _faiss(scaled: np.ndarray, units: int) -> tuple[np.ndarray, np.ndarray]:
    kmeans = faiss.Kmeans(scaled.shape[1], units, niter=ITERATIONS, seed=0, min_points_per_centroid=1,
                          max_points_per_centroid=2048)  # fmt: skip
    kmeans.train(scaled)
    return kmeans.centroids, kmeans.assign(scaled)[1]


def _sklearn(scaled: np.ndarray, units: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(units, random_state=0).fit(scaled)
    return model.cluster_centers_, model.predict(scaled)
