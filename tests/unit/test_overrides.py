"""Overrides on the command line: unknown keys and options are refused with those that exist, paths are accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from speechde.errors import ConfigError
from speechde.overrides import prepare

CONF = Path(__file__).resolve().parents[2] / "conf"
OPTIONS = {path.parent.name: path.stem for path in CONF.glob("*/*.yaml")}
ODD = ["clips/été.tsv", "a=b.tsv", "a,b.tsv", "a (1).tsv", "[a].tsv", "{a}.tsv", "~/a.tsv", "it's.tsv", 'a"b.tsv',
       "a b/c", "a: b", "2024", "1e5", "true", "-1", "#a", "a;b", "a&b", "日本/語.tsv", "'", "a'b\"c", " a ",
       "x(1)"]  # fmt: skip


def ready(*arguments, **options):
    return prepare(arguments, CONF, **options)


@pytest.mark.parametrize(
    "argument",
    ["seed=3", "model.dim=8", "tasks.speech.shares.synthetic=0.5", "recipe=quickstart", "debug=smoke", "--help", "-m",
     "hydra.verbose=true", "+model.new=1", "data=manifest", "model.prefix.mode=none", "--config-name=x",
     "data@adapt.old=fleurs", "adapt.old=null", "adapt.old.path=x.tsv", "size=null", "hydra/sweeper=x",
     "data.path=null", "data.path=a/b-1.tsv", "model.source=packaged:gemma-3-270m", "model.source=org/name@v1",
     "data.path='a b'", 'data.path="a,b"', r"data.path=a\ b", "logger.project=team/proj", "data.seen=[fr,ro]"],
)  # fmt: skip
def test_overrides_that_pass_as_they_are(argument):
    assert ready(argument) == [argument]


@pytest.mark.parametrize("group", sorted(OPTIONS))
def test_every_config_group_may_be_named(group):
    ready("-m", f"{'+' * (group == 'sweep')}{group}={OPTIONS[group]}")
    if group not in ("hydra", "job_logging"):
        with pytest.raises(ConfigError, match=f"^{group}: 'nothing' is not known; allowed: .*{OPTIONS[group]}"):
            ready(f"{'+' * (group == 'sweep')}{group}=nothing")


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("key", ["data.path", "checkpoint", "runs_dir", "init", "frontend.encoder"])
def test_any_path_arrives_as_it_was_typed(key, value):
    (argument,) = ready(f"{key}={value}", strings=("checkpoint",))
    (override,) = OverridesParser.create().parse_overrides([argument])
    found = override.value()
    assert str(getattr(found, "text", found)) == value and not override.is_sweep_override()
    assert ready(argument, strings=("checkpoint",)) == [argument]  # processes are started with what was made of it


@pytest.mark.parametrize("value", [value for value in ODD if "$" not in value])
def test_any_path_composes(value):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", ready("recipe=fleurs21", f"data.root={value}", "data.seen=[fr]"))
    assert composed.data.root == value


def test_a_comma_separates_values_of_a_sweep():
    assert ready("-m", "data.path=a b.tsv,é.tsv,c.tsv") == ["-m", "data.path=a b.tsv,'é.tsv',c.tsv"]
    for argument in ("data.path=choice(a,b)", "recipe=quickstart,stamps", "recipe=choice(stamps,quickstart)"):
        assert ready("-m", argument) == ["-m", argument]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sead=3", r"config key of the run: 'sead' is not known; allowed: .*recipe.*Did you mean 'seed'"),
        ("trainer.step=3", r"config key trainer: 'step' is not known; allowed: .*steps.*Did you mean 'steps'"),
        ("trainr.steps=3", r"config key of the run: 'trainr'.*Did you mean 'trainer'"),
        ("data.synthetic.limits=1", r"config key data\.synthetic: 'limits'"),
        ("data.synthetic.share=1", r"data\.synthetic\.share is now tasks\.speech\.shares\.synthetic"),
        ("adapt.checkpoint=x", r"adapt\.checkpoint is now init"),
        ("tasks.speech.rat=1", r"config key tasks\.speech: 'rat'.*Did you mean 'rate'"),
        ("adapt.old.paths=x", r"config key adapt\.old: 'paths' is not known; .*Did you mean 'path'"),
        ("seed.value=3", r"seed is a single value and has no key 'value'"),
        ("recipe=quikstart", r"recipe: 'quikstart' is not known; allowed: .*Did you mean 'quickstart'"),
        ("model=e5-small", r"model: 'e5-small' is not known; allowed: .*Did you mean 'e5_small'"),
        ("data@adapt.old=flores", r"data: 'flores' is not known; .*Did you mean 'fleurs'"),
        ("+sweep=unit", r"sweep: 'unit' is not known; .*Did you mean 'units'"),
        ("sweep=units", r"sweep=units: write -m \+sweep=units"),
        ("+recipe=stamps", r"\+recipe=stamps: write recipe=stamps"),
        ("recipe=stamps,quickstart", r"recipe=stamps,quickstart names several; add -m"),
        ("recipe=a/b c", r"recipe: 'a/b c' is not known"),
    ],
)
def test_overrides_that_are_refused(argument, message):
    with pytest.raises(ConfigError, match=message):
        ready("debug=smoke", argument)


def test_groups_of_another_script_and_options_of_another_folder():
    assert ready("data=manifest", groups=("data", "eval")) == ["data=manifest"]
    with pytest.raises(ConfigError, match=r"config group: 'model' is not known; allowed: data, eval\. The others come"):
        ready("model=e5_small", groups=("data", "eval"))
    assert ready("--config-dir=mine", "recipe=own") == ["--config-dir=mine", "recipe=own"]
