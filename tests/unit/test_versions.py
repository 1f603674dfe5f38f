"""Results that rest on a repaired fault do not count; all others of the same version do."""

from __future__ import annotations

import pytest

from speechde.versions import VERSION, void, void_metrics

PLAIN = {"loss": {"mask_duplicates": True}, "data": {"translations": {"share": 0.0}}, "trainer": {"one_language": True}}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, ""),
        ({"data": {"translations": {"share": 0.25}}}, "translation pairs met their own text"),
        ({"trainer": {"one_language": False}}, "recordings of one sentence in two languages"),
        ({"trainer": {"one_language": False}, "loss": {"mask_duplicates": False}}, ""),
        ({"data": {}}, ""),  # older than the setting
    ],
)
def test_void(change, fault):
    config = PLAIN | change
    assert void(1, config).startswith(fault) and bool(void(1, config)) == bool(fault)
    assert void(VERSION, config) == ""
    assert void_metrics({"config": config}) == void(1, config)  # of before versions were counted
    assert void_metrics({"config": config, "version": VERSION}) == ""


def test_metrics_without_a_configuration_count():
    assert void_metrics({"recipe": "tiny"}) == ""
