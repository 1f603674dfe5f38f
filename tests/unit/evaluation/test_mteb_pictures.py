"""Pictures through mteb: its mock tasks, and tiny local tasks of its own classes whose scores are ours."""

from __future__ import annotations

import mteb
import numpy as np
import pytest
from datasets import Dataset
from mteb import mocks
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.types import PromptType
from PIL import Image as PillowImage

from speechde import Audio, Image, Item, Text
from speechde.errors import ConfigError, DataError
from speechde.evaluation import mteb as adapter
from speechde.types import SAMPLE_RATE

MOCK_TASKS = (
    mocks.MockAny2AnyRetrievalI2TTask,
    mocks.MockAny2AnyRetrievalT2ITask,
    mocks.MockImageClassificationTask,
    mocks.MockImageClusteringTask,
    mocks.MockImageTextPairClassificationTask,
    mocks.MockVisualSTSTask,
    mocks.MockZeroShotClassificationTask,
)
COUNT = 7
WORDS = [f"a drawing of {number} things" for number in range(COUNT)]


@pytest.fixture
def encoder(tiny_model):
    return adapter.MtebEncoder(str(tiny_model("continuous", sees=True)))


@pytest.fixture
def drawings():
    draw = np.random.default_rng(0)
    return [PillowImage.fromarray(draw.integers(0, 256, (24, 20 + n, 3), np.uint8)) for n in range(COUNT)]


@pytest.fixture
def sounds():
    draw = np.random.default_rng(1)
    return [draw.normal(size=SAMPLE_RATE // 2 + 99 * n).astype(np.float32) for n in range(COUNT)]


def retrieval(category, queries, corpus):
    """mteb's own kind of retrieval over columns that lie here; row n answers query n."""
    names = {"t": "text", "i": "image", "a": "audio"}

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            type="Any2AnyRetrieval", name="LocalPictures", main_score="hit_rate_at_1", description="Local files.",
            reference=None, dataset={"path": "NA", "revision": "NA"}, category=category, eval_splits=["test"],
            eval_langs=["ron-Latn"], modalities=[names[letter] for letter in names if letter in category],
        )  # fmt: skip

        def load_data(self, num_proc=None, **_):
            split = {
                "queries": Dataset.from_dict({"id": [f"q{n}" for n in range(COUNT)], **queries}),
                "corpus": Dataset.from_dict({"id": [f"d{n}" for n in range(COUNT)], **corpus}),
                "relevant_docs": {f"q{n}": {f"d{n}": 1} for n in range(COUNT)},
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return Local()


def scores(encoder, task):
    (result,) = mteb.evaluate(encoder, [task], cache=None, show_progress_bar=False).task_results
    (row,) = result.scores["test"]
    return {k: row[f"hit_rate_at_{k}"] for k in (1, 3, 5)}


@pytest.mark.parametrize("category", ["i2t", "t2i", "it2i", "i2a", "a2i"])
def test_retrieval_gives_the_recall_of_our_vectors(encoder, drawings, sounds, category):
    heard = [{"array": sound, "sampling_rate": SAMPLE_RATE} for sound in sounds]
    columns = {"t": ("text", WORDS), "i": ("image", drawings), "a": ("audio", heard)}
    parts = {"t": [Text(words) for words in WORDS], "i": list(map(Image, drawings)),
             "a": [Audio(sound, SAMPLE_RATE) for sound in sounds]}  # fmt: skip
    sides = category.split("2")
    found = scores(encoder, retrieval(category, *({name: values for name, values in map(columns.get, side)}
                                                  for side in sides)))  # fmt: skip
    query, corpus = (
        # the parts of an item are in mteb's order: text, picture
        [Item(*own, lang="ro") for own in zip(*(parts[one] for one in sorted(side)[::-1]), strict=True)]
        for side in sides
    )
    query, corpus = map(encoder.encoder.embed, (query, corpus))
    similar = query @ corpus.T
    ranks = (similar > similar.diagonal()[:, None]).sum(1)
    assert found == {k: pytest.approx((ranks < k).mean(), abs=1e-5) for k in (1, 3, 5)}


def test_mock_tasks(encoder):
    results = mteb.evaluate(encoder, [task() for task in MOCK_TASKS], cache=None, show_progress_bar=False)
    assert len(results.task_results) == len(MOCK_TASKS)
    assert encoder.mteb_model_meta.modalities == ["text", "image", "audio"]


def test_a_model_that_does_not_see(tiny_model, encoder, drawings):
    """It says so to mteb, which then asks it nothing of pictures."""
    deaf = adapter.MtebEncoder(str(tiny_model("continuous")))
    assert deaf.mteb_model_meta.modalities == ["text", "audio"]
    task = retrieval("i2t", {"image": drawings}, {"text": WORDS})
    task.load_data()
    rows = Dataset.from_dict({"image": drawings[:1]})
    options = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}

    class Loader(list):
        dataset = rows

    with pytest.raises(ConfigError, match="no frontend for image"):
        deaf.encode(Loader([{"image": drawings[:1]}]), prompt_type=PromptType.query, **options)
    Loader.dataset = Dataset.from_dict({"video": ["a"]})
    with pytest.raises(DataError, match=r"rows of video, and its category is i2t: .*\(the letters t, i, a\)"):
        encoder.encode(Loader(), prompt_type=PromptType.query, **options)
