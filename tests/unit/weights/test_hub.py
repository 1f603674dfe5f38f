"""The hub that does not answer: refused, silent, forbidden; one error, soon, and no retries."""

from __future__ import annotations

import socket
import time

import pytest
from huggingface_hub import constants

from speechde.checkpoint.hub import push_folder
from speechde.corpora import fleurs
from speechde.errors import AssetError, ConfigError
from speechde.weights import hub, resolve


@pytest.fixture(params=["refused", "silent"])
def dead(request, monkeypatch, tmp_path):
    """A hub on this machine that refuses connections, or takes them and says nothing."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    if request.param == "silent":
        server.listen(16)
        monkeypatch.setattr(hub, "PATIENCE", 0.5)
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    yield address
    server.close()


def test_a_dead_hub_is_one_early_error_for_every_caller(dead, tiny_model, caplog, capfd):
    started = time.perf_counter()
    calls = {
        r"org/name@v1 could not be had from the hub \(http.*\), nor is it whole in its cache.*local folder": lambda: (
            resolve("org/name@v1")
        ),
        r"3 of 3 files of the dataset google/fleurs@\w+ could not be fetched \(http": lambda: fleurs.fetch_fleurs(
            {"test": ["fr"]}
        ),
        r"was not pushed to org/name \(http.*hf auth login": lambda: push_folder(tiny_model("discrete"), "org/name"),
    }
    for message, call in calls.items():
        with pytest.raises(AssetError, match=message) as caught:
            call()
        assert dead in str(caught.value)
    assert time.perf_counter() - started < 5
    assert not caplog.records and "Retry" not in capfd.readouterr().err


def test_a_dead_hub_leaves_what_its_cache_holds(dead, tmp_path):
    commit = "c" * 40
    repo = tmp_path / "models--org--name"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text("{}")
    assert resolve("org/name", weights=False) == snapshot
    with pytest.raises(AssetError, match="nor is it whole in its cache"):
        resolve("org/name")
    (snapshot / "model.safetensors").write_bytes(b"x")
    assert resolve("org/name") == snapshot


def test_forbidden_is_said_without_asking(monkeypatch):
    monkeypatch.setattr(hub, "get_session", lambda: pytest.fail("asked"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.unreachable() == "HF_HUB_OFFLINE=1 forbids it"


def test_a_hub_that_answered_is_not_asked_again(monkeypatch):
    asked = []

    class Session:
        def head(self, address, timeout):
            asked.append(address)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(hub, "_answered", set())
    monkeypatch.setattr(hub, "get_session", Session)
    assert hub.unreachable() is None and hub.unreachable() is None
    assert asked == ["http://hub.invalid"]


def test_every_error_of_the_client_becomes_one_sentence():
    class Odd(Exception):
        pass

    with pytest.raises(AssetError, match=r"^it failed \(first\)\. Do that$"), hub.calling("it failed", "Do that"):
        raise Odd("first\nsecond")
    with pytest.raises(AssetError, match=r"\(Odd\)"), hub.calling("it failed", "Do that"):
        raise Odd
    with pytest.raises(ConfigError, match="own"), hub.calling("it failed", "Do that"):
        raise ConfigError("own")
