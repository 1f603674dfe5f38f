"""Every validated language model, built small from its real transformers config, shown to do what the lists claim.

One row per architecture and variant; the configs are ``TINY`` in ``tests/conftest.py``. A model type enters the lists
of ``speechde/models/attention.py`` together with its row here.
"""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch
import transformers.integrations.flash_attention as flash
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, AutoTokenizer

from speechde.checkpoint.folder import TrainedModel, assemble
from speechde.errors import ConfigError
from speechde.features.kmeans import fit_kmeans
from speechde.features.units import Quantiser
from speechde.models.attention import BIDIRECTIONAL_DECODERS, ENCODERS
from speechde.models.backbone import Backbone, _skipped
from speechde.models.embed import embed_items
from speechde.models.frontends.base import pad_items
from speechde.models.loading import load_config
from speechde.models.lora import add_lora, merge_lora
from speechde.models.prompt import Prompt
from speechde.types import Audio, Item, Text

# checkpoint → model type of its text part
DECODERS = {
    "gemma2": "gemma2",
    "gemma3_text": "gemma3_text",
    "gemma3": "gemma3_text",  # the multimodal Gemma 3: its language model alone
    "embeddinggemma": "gemma3_text",  # trained bidirectional
    "llama": "llama",
    "mistral": "mistral",
    "mistral-sliding": "mistral",  # version 0.1: a window in every layer
    "qwen2": "qwen2",
    "qwen2-sliding": "qwen2",
    "qwen3": "qwen3",
}
READERS = {
    "bert": "bert",
    "xlm-roberta": "xlm-roberta",
    "modernbert": "modernbert",
    "mt5": "mt5",
    "t5": "t5",
    "t5gemma": "t5_gemma_module",
    "t5gemma2": "t5gemma2_text",
    "embedding_gemma2": "embedding_gemma2_text",
}
EVERY = DECODERS | READERS
CAUSAL = [name for name in DECODERS if name != "embeddinggemma"]
DIRECTIONS = [(name, "bidirectional") for name in EVERY] + [(name, "causal") for name in CAUSAL]
REACH = {"mistral-sliding": 6}  # two layers of 3 positions on either side; all others have a layer without a window
SDPA = [name for name in EVERY if name not in ("gemma2", "t5gemma")]  # these cap their logits
FLASH = [name for name in DECODERS if name != "gemma3"]  # the same model as gemma3_text
AUDIO = 5

IDS = torch.tensor([[1, 40, 77, 120, 9, 200, 31, 64, 150, 12]])

rows = pytest.mark.parametrize("name", list(EVERY))


def load(folder, **options):
    return Backbone.load(folder, **options).eval()


def run(backbone, ids, mask=None, first_layer=0):
    return backbone(backbone.embed(ids), torch.ones_like(ids).bool() if mask is None else mask, first_layer)


def states(*arguments):
    with torch.no_grad():
        return run(*arguments)


def loss(out):
    """A weighted sum: the mean square of a normalised state would have no gradient."""
    return (out.float() * torch.arange(out.numel()).sin().view(out.shape)).sum()


def test_every_listed_type_has_a_row(tiny_llm):
    for name, model_type in EVERY.items():
        assert load_config(tiny_llm(name)).model_type == model_type
    assert set(DECODERS.values()) == BIDIRECTIONAL_DECODERS and set(READERS.values()) == ENCODERS


@pytest.mark.parametrize(("name", "attention"), DIRECTIONS)
def test_a_later_token_changes_earlier_states_only_when_bidirectional(tiny_llm, name, attention):
    backbone = load(tiny_llm(name), attention=attention)
    changed = IDS.clone()
    changed[0, -1] = 99
    difference = (states(backbone, IDS) - states(backbone, changed)).abs().amax(-1)[0]
    assert difference[-1] > 1e-2
    reach = REACH.get(name, 9) if attention == "bidirectional" else 0
    assert (difference[9 - reach : -1] > 1e-4).all() and (difference[: 9 - reach] == 0).all()


@pytest.mark.parametrize("name", ["embeddinggemma", *READERS])
def test_what_was_trained_bidirectional_is_not_run_causal(tiny_llm, name):
    with pytest.raises(ConfigError, match=f"'causal' is not validated for model type '{EVERY[name]}'"):
        Backbone.load(tiny_llm(name), attention="causal")


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize(("name", "attention"), DIRECTIONS)
def test_padding_does_not_change_real_states(tiny_llm, name, attention, kernel):
    if kernel == "sdpa" and name not in SDPA:
        with pytest.raises(ConfigError, match=r"attn_implementation=sdpa: .* has auto, eager"):
            load(tiny_llm(name), attention=attention, attn_implementation=kernel)
        return
    backbone = load(tiny_llm(name), attention=attention, attn_implementation=kernel)
    assert backbone.config._attn_implementation == kernel
    ids = torch.full((2, 21), 55)
    ids[0, :10] = IDS[0]
    mask = torch.ones(2, 21, dtype=torch.bool)
    mask[0, 10:] = False
    together = states(backbone, ids, mask)
    torch.testing.assert_close(together[:1, :10], states(backbone, IDS), atol=2e-5, rtol=1e-5)
    assert together.isfinite().all()
    plain = load(tiny_llm(name), attention=attention)
    torch.testing.assert_close(together[mask], states(plain, ids, mask)[mask], atol=5e-5, rtol=1e-5)


@rows
def test_equals_the_whole_checkpoint_on_token_ids(tiny_llm, name):
    whole = AutoModel.from_pretrained(tiny_llm(name), attn_implementation="eager").eval()
    whole = whole.get_encoder() if whole.config.is_encoder_decoder else whole
    backbone = load(tiny_llm(name), attention="causal" if name in CAUSAL else "bidirectional", audio_tokens=AUDIO)
    ids = IDS.repeat(2, 1)
    mask = torch.tensor([[True] * 10, [True] * 6 + [False] * 4])
    with torch.no_grad():
        expected = whole(ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(states(backbone, ids, mask)[mask], expected[mask], atol=1e-5, rtol=1e-5)
    assert expected.shape[-1] == backbone.output_width


@rows
def test_an_extended_vocabulary_leaves_text_bit_identical(tiny_llm, name):
    plain, extended = load(tiny_llm(name)), load(tiny_llm(name), audio_tokens=AUDIO)
    every = torch.arange(plain.embedding.text_tokens)[None]
    assert torch.equal(plain.embed(every), extended.embed(every))
    assert torch.equal(states(plain, IDS), states(extended, IDS))
    assert extended.embedding.audio.shape == (AUDIO, extended.width)


@rows
def test_gradient_reaches_the_audio_rows_of_a_frozen_llm(tiny_llm, name):
    backbone = load(tiny_llm(name), audio_tokens=AUDIO)
    backbone.freeze(["*"])
    first = backbone.embedding.text_tokens
    loss(run(backbone, torch.tensor([[1, first, 30, first + 2]]))).backward()
    used = backbone.embedding.audio.grad.abs().amax(-1) > 1e-3
    assert used.tolist() == [True, False, True, False, False]
    assert [n for n, p in backbone.named_parameters() if p.grad is not None] == ["embedding.audio"]


@rows
def test_gradient_checkpointing_gives_the_same_gradients(tiny_llm, name):
    ids, mask = IDS.repeat(2, 1), torch.tensor([[True] * 10, [True] * 6 + [False] * 4])
    gradients, passes = [], []
    for checkpointing in (False, True):
        backbone = Backbone.load(tiny_llm(name), dropout=0.3, gradient_checkpointing=checkpointing).train()
        counted = []
        part = next(backbone.layers[1].children())
        part = part[0] if isinstance(part, torch.nn.ModuleList) else part
        part.register_forward_hook(lambda *_, counted=counted: counted.append(1))
        torch.manual_seed(7)
        (loss(run(backbone, ids, mask)[mask]) + loss(run(backbone, ids, mask, 1)[mask])).backward()
        gradients.append({n: p.grad for n, p in backbone.named_parameters() if p.grad is not None})
        passes.append(len(counted))
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], gradient, atol=1e-5, rtol=1e-4, msg=parameter)
    assert passes == [2, 4]  # each layer once more, in the backward pass
    torch.manual_seed(7)
    dropped = states(backbone, ids, mask)
    assert not torch.equal(dropped, states(backbone, ids, mask))  # the override reached this architecture


@rows
def test_skipping_equals_the_upper_layers_alone(tiny_llm, name):
    backbone = load(tiny_llm(name))
    skipped = states(backbone, IDS, None, 1)
    whole = states(backbone, IDS)

    def hand_on(layer, inputs, outputs):
        return (inputs[0], *outputs[1:]) if isinstance(outputs, tuple) else inputs[0]

    backbone.layers[0].register_forward_hook(hand_on)
    torch.testing.assert_close(skipped, states(backbone, IDS), atol=0, rtol=0)
    assert (skipped - whole).abs().max() > 1e-2


@contextmanager
def patched(backbone, first_layer, again):
    """The slow path: other ``forward`` methods on the model's own layers, which every thread would see."""
    changed = list(backbone.layers) if again else list(backbone.layers)[:first_layer]
    for i, layer in enumerate(changed):
        layer.forward = _skipped(layer) if i < first_layer else partial(checkpoint, layer.forward, use_reentrant=False)
    yield
    for layer in changed:
        del layer.forward


@rows
@pytest.mark.parametrize("again", [False, True])
def test_twins_equal_patched_layers_bit_for_bit_and_leave_the_model_alone(tiny_llm, name, again):
    ids, mask = IDS.repeat(2, 1), torch.tensor([[True] * 10, [True] * 6 + [False] * 4])
    backbone, slow = (load(tiny_llm(name), gradient_checkpointing=again and twins) for twins in (True, False))
    before = {path: dict(vars(module)) for path, module in backbone.named_modules()}
    for first_layer in (0, 1):
        out = run(backbone, ids, mask, first_layer)
        with patched(slow, first_layer, again):
            expected = run(slow, ids, mask, first_layer)
        assert torch.equal(out, expected)
        for value in (out, expected):
            loss(value[mask]).backward()  # the layers run once more with checkpointing, when nothing is patched
    gradients = [{n: p.grad for n, p in one.named_parameters() if p.grad is not None} for one in (backbone, slow)]
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])
    for path, module in backbone.named_modules():
        assert vars(module).keys() == before[path].keys()
        assert all(value is before[path][key] for key, value in vars(module).items())
    copied = deepcopy(backbone)
    for parameter in backbone.parameters():
        parameter.data.zero_()
    assert torch.equal(states(copied, ids, mask, 1), out) and not torch.equal(states(backbone, ids, mask, 1), out)


@rows
def test_first_layer_alone(tiny_llm, name):
    folder = tiny_llm(name)
    if name == "embedding_gemma2":
        with pytest.raises(ConfigError, match=r"num_layers=1: embedding_gemma2_text .* cannot be cut"):
            load(folder, num_layers=1)
        return
    whole, cut = load(folder), load(folder, num_layers=1)
    assert len(cut.layers) == cut.config.num_hidden_layers == 1
    assert (states(cut, IDS) - states(whole, IDS)).abs().max() > 1e-2
    kept, parameters = dict(cut.named_parameters()), dict(whole.named_parameters())
    assert len(kept) < len(parameters)
    for parameter in kept.keys() - {"embedding.audio"}:
        assert torch.equal(kept[parameter], parameters[parameter])


@rows
def test_random_init_has_the_shapes_and_not_the_values(tiny_llm, name):
    pretrained, random = (Backbone.load(tiny_llm(name), init=i).state_dict() for i in ("pretrained", "random"))
    assert {k: v.shape for k, v in pretrained.items()} == {k: v.shape for k, v in random.items()}
    matrices = [k for k, v in pretrained.items() if v.dim() == 2 and v.numel()]
    assert len(matrices) > 8 and not any(torch.equal(pretrained[k], random[k]) for k in matrices)


@rows
def test_bfloat16_weights_with_float32_audio_rows(tiny_llm, name):
    backbone = load(tiny_llm(name), dtype="bfloat16", audio_tokens=AUDIO)
    kinds = {n: p.dtype for n, p in backbone.named_parameters()}
    assert kinds.pop("embedding.audio") == torch.float32 and set(kinds.values()) == {torch.bfloat16}
    frames = torch.randn(1, 4, backbone.width, requires_grad=True)  # a continuous frontend is float32 too
    backbone.freeze(["*"])
    out = backbone(torch.cat([backbone.embed(torch.tensor([[261, 262]])), frames], 1), torch.ones(1, 6).bool())
    loss(out).backward()
    for gradient in (frames.grad, backbone.embedding.audio.grad):
        assert gradient.dtype == torch.float32 and gradient.isfinite().all() and gradient.abs().max() > 1e-3
    exact = states(load(tiny_llm(name)), IDS)
    assert torch.cosine_similarity(states(backbone, IDS).float(), exact, dim=-1).min() > 0.98


@rows
def test_lora_trains_adapters_and_audio_rows_and_merges_into_a_plain_model(tiny_llm, name):
    plain, backbone = load(tiny_llm(name), audio_tokens=AUDIO), load(tiny_llm(name), audio_tokens=AUDIO)
    backbone.embedding.load_state_dict(plain.embedding.state_dict())
    adapted = add_lora(backbone, rank=2, alpha=4)
    assert torch.equal(states(backbone, IDS), states(plain, IDS))  # updates start at zero
    trained = {n for n, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"embedding.audio"} | {
        f"model.{m}.lora_{ab}.default.weight" for m in adapted for ab in "AB"
    }  # and the names are those that checkpoints and optimiser groups go by
    ids = torch.tensor([[1, 40, 260, 262]])
    optimiser = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):  # the first step moves B alone, because B is zero
        optimiser.zero_grad()
        loss(run(backbone, ids)).backward()
        optimiser.step()
    before, fixed = dict(plain.named_parameters()), dict(backbone.named_parameters())
    assert not torch.equal(fixed["embedding.audio"], before["embedding.audio"])
    assert all(fixed[f"model.{m}.lora_A.default.weight"].grad.abs().max() > 1e-5 for m in adapted)
    for parameter, value in before.items():
        module, _, last = parameter.rpartition(".")
        now = fixed.get(f"{module}.base_layer.{last}", fixed.get(parameter))
        assert parameter == "embedding.audio" or torch.equal(now, value)
    expected = states(backbone, ids)
    assert (expected - states(plain, ids)).abs().max() > 1e-3
    assert merge_lora(backbone) == len(adapted) >= 8
    torch.testing.assert_close(states(backbone, ids), expected, atol=2e-5, rtol=1e-4)
    assert backbone.state_dict().keys() == plain.state_dict().keys()
    assert merge_lora(backbone) == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "float32") for name in EVERY]
    + [(name, "bfloat16") for name in ("gemma3", "bert", "mt5", "t5gemma2", "embedding_gemma2")]
    + [(name, "lora") for name in ("gemma3_text", "bert", "mt5")],
)
def test_save_and_load_give_identical_embeddings(tiny_llm, tiny_settings, tmp_path, name, kind):
    folder, settings = tiny_llm(name), tiny_settings(head={"dim": 5}, speech={"deduplicate": True})
    llm = Backbone.load(folder, dtype="bfloat16" if kind == "bfloat16" else "float32").model
    model = assemble(llm, settings).eval()
    if kind == "lora":
        add_lora(model.backbone, rank=2)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.normal_(std=0.1)
    quantiser = Quantiser(fit_kmeans(np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32), 12))
    prompt = Prompt(AutoTokenizer.from_pretrained(folder), **asdict(settings.prefix))
    trained = TrainedModel(model, prompt, quantiser, settings)

    def embeddings(one):
        short, long = (np.arange(n, dtype=np.int32) % 12 for n in (4, 9))
        items = [Item(Audio(short), lang="fr_fr"), Item(Audio(long)), Item(Text("été"), lang="fr_fr")]
        return embed_items(one.model, one.prompt, items, lambda media: [[part.content] for _, part in media]).vectors

    before = embeddings(trained)
    trained.save(tmp_path / "m")
    loaded = TrainedModel.load(tmp_path / "m")
    np.testing.assert_array_equal(embeddings(loaded), embeddings(trained))
    np.testing.assert_allclose(embeddings(loaded), before, atol=1e-4 if kind == "lora" else 0)
    assert loaded.model.state_dict().keys() == assemble(llm, settings).state_dict().keys()
    assert loaded.model.backbone.embedding.text.weight.dtype == llm.get_input_embeddings().weight.dtype
    assert loaded.model.projection.weight.dtype == loaded.model.backbone.embedding.audio.dtype == torch.float32


def flash_reference(query, key, value, attention_mask, query_length, is_causal, sliding_window=None, softcap=None,
                    softmax_scale=None, **_):  # fmt: skip
    """What the FlashAttention package computes, by its documentation: ``(batch, time, heads, width)``; a window
    counts both sides unless causal; padding, which it does not see, gives zeros."""
    repeats = query.shape[2] // key.shape[2]
    key, value = key.repeat_interleave(repeats, 2), value.repeat_interleave(repeats, 2)
    logits = torch.einsum("bqhd,bkhd->bhqk", query, key) * softmax_scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    position = torch.arange(query_length)
    distance = position[:, None] - position[None, :]
    visible = distance >= 0 if is_causal else torch.ones_like(distance).bool()
    if sliding_window is not None:
        visible = visible & (distance.abs() <= sliding_window - 1)
    real = torch.ones(len(query), query_length).bool() if attention_mask is None else attention_mask.bool()
    visible = visible[None, None] & real[:, None, None, :]
    weights = logits.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num()
    return torch.einsum("bhqk,bkhd->bqhd", weights, value) * real[:, :, None, None]


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("name", FLASH)
def test_flash_attention_is_asked_for_the_same_attention(tiny_llm, monkeypatch, name, attention):
    if attention == "causal" and name not in CAUSAL:
        pytest.skip("trained bidirectional")
    backbone = load(tiny_llm(name), attention=attention)
    ids, mask = IDS.repeat(2, 1), torch.tensor([[True] * 10, [True] * 6 + [False] * 4])
    expected = states(backbone, ids, mask)
    backbone.double()  # float32 is refused, see below
    asked = []
    monkeypatch.setattr(
        flash, "_flash_attention_forward", lambda *a, **k: asked.append(k["is_causal"]) or flash_reference(*a, **k)
    )
    backbone.config._attn_implementation = "flash_attention_2"
    out = states(backbone, ids, mask)
    assert asked == [attention == "causal"] * 2
    torch.testing.assert_close(out[mask].float(), expected[mask], atol=2e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"computes in bfloat16; set trainer\.precision=bf16-mixed"):
        states(backbone.float(), ids, mask)


def test_a_prefix_and_speech_batch_through_the_encoder_of_mt5(tiny_llm, tiny_settings):
    """T5 has no positions in its input: they are a bias that the first block computes, also where it is skipped."""
    settings = tiny_settings(head={"dim": 5, "speech_layer": 1, "normalise": False})
    model = assemble(Backbone.load(tiny_llm("mt5")).model, settings).eval()
    prefix = ("text", np.array([1, 60, 61]))
    with torch.no_grad():
        first, second = (model.encode(pad_items([[prefix, ("speech", np.array(u))]])) for u in ([3, 4, 5], [5, 4, 3]))
    assert (first - second).abs().max() > 1e-4  # the order of the same units counts
