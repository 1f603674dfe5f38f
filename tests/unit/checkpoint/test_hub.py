"""``push_to_hub`` and ``from_pretrained`` against a hub on this machine: the real client, over HTTP, in a process."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from speechde.checkpoint.hub import push_folder
from speechde.errors import AssetError

COMMIT = "c" * 40
FORBIDDEN = "org/forbidden"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as an upload and a download of a model need."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, value, status=200, headers=()):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (("Content-Length", str(len(body))), ("X-Repo-Commit", COMMIT), *headers):
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_PUT(self):
        self.server.objects[self.path.rpartition("/")[2]] = self.body()
        self.answer({})

    def do_POST(self):
        data, server = self.body(), self.server
        if FORBIDDEN in self.path:
            return self.answer({"error": "forbidden"}, 403)
        server.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            asked = json.loads(data)
            server.created.append(asked)
            repo = f"{asked['organization']}/{asked['name']}"
            status = 403 if repo == FORBIDDEN else 200
            return self.answer({"url": f"{server.address}/{repo}", "name": repo, "id": "1"}, status)
        if self.path == "/api/validate-yaml":
            head = json.loads(data)["content"].split("---")[1]
            return self.answer({"errors": [], "warnings": [] if yaml.safe_load(head) else [{"message": "empty"}]})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False} for f in json.loads(data)["files"]
            ]  # fmt: skip
            return self.answer({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {"oid": o["oid"], "size": o["size"],
                 "actions": {"upload": {"href": f"{server.address}/lfs/{o['oid']}"}}}
                for o in json.loads(data)["objects"]
            ]  # fmt: skip
            return self.answer({"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            for line in data.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "lfsFile":
                    server.files[entry["value"]["path"]] = server.objects[entry["value"]["oid"]]
            repo, _, branch = self.path.removeprefix("/api/models/").partition("/commit/")
            server.branches.append(branch)
            return self.answer({"commitUrl": f"{server.address}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})
        return self.answer({}, 200 if "/branch/" in self.path else 404)

    def do_GET(self):
        path, files = self.path.partition("?")[0], self.server.files
        if FORBIDDEN in path:
            return self.answer({"error": "forbidden"}, 403)
        if path.startswith("/api/models/") and "/tree/" in path:
            return self.answer([{"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                                for name, data in files.items()])  # fmt: skip
        if path.startswith("/api/models/"):
            return self.answer({"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
        data = files.get(path.partition(f"/resolve/{COMMIT}/")[2])
        if data is None:
            return self.answer({"error": "Entry not found"}, 404, [("X-Error-Code", "EntryNotFound")])
        return self.answer(data, headers=[("ETag", f'"{hashlib.sha256(data).hexdigest()}"')])

    do_HEAD = do_GET


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.files, server.objects, server.created, server.branches, server.tokens = {}, {}, [], [], set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_goes_to_the_hub_and_comes_back(hub, tiny_model, tmp_path):
    folder = tiny_model("discrete")
    code = f"""
import numpy as np
from speechde import SpeechTextEncoder
from speechde.cli.export import export
from speechde.errors import AssetError
encoder = SpeechTextEncoder.from_pretrained({str(folder)!r}, device="cpu")
print(encoder.push_to_hub("org/name", private=True, message="First"))
export({str(folder)!r}, "hub", repo="org/name", revision="v2")
again = SpeechTextEncoder.from_pretrained("org/name", device="cpu")
texts = ["a", "a longer text"]
np.testing.assert_array_equal(again.encode_text(texts, "ro"), encoder.encode_text(texts, "ro"))
assert again.trained.card == encoder.trained.card and again.trained.settings == encoder.trained.settings
try:
    encoder.push_to_hub({FORBIDDEN!r})
except AssetError as error:
    print(error)
"""
    environment = os.environ | {
        "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_secret",
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*", "no_proxy": "*",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second, refused = done.stdout.splitlines()
    assert first == second == f"{hub.address}/org/name/commit/{COMMIT}" and hub.branches == ["main", "v2"]
    assert "was not pushed to org/forbidden" in refused and "403" in refused and "hf_secret" not in refused
    saved = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(hub.files) == set(saved)
    # transformers notes in tokenizer_config.json whether it was read from a folder
    assert [name for name in saved if hub.files[name] != saved[name]] in ([], ["tokenizer_config.json"])
    assert [repo["name"] for repo in hub.created] == ["name", "name", "forbidden"]
    assert hub.created[0]["visibility"] == "private" and hub.tokens == {"Bearer hf_secret"}


def test_no_network_is_one_line(tiny_model):
    """In a process of its own, since the client reads its settings when it is imported."""
    code = f"from speechde.checkpoint.hub import push_folder; push_folder({str(tiny_model())!r}, 'org/name')"
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_none"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert "speechde.errors.AssetError: the model was not pushed to org/name (" in done.stderr.splitlines()[-1]


def test_refused_before_anything_is_sent(tiny_model, tmp_path):
    with pytest.raises(AssetError, match=r"holds no config\.json"):
        push_folder(tmp_path, "org/name")
    for repo in ("not a name", "a/b/c"):
        with pytest.raises(AssetError, match="Give org/name, a token"):
            push_folder(tiny_model("discrete"), repo)
    with pytest.raises(AssetError, match="HF_HUB_OFFLINE"):  # which the tests set
        push_folder(tiny_model("discrete"), "org/name")
