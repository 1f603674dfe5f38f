"""A soup is the mean of its ingredients, names them, and refuses what is no mean of anything."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from speechde.checkpoint.folder import TrainedModel
from speechde.checkpoint.soup import make_soup, mean_of
from speechde.config import DataConfig
from speechde.corpora.load import check_split
from speechde.errors import AssetError, ConfigError

KINDS = ["discrete", "continuous"]


@pytest.fixture
def sibling(tiny_model, tmp_path):
    """``sibling(name, kind, change)`` → folder of a model of other weights and another record, changed further."""

    def write(name, kind="continuous", change=lambda trained: None, seed=7, **record):
        trained = TrainedModel.load(tiny_model(kind))
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in trained.model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        record = trained.settings.training | {"seed": seed} | record
        trained.settings = replace(trained.settings, training=record)
        trained.card = None
        change(trained)
        trained.save(tmp_path / name)
        return tmp_path / name

    return write


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_equal(one, other):
    assert one.keys() == other.keys() and len(one) > 5
    assert [
        name for name in one if not torch.equal(one[name], other[name]) or one[name].dtype != other[name].dtype
    ] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shares", [None, [3.0], [1.0, 1.0], [2.0, 1.0], [0.3, 0.2, 0.1]])
def test_copies_of_one_model_are_that_model(sibling, tmp_path, kind, shares):
    folder = sibling("a", kind)
    soup = make_soup([folder] * len(shares or [1]), shares)
    soup.save(tmp_path / "soup")
    assert_equal(weights(tmp_path / "soup"), weights(folder))
    loaded = TrainedModel.load(tmp_path / "soup")
    assert loaded.fingerprint == soup.fingerprint == TrainedModel.load(folder).fingerprint


@pytest.mark.parametrize("given", [[2, 1, 1], [1e308, 5e307, 5e307]])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_that_of_the_definition(sibling, tiny_model, tmp_path, kind, given):
    folders = [tiny_model(kind), sibling("a", kind), sibling("b", kind, seed=8)]
    make_soup(folders, given).save(tmp_path / "soup")
    found, parts = weights(tmp_path / "soup"), [weights(folder) for folder in folders]
    for name, tensor in found.items():
        expected = sum(share * part[name].double() for share, part in zip((0.5, 0.25, 0.25), parts, strict=True))
        torch.testing.assert_close(tensor, expected.float(), rtol=0, atol=0)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert TrainedModel.load(tmp_path / "soup").fingerprint not in {TrainedModel.load(f).fingerprint for f in folders}


def test_a_number_format_of_few_bits_is_kept_and_loses_nothing_on_the_way(sibling, tmp_path):
    def halve(trained):
        trained.model.backbone.model.to(torch.bfloat16).config.dtype = torch.bfloat16

    folders = [sibling(name, change=halve, seed=seed) for seed, name in enumerate("abc")]
    make_soup(folders).save(tmp_path / "soup")
    found, parts = weights(tmp_path / "soup"), [weights(folder) for folder in folders]
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16, torch.float32}
    for name, tensor in found.items():
        exact = sum(part[name].double() for part in parts) / 3
        rounding = 1.001 * torch.finfo(tensor.dtype).eps / 2
        torch.testing.assert_close(tensor.double(), exact, rtol=rounding, atol=1e-15)
    make_soup([folders[0]] * 2).save(tmp_path / "copies")
    assert_equal(weights(tmp_path / "copies"), parts[0])
    with pytest.raises(ConfigError, match=r"llm\.dtype is 'float32' and not 'bfloat16'"):
        make_soup([folders[0], sibling("d")])


def test_other_tensors_than_numbers_with_a_point_are_those_of_the_first():
    states = [
        {"count": torch.tensor(3), "w": torch.tensor([1.0])},
        {"count": torch.tensor(4), "w": torch.tensor([2.0])},
    ]
    mean = mean_of(states, [0.5, 0.5])
    assert mean["count"] == 3 and mean["w"] == 1.5


def test_the_record_and_the_card_name_every_ingredient(sibling, tiny_model, tmp_path):
    data = {"corpus": "made up", "licences": {"made up": "CC0-1.0"}, "train": {"languages": 2, "recordings": 9},
            "dev": {"languages": 1}}  # fmt: skip
    first = sibling("a", seen=["es_419"], seen_synthetic=["de_de", "ro_ro"], zero_shot=["fr_fr", "da_dk"], data=data,
                    llm={"source": "packaged:multilingual-e5-small", "sha256": "a" * 64})  # fmt: skip
    other = data | {"dev": {"languages": 2}, "licences": {"more": "CC-BY-4.0"}, "corpus": "more"}
    second = sibling("b", seen=["ro_ro"], zero_shot=["es_419", "da_dk"], data=other, recipe="another")
    make_soup([first, second], [3, 1], "0456def").save(tmp_path / "soup")
    record = TrainedModel.load(tmp_path / "soup").settings.training
    assert (record["seen"], record["seen_synthetic"]) == (["es_419", "ro_ro"], ["de_de"])
    assert record["zero_shot"] == ["fr_fr", "da_dk"] and record["commit"] == "0456def"
    assert record["recipe"] == "soup" and record["overrides"] == "0.75*tiny/default-s7+0.25*another/default-s7"
    assert record["data"] == {"corpus": "made up+more", "train": data["train"],
                              "licences": {"made up": "CC0-1.0", "more": "CC-BY-4.0"}}  # fmt: skip
    for one, folder, share in zip(record["soup"], (first, second), (0.75, 0.25), strict=True):
        trained = TrainedModel.load(folder)
        assert one == {"source": str(folder), "fingerprint": trained.fingerprint, "weight": share,
                       "record": trained.settings.training}  # fmt: skip
    card = (tmp_path / "soup/README.md").read_text("utf-8")
    assert "# speechde: the mean of 2 models\n" in card and str(tmp_path) not in card
    for one in record["soup"]:
        assert (
            f"| {one['weight']} | {one['record']['recipe']}/default-s7 | `{one['fingerprint']}` | `0123abc` |" in card
        )
    assert ModelCard(card).data.base_model == ["intfloat/multilingual-e5-small"] and "| CC-BY-4.0 |" in card


def test_sentences_that_an_ingredient_was_trained_on_stay_out_of_tests(sibling, tmp_path):
    """A soup of soups, too."""
    first, second = (sibling(name, config={"data": {"name": "stamps", "split_seed": n}}) for n, name in enumerate("ab"))
    make_soup([first, second]).save(tmp_path / "soup")
    make_soup([tmp_path / "soup"]).save(tmp_path / "again")
    for folder in ("soup", "again"):
        with pytest.raises(ConfigError, match=r"with data\.split_seed=1"):
            check_split(DataConfig(split_seed=0), TrainedModel.load(tmp_path / folder).settings.training)


def test_settings_of_training_may_differ(sibling, tmp_path):
    def other(trained):
        trained.settings = replace(trained.settings, frontend=replace(trained.settings.frontend, drop=0.9, noise=0.5))
        trained.model.backbone.config.hidden_dropout_prob = 0.3

    assert make_soup([sibling("a"), sibling("b", change=other)]).settings.frontend.drop == 0.0


def settings(**groups):
    def change(trained):
        changed = {name: replace(getattr(trained.settings, name), **own) for name, own in groups.items()}
        trained.settings = replace(trained.settings, **changed)

    return change


def prompts(trained):
    trained.settings = replace(trained.settings, prompts={"qa-query": "{item}"})


def sizes(trained):
    trained.settings = replace(trained.settings, dims=(8, 4))


def statistics(trained):
    trained.model.frontends["speech"].frame_mean += 1


def quantiser(trained):
    trained.quantiser.kmeans.centroids[:] += 1


def prefixes(trained):
    trained.prompt.table["fr_fr"]["speech"] = "[Other] "


def tokens(trained):
    trained.prompt.tokenizer.add_tokens(["<new>"])


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("continuous", settings(speech={"layer": 1}), "speech.layer is 1 and not -1"),
        ("continuous", settings(prefix={"text": "query: "}), "prefix.text is 'query: ' and not "),
        ("continuous", settings(head={"normalise": False}), "head.normalise is False and not True"),
        (
            "continuous",
            settings(speech={"encoder_key": {"encoder": "x"}}),
            "speech.encoder_key.encoder is 'x' and not 'whisper'",
        ),
        ("continuous", prompts, "prompts.qa-query is '{item}' and not None"),
        ("continuous", sizes, "dims is (8, 4) and not ()"),
        ("continuous", statistics, "statistics.frontends.speech.frame_mean is "),
        ("discrete", quantiser, "quantiser is "),
        ("continuous", prefixes, "prefixes.fr_fr.speech is '[Other] ' and not "),
        ("continuous", tokens, "tokenizer is "),
    ],
)
def test_another_kind_of_model_is_refused_by_its_first_difference(sibling, kind, change, message):
    first, second = sibling("a", kind), sibling("b", kind, change)
    with pytest.raises(ConfigError) as error:
        make_soup([first, second])
    assert message in str(error.value) and str(second) in str(error.value) and "init=MODEL" in str(error.value)


def test_other_architectures_are_refused(tiny_model, sibling):
    first = sibling("a")
    with pytest.raises(ConfigError, match=r"frontend\.kind is 'discrete' and not 'continuous'"):
        make_soup([first, tiny_model("discrete")])
    with pytest.raises(ConfigError, match=r"head\.dim is 4 and not 8"):
        make_soup([first, tiny_model(dim=4)])
    with pytest.raises(ConfigError, match=r"its llm\.architectures is \['XLMRobertaModel'\] and not"):
        make_soup([first, tiny_model(llm="xlm-roberta")])


@pytest.mark.parametrize(
    ("count", "shares", "message"),
    [
        (0, None, "a soup of no model"),
        (2, [1.0], "1 weights for 2 models"),
        (2, [1.0, 0.0], r"the weight 0\.0 is not a positive number"),
        (1, [float("nan")], "the weight nan is not"),
        (1, [float("inf")], "the weight inf is not"),
        (2, [1.0, -1.0], r"the weight -1\.0 is not"),
    ],
)
def test_weights_that_do_not_fit(tiny_model, count, shares, message):
    with pytest.raises(ConfigError, match=message):
        make_soup([tiny_model()] * count, shares)


def test_what_is_no_model_or_has_no_record(tiny_model, sibling, tmp_path):
    with pytest.raises(AssetError, match="is not a trained model"):
        make_soup([tiny_model(), tmp_path])
    folder = shutil.copytree(tiny_model(), tmp_path / "m")
    values = json.loads((folder / "speechde.json").read_text("utf-8"))
    del values["training"]
    (folder / "speechde.json").write_text(json.dumps(values), "utf-8")
    with pytest.raises(AssetError, match="has no record of training"):
        make_soup([folder])


def test_what_a_version_did_not_state_is_no_difference(tiny_model, sibling, tmp_path):
    folder = shutil.copytree(tiny_model(), tmp_path / "new")
    values = json.loads((folder / "speechde.json").read_text("utf-8"))
    for group, key, value in (("frontend", "downsample", "conv"), ("head", "projection_gain", 1.0)):
        assert key not in values[group]
        values[group][key] = value
    (folder / "speechde.json").write_text(json.dumps(values), "utf-8")
    soup = make_soup([folder, tiny_model()])
    name = "projection.weight"
    np.testing.assert_array_equal(soup.model.state_dict()[name], weights(folder)[name])
