"""The library: embed speech and text with a trained model, without Lightning, Hydra or a configuration.

    from speechde import SpeechTextEncoder
    encoder = SpeechTextEncoder.from_pretrained("runs/quickstart/default-s0/model")
    speech = encoder.encode_speech(["a.ogg", "b.ogg"], language="ro")
    text = encoder.encode_text(["un autobuz de școală galben"], language="ro")
    encoder.similarity(speech, text)

Clips and texts go through the very steps of ``evaluate.py``, so the vectors are those that its numbers speak of. Input
is read as it is embedded, some hundred clips at a time and sorted by length among themselves, and vectors can be
written to a file as they come: a corpus need not fit in memory, nor its vectors.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechde.checkpoint.folder import TrainedModel, find_model, languages_heard
from speechde.checkpoint.hub import push_folder
from speechde.checkpoint.reader import Reader
from speechde.chunks import has_column, in_chunks, report_bad
from speechde.errors import ConfigError, DataError, unknown_value
from speechde.languages import resolve
from speechde.media.audio import AudioError
from speechde.media.inputs import as_list, as_vectors, check_texts, is_clip
from speechde.models.embed import Cut, Embedded, Read, embed_items
from speechde.models.prompt import Words
from speechde.types import SAMPLE_RATE, Audio, Item, Text

CHUNK = 64  # clips decoded and held at once
TEXT_CHUNK = 4096  # texts tokenised and sorted at once
EMBEDDING = "embedding"  # column of vectors where rows of datasets come in
CUT = "%d of %d texts were cut at %d tokens"
log = logging.getLogger(__name__)
# a forked process (num_proc of datasets) has none of its parent's threads, and would wait for them for ever
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


class SpeechTextEncoder(Reader):
    """A trained dual encoder: clips, texts and pictures → vectors whose dot product says how well they match.

    Any number of threads may use one.

    Args:
        trained: model, prompt, quantiser and settings.
        device: where the model and its encoders of media run; None takes the GPU when there is one.
        dtype: of the weights that the encoder works with, a copy of those of ``trained``; None leaves them in float32,
            as in evaluation.
        speech_encoder: where the speech encoder is found, when not where it was at training: a folder or a hub id. Its
            weights must be the same.
        image_encoder: the same of the encoder of pictures.
    """

    def __init__(
        self,
        trained: TrainedModel,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        speech_encoder: str | Path | None = None,
        image_encoder: str | Path | None = None,
    ) -> None:
        if dtype is not None and (not isinstance(dtype, torch.dtype) or not dtype.is_floating_point):
            raise unknown_value("dtype", dtype, ("torch.bfloat16", "torch.float16", "torch.float32"))
        if dtype not in (None, torch.float32):
            self.fingerprint = trained.fingerprint  # vectors of both precisions compare
            trained = replace(trained, model=trained.model.in_precision(dtype))
        try:
            device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except RuntimeError as error:
            raise ConfigError(f"device {device!r} is none that torch knows; give cpu, cuda, cuda:1 or mps") from error
        super().__init__(trained, device, speech_encoder, image_encoder)
        self.dtype = dtype
        self.trained.model.to(self.device).eval()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        speech_encoder: str | Path | None = None,
        image_encoder: str | Path | None = None,
        dim: int | None = None,
    ) -> SpeechTextEncoder:
        """Load a model folder, a run directory that holds one, or a hub id (``org/name`` or ``org/name@revision``).

        An encoder is loaded when the first clip, or picture, is embedded; text alone needs none. ``dim`` is one of the
        sizes that the model was trained at: its vectors are then the first ``dim`` components.

        Raises:
            AssetError: there is no such model, or it cannot be fetched.
            ConfigError: it was not trained at the size ``dim``.
        """
        return cls(TrainedModel.load(find_model(name)).cut_to(dim), device, dtype, speech_encoder, image_encoder)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder (see ``speechde.checkpoint.folder``); ``from_pretrained`` gives the same vectors.

        Raises:
            ConfigError: the encoder's weights were rounded to another ``dtype``.
            DataError: there are files already.
        """
        if self.dtype not in (None, torch.float32):
            raise ConfigError(f"these weights were rounded to {self.dtype}; load the model without dtype to save it")
        self.trained.save(folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model folder to ``org/name``, and return the address of the commit.

        ``options`` are those of ``checkpoint.hub.push_folder``: ``private``, ``revision``, ``message``, ``token``.

        Raises:
            AssetError: the hub refuses, or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(Path(scratch) / "model")
            return push_folder(Path(scratch) / "model", repo_id, **options)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.trained.model.dim

    @property
    def prompts(self) -> dict[str, str]:
        """Templates of the prompts that the model was trained with, by name; most models have none."""
        return dict(self.trained.prompt.named)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of what decides the vectors: those of equal fingerprints may be compared, and no others."""
        return self.trained.fingerprint

    @property
    def languages_seen(self) -> tuple[str, ...]:
        """FLEURS codes of the languages whose speech, recorded or synthetic, the model was trained on."""
        return languages_heard(self.trained.settings.training)

    def encode_speech(
        self,
        clips: Any,
        language: str | Sequence[str | None] | None = None,
        *,
        sampling_rate: int | None = None,
        names: Sequence[str] | None = None,
        prompt: str | None = None,
        column: str = "audio",
        skip_bad: bool = False,
        progress: bool = False,
        as_tensor: bool = False,
        out: str | Path | None = None,
    ) -> np.ndarray | Tensor | dict[str, np.ndarray]:
        """Clips → ``(clips, dim)`` float32, in order; one clip alone → ``(dim,)``.

        A clip is what ``media.inputs.read_clip`` reads: path, bytes, array, row of ``datasets``. Clips are a list, a
        column of ``datasets`` or any iterable. Silence at the ends of a clip is cut. One longer than 240 s, or than the
        LLM's positions, is embedded in equal parts, whose mean is its vector, and a warning says so.

        Args:
            language: any tag that ``speechde.languages`` knows (``ro``, ``ro_ro``), for all clips or one for each;
                None where it is not known.
            sampling_rate: of arrays that come without one, in Hz.
            names: what messages call the clips; None for their numbers.
            prompt: name of one of the model's ``prompts`` in the place of the prefix; ``query`` or ``document`` where
                one task alone has them.
            column: rows of ``datasets`` with this column, as ``Dataset.map`` hands them over, are answered with rows
                that have the column ``embedding``.
            skip_bad: give a clip that cannot be used a row of NaN and a warning, in place of an error.
            progress: show how far it is: a bar on a terminal, lines elsewhere.
            as_tensor: return a tensor on the CPU.
            out: write the vectors to this ``.npy`` file as they come, and return it memory-mapped.

        Raises:
            AudioError: a clip cannot be used (with ``skip_bad``: none can); the message has its name and why.
            ConfigError: an unknown language, or a prompt that the model does not have.
            DataError: something that is no clip.
        """
        self.check_hears()
        options = {"progress": progress, "as_tensor": as_tensor, "out": out}
        if has_column(clips, column):
            own = {"sampling_rate": sampling_rate, "names": names, "prompt": prompt, "skip_bad": skip_bad, **options}
            return {EMBEDDING: self.encode_speech(clips[column], language, **own)}
        single, bad = is_clip(clips), []
        if names is not None and hasattr(clips, "__len__") and not single and len(names) != len(clips):
            raise DataError(f"{len(names)} names were given for {len(clips)} clips; give one each, or none")
        reading = {"sampling_rate": sampling_rate, "names": names, "prompt": prompt, "bad": bad if skip_bad else None}
        encode = partial(self._clip_vectors, **reading)
        report = partial(report_bad, bad)
        vectors = in_chunks([clips] if single else clips, language, "clips", CHUNK, encode, report, self.dim, **options)
        return vectors[0] if single else vectors

    def encode_text(
        self,
        texts: Any,
        language: str | Sequence[str | None] | None = None,
        *,
        prompt: str | None = None,
        column: str = "text",
        progress: bool = False,
        as_tensor: bool = False,
        out: str | Path | None = None,
    ) -> np.ndarray | Tensor | dict[str, np.ndarray]:
        """Texts → ``(texts, dim)`` float32, in order; one text alone → ``(dim,)``. See ``encode_speech``.

        Texts longer than the model's limit (``model.max_tokens`` in training, 256 unless set, and never more than the
        LLM has positions) are cut, and a warning counts them.

        Raises:
            DataError: something that is no text, or an empty one.
        """
        options = {"progress": progress, "as_tensor": as_tensor, "out": out}
        if has_column(texts, column):
            return {EMBEDDING: self.encode_text(texts[column], language, prompt=prompt, **options)}
        single, cut = isinstance(texts, str), []
        texts, encode = [texts] if single else texts, partial(self._text_vectors, cut=cut, prompt=prompt)
        report = partial(self._report_cut, cut)
        vectors = in_chunks(texts, language, "texts", TEXT_CHUNK, encode, report, self.dim, **options)
        return vectors[0] if single else vectors

    def embed(
        self,
        items: Item | Iterable[Item],
        *,
        prompt: str | None = None,
        progress: bool = False,
        as_tensor: bool = False,
        out: str | Path | None = None,
    ) -> np.ndarray | Tensor:
        """Items of any make-up → ``(items, dim)`` float32, in order; one item alone → ``(dim,)``.

            encoder.embed([Item(Audio("a.ogg"), lang="ro_ro"), Item(Text("un autobuz"), lang="ro_ro")])

        A list is as many vectors as it has items: only the parts of one item become one vector.

        Raises:
            ConfigError: an item mixes parts that enter the LLM at different layers; a prompt that the model has not.
            DataError: something that is no item, or an item that cannot be used.
        """
        single, cut = isinstance(items, Item), []
        encode = partial(self._item_vectors, cut=cut, prompt=prompt)
        report = partial(self._report_cut, cut)
        options = {"progress": progress, "as_tensor": as_tensor, "out": out}
        vectors = in_chunks([items] if single else items, None, "items", CHUNK, encode, report, self.dim, **options)
        return vectors[0] if single else vectors

    def similarity(self, a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> np.ndarray:
        """Dot products of all vectors of ``a`` with all of ``b``: ``(n, m)``; the score that retrieval ranks by.

        Raises:
            DataError: they are not vectors of one model.
        """
        a, b = as_vectors(a), as_vectors(b)
        if a.shape[1] != b.shape[1]:
            raise DataError(f"vectors of shapes {a.shape} and {b.shape} cannot be compared; give (n, dim) and (m, dim)")
        return a @ b.T

    def units(self, clips: Any, *, sampling_rate: int | None = None) -> list[np.ndarray]:
        """The audio tokens of each clip, ``(time,)`` int32, as the model reads them.

        Raises:
            ConfigError: the model reads frames, not units.
        """
        if not self.trained.settings.discrete:
            raise ConfigError("this model has a continuous frontend and no units; use one of frontend=discrete")
        clips = [clips] if is_clip(clips) else list(as_list(clips, "clips"))
        waveforms = [self.waveform(clip, sampling_rate, f"clip {row}") for row, clip in enumerate(clips)]
        return self.speech_items(waveforms)

    def embed_waveforms(
        self,
        waveforms: Sequence[np.ndarray],
        langs: Sequence[str | None],
        names: Sequence[str],
        prompt: str | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """16 kHz waveforms in FLEURS languages → ``(n, dim)`` float32 vectors, and how many parts each was cut into."""
        clips = zip(waveforms, langs, names, strict=True)
        items = [Item(Audio(waveform, SAMPLE_RATE), id=name, lang=lang) for waveform, lang, name in clips]
        made = self._embed(items, lambda media: self.pieces([part.content for _, part in media]), prompt)
        for name, waveform, count in zip(names, waveforms, made.pieces, strict=True):
            if count > 1:
                log.warning("%s of %.0f s is embedded in %d parts", name, len(waveform) / SAMPLE_RATE, count)
        return made.vectors, made.pieces

    def _embed(self, items: Sequence[Item], read: Read, prompt: str | None, cut: Cut | None = None) -> Embedded:
        made = embed_items(self.trained.model, self.trained.prompt, items, read, cut=cut, name=prompt)
        self._finite(made.vectors)
        return made

    def _clip_vectors(
        self, clips: list[Any], langs: list[str | None], first: int, sampling_rate: int | None,
        names: Sequence[str] | None, prompt: str | None, bad: list[AudioError] | None,
    ) -> np.ndarray:  # fmt: skip
        out = np.full((len(clips), self.dim), np.nan, np.float32)
        called = [names[first + row] if names else f"clip {first + row}" for row in range(len(clips))]
        waveforms: dict[int, np.ndarray] = {}
        for row, clip in enumerate(clips):
            try:
                waveforms[row] = self.waveform(clip, sampling_rate, called[row])
            except DataError as error:
                if bad is None:
                    raise
                bad.append(error if isinstance(error, AudioError) else AudioError("unreadable", str(error)))
                log.info("%s", error)
        rows = list(waveforms)
        own, whose = [langs[row] for row in rows], [called[row] for row in rows]
        out[rows], _ = self.embed_waveforms(list(waveforms.values()), own, whose, prompt)
        return out

    def _text_vectors(
        self, texts: list[Any], langs: list[str | None], first: int, cut: list[Words], prompt: str | None
    ) -> np.ndarray:
        check_texts(texts, first)
        items = [Item(Text(text), lang=lang) for text, lang in zip(texts, langs, strict=True)]
        return self._embed(items, self.read_parts, prompt, cut.append).vectors

    def _item_vectors(
        self, items: list[Any], langs: list[str | None], first: int, cut: list[Words], prompt: str | None
    ) -> np.ndarray:
        if wrong := [item for item in items if not isinstance(item, Item)]:
            raise DataError(
                f"a {type(wrong[0]).__name__} is no item; give Item(Text(…)), Item(Audio(…)) or their mixture"
            )
        check_texts([part.content for item in items for part in item.parts if isinstance(part, Text)])
        items = [item.in_language(resolve(item.lang)) if item.lang else item for item in items]
        return self._embed(items, self.read_parts, prompt, cut.append).vectors

    def _report_cut(self, cut: list[Words], count: int) -> None:
        if cut:
            log.warning(CUT, len(cut), count, self.trained.prompt.max_tokens)

    def _finite(self, vectors: np.ndarray) -> np.ndarray:
        if not np.isfinite(vectors).all():
            lowered = self.dtype not in (None, torch.float32)
            fix = "use dtype=torch.bfloat16, or none" if lowered else "its weights are damaged or diverged in training"
            raise DataError(f"the model computes no finite vectors in {self.dtype or torch.float32}; {fix}")
        return vectors
