"""The frozen encoders whose features a model reads: found by the names in its folder, and checked to be the same."""

from __future__ import annotations

from pathlib import Path

import torch

from speechde.errors import AssetError
from speechde.features.encoders import SpeechEncoder, load_speech_encoder
from speechde.features.settings import ImageSettings, SpeechSettings, less_dtype
from speechde.features.vision import ImageEncoder, VisionEncoder
from speechde.weights import resolve
from speechde.weights.locate import PREFIX

# of the hub: who published the encoders of the validated architectures
PUBLISHERS = ("facebook", "google", "microsoft", "nvidia", "openai")


def speech_encoder(
    speech: SpeechSettings, device: str | torch.device, source: str | Path | None = None
) -> SpeechEncoder:
    """The speech encoder whose frames a model reads.

    Args:
        source: where it is found (see ``speechde.weights.resolve``), when not where it was at training.

    Raises:
        AssetError: it cannot be found, may not be fetched because only the folder asks for it, or its weights or layer
            are not those the model was trained with.
    """
    folder = resolve(source) if source else encoder_folder(speech)
    encoder = load_speech_encoder(folder, layer=speech.layer, device=device)
    check_encoder(speech, encoder, source)
    return encoder


def image_encoder(image: ImageSettings, device: str | torch.device, source: str | Path | None = None) -> ImageEncoder:
    """The vision encoder whose patches a model reads; see ``speech_encoder``."""
    encoder = VisionEncoder(resolve(source) if source else encoder_folder(image), device=device)
    check_encoder(image, encoder, source)
    return encoder


def encoder_folder(settings: SpeechSettings | ImageSettings) -> Path:
    """Where an encoder is that a model folder names.

    The folder may come from anywhere, so its word is enough to fetch what is packaged or of a publisher in
    ``PUBLISHERS``. Anything else must be here already, as it is where the model was trained: a local folder, or in the
    cache of the hub.

    Raises:
        AssetError: it is not here, and may not be fetched unless the user names it too.
    """
    name = settings.encoder
    trusted = name.startswith(PREFIX) or name.partition("/")[0] in PUBLISHERS
    if trusted or Path(name).expanduser().is_dir():
        return resolve(name)
    try:
        return resolve(name, offline=True)
    except AssetError as error:
        medium = settings.medium
        raise AssetError(
            f"the model folder names the {medium} encoder {name!r}, which is not on this machine, and is not fetched "
            f"on the word of a folder alone. If you trust it, name it yourself: {medium}_encoder={name!r} in Python, "
            f"or hf download {name} on the command line; fetched without asking: {PREFIX}…, {', '.join(PUBLISHERS)}"
        ) from error


def check_encoder(
    settings: SpeechSettings | ImageSettings, encoder: SpeechEncoder | ImageEncoder, source: str | Path | None = None
) -> None:
    """Refuse an encoder whose weights or layer are not those the model was trained with.

    Raises:
        AssetError: they differ. The number format may: features then differ by rounding.
    """
    expected, found = map(less_dtype, (settings.encoder_key, encoder.describe()))
    if expected != found:
        source = source or settings.encoder
        raise AssetError(f"the model was trained on {settings.rows} of {expected}; {source} is {found}")
