"""The plan against the model that is built, formulas against sums by hand, sampled headers against true lengths."""

from __future__ import annotations

import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.flop_counter import FlopCounterMode

from speechde.config import build
from speechde.errors import ConfigError, DataError
from speechde.features import sets
from speechde.features.encoders import load_speech_encoder
from speechde.features.kmeans import KMeans
from speechde.features.sets import build_encoder
from speechde.features.units import Quantiser
from speechde.media.containers import locator
from speechde.models.backbone import Backbone
from speechde.models.frontends.patches import PatchFrontend
from speechde.training import data, run
from speechde.training.build import build_model, model_shape
from speechde.training.features import Features
from speechde.training.plan import devices, plan
from speechde.training.plan.costs import ADAM_BYTES, DECODED_SECONDS, Clips, Cost, Stack, encoder_stack, stack

STATED = {"plan__train_clips": 1000, "plan__train_hours": 2.0, "plan_only": True}


class NoPrompt:
    """Ids by the length of the text."""

    def text_ids(self, text, lang):
        return list(text)

    def speech_ids(self, lang):
        return [1, 2]


def planned(config):
    return plan.make_plan(config, plan.stated_sets(config))


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("stamps", {}),
        ("stamps", {"model__freeze": [], "model__dim": 8}),
        ("stamps", {"model__num_layers": 1}),
        ("stamps", {"frontend__unit_layers": 1}),
        ("stamps", {"model__lora": {"rank": 2}, "model__dtype": "bfloat16"}),
        ("quickstart_narrow", {}),
        ("quickstart_narrow", {"frontend__downsample": "attention", "model__freeze": ["embedding.text.*"]}),
        ("quickstart_narrow", {"model__speech_layer": 0, "frontend__layers": 0}),
    ],
)
def test_counts_are_those_of_the_built_model(tiny_run, recipe, overrides):
    config = tiny_run(recipe, **STATED, **overrides)
    found = planned(config)
    encoder = build_encoder(config.frontend)
    quantiser = Quantiser(KMeans(*(np.ones(shape, np.float32) for shape in ((8, 16), 16, 16))))
    one = np.ones(16, np.float32)
    features = Features([], None, quantiser, one, one, {}, [], {})
    model = build_model(config, encoder, features).model
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.memory["weights"] == sum(p.numel() * p.element_size() for p in model.parameters())
    assert found.memory["gradients and Adam"] == found.trained * (4 + ADAM_BYTES)
    backbone = [p.requires_grad for name, p in model.backbone.named_parameters() if name != "embedding.audio"]
    assert found.text_is_frozen == (not any(backbone))


def test_a_frontend_for_pictures_is_counted(tiny_run, tiny_vision):
    blind = planned(tiny_run(**STATED))
    image = {"kind": "patches", "encoder": str(tiny_vision), "hidden": 8, "heads": 2, "layers": 0}
    seeing = planned(tiny_run(**STATED, image=image))
    frontend = PatchFrontend(16, 16, 1.0, hidden=8, heads=2)
    assert seeing.parameters - blind.parameters == sum(p.numel() for p in frontend.parameters())


def test_an_average_of_the_weights_takes_their_memory_and_disk(tiny_run):
    plain, averaged = (planned(tiny_run("stamps", **STATED, trainer__average__kind=kind)) for kind in ("none", "tail"))
    own = 4 * plain.trained
    assert averaged.memory == plain.memory | {"average of the weights": own}
    assert averaged.disk == plain.disk | {"checkpoints": plain.disk["checkpoints"] + 2 * own}


def test_conditions_of_the_evaluation_are_counted(tiny_run):
    sizes = {**STATED, "plan__eval_clips": 500, "plan__eval_hours": 1.0}
    clean, heard = (planned(tiny_run(**sizes, eval__conditions=names)) for names in (["clean"], ["snr0", "speed0.8"]))
    for name, times in (("encoding evaluation", 1 + 1 + 1 / 0.8), ("embedding evaluation", 3)):
        before, after = (next(s for s in each.stages if s.name == name) for each in (clean, heard))
        assert after.flops == pytest.approx(times * before.flops)
    frames = [next(size for what, size in each.disk.items() if what.startswith("frames")) for each in (clean, heard)]
    hours = 2.0 * len(tiny_run(**sizes).frontend.speeds)  # of training, about: speeds change it a little
    assert frames[1] / frames[0] == pytest.approx((hours + 3.25) / (hours + 1), rel=0.05)


LLMS = ["gemma3", "gemma2", "embeddinggemma", "embedding_gemma2", "llama", "mistral", "qwen2", "qwen3", "bert",
        "xlm-roberta", "modernbert", "mt5", "t5", "t5gemma", "t5gemma2"]  # fmt: skip


@pytest.mark.parametrize("name", LLMS)
def test_every_llm_has_a_shape(tiny_run, tiny_llm, name):
    """Every run prints a plan, so none may fail on a model that can be trained."""
    config = tiny_run(**STATED, model__source=str(tiny_llm(name)), plan__device="l4")
    backbone = Backbone.load(tiny_llm(name), audio_tokens=8)
    projection = backbone.output_width**2
    assert planned(config).parameters == sum(p.numel() for p in backbone.parameters()) + projection


@pytest.mark.parametrize(
    "name",
    ["wav2vec2", "xls-r", "hubert", "wavlm", "data2vec-audio", "wav2vec2-bert", "parakeet_ctc", "gemma3n", "gemma4"],
)
def test_an_encoder_without_its_weights(tiny_speech_encoder, name):
    """Shape, rate and parameters are those of the real one, and it knows that it has no weights."""
    folder = tiny_speech_encoder(name)
    real, shape = (load_speech_encoder(folder, layer=1, device=device) for device in ("cpu", "meta"))
    assert (shape.rate, shape.dim, shape.layer) == (real.rate, real.dim, real.layer)
    assert encoder_stack(shape) == encoder_stack(real)
    assert shape.describe()["weights"] is None and real.describe()["weights"]


def test_whisper_layers_above_the_chosen_one_are_not_counted(tiny_whisper):
    encoders = [load_speech_encoder(tiny_whisper, layer=n, device="meta") for n in (1, 2)]
    layer = sum(p.numel() for p in encoders[0].model.layers[1].parameters())
    one, two = (encoder_stack(encoder)[0].parameters for encoder in encoders)
    assert two - one == layer


def test_flops_by_hand():
    toy = Stack(parameters=100, trained=100, layers=2, width=8)
    assert toy.forward(5) == 2 * 100 * 5 + 4 * 2 * 8 * 25
    assert toy.training(5) == 3 * toy.forward(5)  # 6·N·D
    assert toy.training(5, checkpointed=True) == 4 * toy.forward(5)
    frozen = replace(toy, trained=0)
    assert frozen.training(5) == 2 * (2 * 100 * 5) + 3 * (4 * 2 * 8 * 25)  # gradients pass through, none is kept
    lora = replace(toy, parameters=110, trained=10)
    assert lora.training(1) == 2 * 2 * 110 + 2 * 10 + 3 * 4 * 2 * 8


@pytest.mark.parametrize("name", ["llama", "qwen3", "bert"])
def test_the_rule_agrees_with_counted_flops(tiny_llm, name):
    """Up to norms and biases, which are parameters but no products, and to the width of attention."""
    backbone = Backbone.load(tiny_llm(name), attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.randn(1, 8, 16), torch.ones(1, 8, dtype=torch.bool))
    assert stack(backbone).forward(8) == pytest.approx(counter.get_total_flops(), rel=0.15)
    assert 0.5 * stack(backbone).parameters < stack(backbone, 1).parameters < 0.6 * stack(backbone).parameters


def test_sampled_hours_are_the_true_hours(clips, make_wav, tmp_path):
    """Plain files and stated lengths; a seeded sample; unreadable clips take their share off."""
    lengths = [0.3, 0.5, 0.9, 0.7]
    audio = [str(make_wav(f"{i}.wav", seconds)) for i, seconds in enumerate(lengths[:3])] + ["no.tar.gz::d.wav"]
    utterances = [replace(clips[0], id=str(i), audio=path, text="x" * (i + 1)) for i, path in enumerate(audio)]
    utterances[3] = replace(utterances[3], seconds=0.7)
    found = plan.survey(utterances, NoPrompt(), 100, seed=0, max_seconds=0.7)
    assert found.hours == pytest.approx(sum(lengths) / 3600)
    assert found.seconds == pytest.approx(0.5) and found.longest == pytest.approx(0.7)
    assert (found.tokens, found.prefix, found.texts, found.sampled, found.unreadable) == (2.5, 2, 4, 4, 0)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    bad = [replace(clips[0], audio=str(tmp_path / name)) for name in ("bad.wav", "absent.wav")]
    found = plan.survey(utterances + bad, NoPrompt(), 100, seed=0)
    assert (found.count, found.sampled, found.unreadable) == (6, 6, 2)
    assert found.hours == pytest.approx(sum(lengths) / 3600)
    with pytest.raises(DataError, match=r"none of 2 sampled clips .*wav"):
        plan.survey(bad, NoPrompt(), 100, seed=0)
    halves = [plan.survey(utterances, NoPrompt(), 2, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert halves[0] == halves[1] and len({half.hours for half in halves}) > 1
    assert all(half.sampled == 2 and half.count == 4 for half in halves)


def test_no_archive_is_opened_for_a_plan(tiny_run, clips, tmp_path, monkeypatch, capsys):
    """A member of a compressed archive costs all that lies before it: every start would read gigabytes."""
    with tarfile.open(tmp_path / "clips.tar.gz", "w:gz") as archive:
        for u in clips:
            archive.add(u.audio, u.id)
    inside = [replace(u, audio=locator(tmp_path / "clips.tar.gz", u.id), seconds=0.3) for u in clips]
    for module in ("speechde.media.sources", "speechde.media.containers"):
        monkeypatch.setattr(f"{module}.read_member", lambda *_: pytest.fail("opened"))
    hours = run.train(tiny_run(plan_only=True, utterances=inside))["plan"]["sets"]["train"]["hours"]
    assert hours == pytest.approx(10 * 0.3 / 3600)
    assert "0 unreadable)" in capsys.readouterr().out
    unknown = [replace(u, seconds=None, text="word " * 8 + u.id) for u in inside]
    found = run.train(tiny_run(plan_only=True, utterances=unknown))["plan"]["sets"]["train"]
    tokens = found["tokens"] - found["prefix"]
    assert found["guessed"] == 10 and found["seconds"] == pytest.approx(tokens / plan.TEXT_TOKENS_PER_SECOND, rel=0.2)
    assert "in archives, taken to last 0.25 s a token" in capsys.readouterr().out


def test_the_first_process_alone_plans(tiny_run, monkeypatch, capsys):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    monkeypatch.setattr(data, "durations", lambda *_: pytest.fail("headers were read"))
    monkeypatch.setattr(plan, "duration", lambda *_: pytest.fail("headers were read"))
    assert run.train(tiny_run(plan_only=True)) == {} and not capsys.readouterr().out


def test_the_plan_says_what_evaluation_costs_with_and_without_a_sample(tiny_run, capsys):
    of = {n: run.train(tiny_run(plan_only=True, eval__per_language=n))["plan"] for n in (None, 1)}
    assert of[None]["sets"]["evaluation"]["count"] == 9 and of[1]["sets"]["evaluation"]["count"] == 3
    assert set(of[None]["per_language"]) == {"50", "null"} and set(of[1]["per_language"]) == {"1", "null"}
    for found, asked in ((of[None], "null"), (of[1], "1")):
        stages = sum(stage["seconds"] for stage in found["stages"] if "evaluation" in stage["name"])
        assert found["per_language"][asked] == pytest.approx(stages)
    assert of[1]["per_language"]["null"] == pytest.approx(3 * of[1]["per_language"]["1"])
    assert "evaluation by eval.per_language: 0 s with 1, 0 s with null" in capsys.readouterr().out


def test_only_the_plan(tiny_run, monkeypatch, tmp_path, capsys):
    """No run directory, no features, no weights."""
    config = tiny_run("stamps", plan_only=True)
    for owner, name in ((Backbone, "load"), (sets, "load_speech_encoder"), (run, "build_model")):
        monkeypatch.setattr(owner, name, None)
    monkeypatch.setattr("speechde.features.whisper.weights_hash", None)
    before = sorted(tmp_path.rglob("*"))
    found = run.train(config)["plan"]
    assert sorted(tmp_path.rglob("*")) == before
    printed = capsys.readouterr().out
    assert "lengths and texts of 25 clips, 0 unreadable" in printed
    assert found["sets"]["train"]["count"] == 10 and found["sets"]["evaluation"]["count"] == 9
    assert found["sets"]["train"]["hours"] == pytest.approx(10 * 0.3 / 3600)
    assert "epochs     of the recorded clips: es_419 0.8, fr_fr 0.8" in printed  # 2 steps × 4 of 10 clips


def test_a_run_prints_and_keeps_its_plan(tiny_run, capsys):
    config = tiny_run()
    run.train(config)
    assert capsys.readouterr().out.index("plan (estimates") >= 0
    assert (run.run_directory(config) / "plan.json").is_file()


def test_stated_sizes(tiny_run, monkeypatch):
    monkeypatch.setattr(data, "load_corpus", None)
    sizes = {"plan__dev_clips": 10, "plan__dev_hours": 0.5, "plan__device": "h100", "plan__devices": 8}
    found = run.train(tiny_run(**STATED, **sizes, plan__usd_per_device_hour=2.0))["plan"]
    assert set(found["sets"]) == {"train", "dev"} and found["sets"]["train"]["seconds"] == pytest.approx(7.2)
    encoding, training = (next(s for s in found["stages"] if s["name"].startswith(n)) for n in ("encoding", "training"))
    assert (encoding["devices"], training["devices"]) == (8, 1)
    speeds = sum(1 / speed for speed in (1.0, 0.9, 1.1, 0.8, 1.2))
    assert encoding["seconds"] == pytest.approx((2 * 3600 * speeds + 1800) / DECODED_SECONDS / 8)
    again = planned(tiny_run(**STATED, **sizes, plan__usd_per_device_hour=2.0))
    assert again.device_hours == pytest.approx(sum(s.seconds * s.devices for s in again.stages) / 3600)
    assert "USD when every device is kept" in plan.format_plan(again)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"plan__train_hours": None}, r"plan\.train_clips=1000 and plan\.train_hours=None belong together"),
        ({"plan__eval_clips": 5}, r"plan\.eval_clips=5 and plan\.eval_hours=None"),
        ({"plan_only": False}, r"add plan_only=true"),
        ({"plan__train_clips": None, "plan__train_hours": None, "plan__dev_clips": 1, "plan__dev_hours": 1.0},
         r"set plan\.train_clips and plan\.train_hours too"),
        ({"plan__device": "h10"}, r"plan\.device: 'h10' is not known; allowed: a10, .*Did you mean 'h100'\?"),
        ({"frontend__speeds": []}, r"frontend\.speeds=\[\]"),
        ({"plan__devices": 0}, r"plan\.devices=0"),
        ({"plan__utilisation": 0.0}, r"plan\.utilisation=0\.0"),
    ],
)  # fmt: skip
def test_settings_that_make_no_plan(tiny_run, overrides, message):
    with pytest.raises(ConfigError, match=message):
        run.train(tiny_run(**(STATED | overrides)))


def test_more_layers_cost_more_and_checkpointing_saves_memory(tiny_run):
    def of(**overrides):
        return planned(tiny_run(**STATED, plan__device="rtx4090", model__freeze=[], **overrides))

    whole, half, checkpointed = of(), of(model__num_layers=1), of(model__gradient_checkpointing=True)
    flops = [next(s.flops for s in p.stages if s.name == "training") for p in (whole, half, checkpointed)]
    assert flops[1] < 0.6 * flops[0] and flops[2] == pytest.approx(4 / 3 * flops[0])
    assert checkpointed.memory["activations"] < whole.memory["activations"]
    assert "fits in 24.0 GB" in plan.format_plan(whole)


def test_languages_of_synthetic_speech_alone_take_their_share(tiny_run):
    """Half of the training is theirs, and of the rest as much is synthetic as without them."""
    config = tiny_run(**STATED)
    encoder = load_speech_encoder(config.frontend.encoder, device="meta")
    sets = plan.stated_sets(config)
    sets["synthetic"] = replace(sets["train"], seconds=1.0)
    recorded = sets["train"].seconds * np.mean([1 / speed for speed in config.frontend.speeds])
    for langs, share in (([], 0.4), (["de_de"], 0.5 + 0.5 * 0.4)):
        config.tasks["speech"].shares["synthetic"], config.data.synthetic.langs = 0.4, langs
        cost = Cost(config, encoder, model_shape(config, encoder), sets)
        assert cost.seconds == pytest.approx((1 - share) * recorded + share)


def test_translations_take_their_share_of_the_batch(tiny_run):
    config = tiny_run(**STATED, model__freeze=[])
    encoder = load_speech_encoder(config.frontend.encoder, device="meta")
    cost = Cost(config, encoder, model_shape(config, encoder), plan.stated_sets(config))
    clip, text = cost.speech_stack.training(cost.speech), cost.text_stack.training(cost.text)
    assert cost.training() == pytest.approx(2 * 4 * (clip + text))  # 2 steps of 4 pairs
    config.tasks["speech"].shares["translation"] = 0.25
    found = planned(config)
    assert next(s.flops for s in found.stages if s.name == "training") == pytest.approx(2 * (3 * clip + 5 * text))
    assert "25% of them text with text" in plan.format_plan(found)


def test_several_processes_share_the_batch_and_with_fsdp_the_weights(tiny_run, monkeypatch):
    def of(**overrides):
        return planned(tiny_run(**STATED, plan__device="rtx4090", model__freeze=[], **overrides))

    def training(found):
        return next(s for s in found.stages if s.name == "training")

    one, two, sharded = of(), of(trainer__devices=2), of(trainer__devices=2, trainer__strategy="fsdp")
    assert training(two).flops == training(one).flops and training(two).devices == two.processes == 2
    assert training(two).seconds == pytest.approx(training(one).seconds / 2)
    assert two.memory["activations"] == pytest.approx(one.memory["activations"] / 2)
    for name in ("weights", "gradients and Adam", "bfloat16 copies"):
        assert (two.memory[name], sharded.memory[name]) == (one.memory[name], one.memory[name] / 2)
    printed = plan.format_plan(two)
    assert "2 × " in printed and "; 1 encode, 2 train" in printed and "of training on each device:" in printed
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert of(trainer__devices=1).processes == 4  # torchrun decides


def test_cached_gradients_cost_a_forward_pass_and_keep_the_activations_of_a_part(tiny_run):
    def of(**overrides):
        config = tiny_run(**STATED, model__freeze=[], trainer__batch_size=64, **overrides)
        encoder = load_speech_encoder(config.frontend.encoder, device="meta")
        return Cost(config, encoder, model_shape(config, encoder), plan.stated_sets(config))

    plain, cached, whole = of(), of(trainer__micro_batch=4), of(trainer__micro_batch=64)
    again = plain.speech_stack.forward(plain.speech) + plain.text_stack.forward(plain.text)
    assert cached.training() == pytest.approx(plain.training() + 2 * 64 * again)  # 2 steps of 64 pairs
    assert whole.training() == plain.training() and whole.memory(torch.float32) == plain.memory(torch.float32)
    assert cached.memory(torch.float32)["activations"] < plain.memory(torch.float32)["activations"] / 16


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40", None),
        ("Tesla T4", None),
    ],
)
def test_names_of_devices(name, row):
    assert devices.recognise(name) == row


def test_a_timed_device(monkeypatch):
    monkeypatch.setattr(devices, "SIZE", 64)
    monkeypatch.setattr(devices, "TIMED_SECONDS", 0.01)
    found = devices.find_device(None, torch.float32, cuda=False)
    assert found.peak > 1e7 and found.memory > 1e8 and "timed 64×64 product in float32" in found.source
    sheet = devices.find_device("a100", torch.float32, cuda=False)
    assert sheet.peak == 156e12 and sheet.reached < found.reached  # TF32
    assert devices.find_device("cpu", torch.bfloat16, cuda=False).reached < sheet.reached
    monkeypatch.setattr(devices, "TIMED_SECONDS", 0.0)
    assert 0 < devices.find_device(None, torch.float32, cuda=False).peak < float("inf")  # one product at least


def test_an_empty_set_costs_nothing(tiny_run):
    assert plan.stated("dev", None, None, 4.0) == Clips(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
    found = planned(tiny_run(**STATED))
    assert next(s for s in found.stages if s.name.startswith("dev recall")).flops == 0
    assert build({"plan": {"devices": 2}}).plan.devices == 2
