"""Sealed artifacts: weights that lie on storage encrypted, and are plain only in the memory that they are used from.

Knows the sealed form, keys and storage. Knows nothing of models. A tensor is cut into segments of whole panels, each
AES-256-GCM with a tag of its own; a segment is bound to its place, its tensor, and to everything that the artifact says
of itself (configuration, tokenizer, task, tensors), so that nothing can be changed, swapped, left out or taken from
another artifact unnoticed. What stays readable: configuration, tokenizer, names and sizes.

Sources: NIST SP 800-38D (GCM); RFC 5869 (HKDF). The key of an artifact is derived from the key file and a salt drawn
anew by every sealing, so that counting nonces never repeat under a key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.artifact import Artifact, Contents, Place, StoredTensor
from ondevice.devices.storage import Read, Storage
from ondevice.errors import BadArtifact, BadInput, MissingExtra
from ondevice.measure.timeline import Timeline
from ondevice.runtime.io import ALIGNED, FileStorage, huge_pages, room
from ondevice.runtime.projection import Stored
from ondevice.runtime.weights.parts import panel_of
from ondevice.runtime.weights.source import HeldTensor

Bytes = npt.NDArray[np.uint8]
_SEGMENT = 256 * 1024  # bytes, about: whole panels
_TAG = 16
_LEAST_KEY = 32  # bytes of a key file


def read_key(path: str | Path) -> bytes:
    """The contents of a key file. Raises BadInput where it cannot be read or is too short to be one."""
    try:
        key = Path(path).read_bytes()
    except OSError as problem:
        raise BadInput(f"the key file {path} cannot be read: {problem.strerror}") from problem
    if len(key) < _LEAST_KEY:
        raise BadInput(
            f"the key file {path} has {len(key)} bytes; it needs {_LEAST_KEY} random ones: "
            f"head -c {_LEAST_KEY} /dev/urandom > {path}"
        )
    return key


def is_sealed(artifact: Artifact) -> bool:
    """Whether its tensors are encrypted."""
    return any(tensor.format["kind"] == "sealed" for tensor in artifact.tensors.values())


def seal(artifact: Artifact, key: bytes) -> Contents:
    """The same artifact with every tensor encrypted, to be written. Raises BadInput where it is sealed already."""
    if is_sealed(artifact):
        raise BadInput(f"{artifact.folder} is sealed already")
    salt = os.urandom(16)
    forms = {name: tensor.format for name, tensor in artifact.tensors.items()}
    cipher = _Cipher(key, salt, _context(artifact, forms))
    tensors = {}
    for number, name in enumerate(sorted(forms)):
        plain = np.ascontiguousarray(artifact.tensors[name].array).reshape(-1).view(np.uint8)
        unit, stored, tags = _unit(forms[name]), np.empty_like(plain), []
        for segment, at in enumerate(range(0, plain.size, unit)):
            tags.append(cipher.encrypt(number, name, segment, plain[at : at + unit], stored[at : at + unit]))
        sealed = {
            "kind": "sealed", "form": forms[name], "unit": unit, "salt": base64.b64encode(salt).decode(),
            "tags": base64.b64encode(b"".join(tags)).decode(),
        }  # fmt: skip
        tensors[name] = StoredTensor(sealed, stored)
    return Contents(
        artifact.config, artifact.tokenizer_json, artifact.task, tensors, artifact.plan, artifact.provenance,
        artifact.licence, artifact.measured,
    )  # fmt: skip


def unseal(
    artifact: Artifact, key: bytes, *, storage: Storage | None = None, timeline: Timeline | None = None
) -> tuple[Mapping[str, SealedTensor], EncryptedStorage]:
    """The tensors of a sealed artifact, and the storage that a weight source reads them through.

    timeline: gets a span of lane "decrypt" for every read. Raises BadArtifact where the artifact does not say of itself
    what a sealed one does; a wrong key shows when the first tensor is read.
    """
    try:
        forms = {name: tensor.format["form"] for name, tensor in artifact.tensors.items()}
        [salt] = {tensor.format["salt"] for tensor in artifact.tensors.values()}
        cipher = _Cipher(key, base64.b64decode(salt, validate=True), _context(artifact, forms))
        tensors = {
            name: SealedTensor.of(
                number, name, artifact.tensors[name].format, artifact.tensors[name].place, cipher
            )
            for number, name in enumerate(sorted(forms))
        }
    except (KeyError, TypeError, ValueError) as problem:
        if isinstance(problem, BadInput):
            raise
        raise BadArtifact(f"{artifact.folder} is not sealed as it claims: {problem!r}") from problem
    return tensors, EncryptedStorage(storage or FileStorage(), tensors, timeline)


def unlocked(
    artifact: Artifact, key_file: str | Path | None
) -> tuple[Mapping[str, Stored], EncryptedStorage | None]:
    """The tensors of an artifact, sealed or not, and the storage to read them through where they are sealed.

    Raises BadInput where a sealed one has no key file, or one that is not sealed has.
    """
    if not is_sealed(artifact):
        if key_file is not None:
            raise BadInput(
                f"{artifact.folder} is not sealed and needs no key; `ondevice seal` makes one that is"
            )
        return artifact.tensors, None
    if key_file is None:
        raise BadInput(f"{artifact.folder} is sealed; give its key with --key-file")
    return unseal(artifact, read_key(key_file))


@dataclass(frozen=True)
class SealedTensor:
    """A tensor as it will be once it is decrypted. place: of its encrypted bytes."""

    number: int
    name: str
    format: Mapping[str, Any]
    place: Place
    tags: bytes
    cipher: _Cipher

    @classmethod
    def of(
        cls, number: int, name: str, sealed: Mapping[str, Any], place: Place, cipher: _Cipher
    ) -> SealedTensor:
        """Raises BadArtifact where tags and bytes do not fit together."""
        form, tags, unit = sealed["form"], base64.b64decode(sealed["tags"], validate=True), sealed["unit"]
        if unit != _unit(form) or len(tags) != -(-place.nbytes // unit) * _TAG:
            raise BadArtifact(f"tensor {name}: its {len(tags)} bytes of tags are not those of its segments")
        return cls(number, name, form, replace(place, sha256=None, unit=unit), tags, cipher)

    @property
    def nbytes(self) -> int:
        return self.place.nbytes

    @cached_property
    def array(self) -> npt.NDArray[Any]:
        """Decrypted, whole: for what is small. Raises BadArtifact where it was altered or the key is another one."""
        stored = np.fromfile(self.place.path, np.uint8, self.place.nbytes, offset=self.place.offset)
        if stored.size != self.place.nbytes:
            raise BadArtifact(f"{self.place.path} ends before tensor {self.name} does; copy it again")
        self.decrypt(0, stored)
        return HeldTensor.of(self.format, stored).array

    def to_dense(self) -> npt.NDArray[Any]:
        """The values."""
        return StoredTensor(dict(self.format), self.array).to_dense()

    def decrypt(self, first: int, stored: Bytes, into: Bytes | None = None) -> None:
        """Whole segments, from one of that number on, in place or into other memory of the size. Raises BadArtifact as
        `array`."""
        out = stored if into is None else into
        for segment, at in enumerate(range(0, stored.size, self.place.unit), first):
            tag, stop = self.tags[segment * _TAG : (segment + 1) * _TAG], at + self.place.unit
            self.cipher.decrypt(self.number, self.name, segment, stored[at:stop], tag, out[at:stop])


class EncryptedStorage:
    """A storage that decrypts what it reads, in a thread of its own and in the memory that it was read into."""

    def __init__(
        self, storage: Storage, tensors: Mapping[str, SealedTensor], timeline: Timeline | None = None
    ) -> None:
        self._storage, self._timeline = storage, timeline
        self._tensors = sorted(tensors.values(), key=lambda tensor: tensor.place.offset)
        self._starts = [tensor.place.offset for tensor in self._tensors]
        self._thread = ThreadPoolExecutor(1, "decrypts")

    def read(self, path: Path, offset: int, nbytes: int, into: Bytes) -> _Opening:
        """As the storage below. A read that does not hold whole segments is made larger, in memory beside."""
        tensor = self._tensors[max(0, bisect_right(self._starts, offset) - 1)]
        place = tensor.place
        at = offset - place.offset
        if path != place.path or at < 0 or at + nbytes > place.nbytes:
            raise BadInput(f"no tensor lies at byte {offset} of {path}")
        first = at // place.unit
        start, stop = first * place.unit, min(place.nbytes, -(-(at + nbytes) // place.unit) * place.unit)
        memory = into
        if (start, stop) != (at, at + nbytes):
            memory = huge_pages(room(place.offset + start, stop - start))
        ticket = self._storage.read(path, place.offset + start, stop - start, memory)
        stored = memory[(place.offset + start) % ALIGNED :][: stop - start]

        def decrypt() -> Read:
            read = ticket.wait()
            started = time.perf_counter()
            tensor.decrypt(first, stored)
            if memory is not into:
                into[offset % ALIGNED :][:nbytes] = stored[at - start :][:nbytes]
            ended = time.perf_counter()
            if self._timeline is not None:
                self._timeline.record("decrypt", tensor.name, started, ended, bytes=stop - start)
            return replace(read, ended=ended)

        return _Opening(self._thread.submit(decrypt))


@dataclass(frozen=True)
class _Opening:
    going: Future[Read]

    def wait(self) -> Read:
        return self.going.result()


class _Cipher:
    """AES-256-GCM under the key of one artifact. context: what every segment is bound to."""

    def __init__(self, key: bytes, salt: bytes, context: bytes) -> None:
        try:
            from cryptography.hazmat.primitives import hashes
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        except ImportError as error:
            raise MissingExtra("cryptography", "seal", "for sealed artifacts") from error
        self._context = context
        derived = HKDF(hashes.SHA256(), 32, salt, b"ondevice sealed artifact 1").derive(key)
        self._make: Callable[..., Any] = lambda nonce, tag=None: Cipher(
            algorithms.AES(derived), modes.GCM(nonce, tag)
        )

    def encrypt(self, number: int, name: str, segment: int, plain: Bytes, out: Bytes) -> bytes:
        """Into `out`; the tag."""
        encryptor = self._make(_nonce(number, segment)).encryptor()
        encryptor.authenticate_additional_data(self._context + _label(name, segment))
        encryptor.update_into(plain.data, out.data)
        encryptor.finalize()
        return bytes(encryptor.tag)

    def decrypt(self, number: int, name: str, segment: int, stored: Bytes, tag: bytes, into: Bytes) -> None:
        """Into memory of the same size, or the same memory. Raises BadArtifact where the tag does not fit."""
        from cryptography.exceptions import InvalidTag

        decryptor = self._make(_nonce(number, segment), tag).decryptor()
        decryptor.authenticate_additional_data(self._context + _label(name, segment))
        decryptor.update_into(stored.data, into.data)
        try:
            decryptor.finalize()
        except InvalidTag:
            raise BadArtifact(
                f"tensor {name} cannot be decrypted: the key is another one, or the sealed artifact was altered"
            ) from None


def _unit(form: Mapping[str, Any]) -> int:
    """Bytes of a segment: whole panels of a matrix, so that bands of its rows are whole segments."""
    panel = panel_of(form)[1] if form["kind"] != "sparse" and len(form.get("shape", "23")) > 1 else 64
    return max(1, _SEGMENT // max(panel, 1)) * max(panel, 1)


def _nonce(number: int, segment: int) -> bytes:
    return number.to_bytes(4, "big") + segment.to_bytes(8, "big")


def _label(name: str, segment: int) -> bytes:
    return f"{segment}/{name}".encode()


def _context(artifact: Artifact, forms: Mapping[str, Any]) -> bytes:
    """A digest of what the artifact says of itself."""
    said = {
        "config": artifact.config,
        "tokenizer": artifact.tokenizer_json,
        "task": artifact.task,
        "forms": dict(forms),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()
