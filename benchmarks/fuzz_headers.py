"""Mutated headers of GGUF and safetensors: each is read, or refused with an error of ondevice, in little memory.

    python benchmarks/fuzz_headers.py --count 100000 --seed 0

Prints how many were read and refused, the most processor time of one and the most memory that the process took. Exits
with 1 at the first other error, and leaves the file that caused it beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from ondevice.errors import OndeviceError
from ondevice.runtime.weights.gguf.container import read_container
from ondevice.runtime.weights.gguf.model import GgufModel
from ondevice.runtime.weights.gguf.tokenizer import read_tokenizer
from ondevice.runtime.weights.safetensors import Checkpoint

NUMBERS = [
    0,
    1,
    2,
    7,
    31,
    33,
    2**15,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**40,
    2**60,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
WORDS = [
    "-1",
    "1e400",
    "NaN",
    "null",
    "[]",
    "{}",
    '"x"',
    "true",
    "99999999999999999999999",
    "-0",
    "0.5",
    "[[[[",
]


def gguf_file() -> bytes:
    """A whole small model with a tokenizer."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def field(key: str, kind: int, value: bytes) -> bytes:
        return text(key) + struct.pack("<I", kind) + value

    def texts(values: list[str]) -> bytes:
        return struct.pack("<IQ", 8, len(values)) + b"".join(map(text, values))

    fields = [
        field("general.architecture", 8, text("llama")),
        field("tokenizer.ggml.model", 8, text("gpt2")),
        field("tokenizer.ggml.pre", 8, text("llama-bpe")),
        field("tokenizer.ggml.tokens", 9, texts(["a", "b", "c", "ab", "abc", "<s>"])),
        field("tokenizer.ggml.token_type", 9, struct.pack("<IQ6i", 5, 6, 1, 1, 1, 1, 1, 3)),
        field("tokenizer.ggml.merges", 9, texts(["a b", "ab c"])),
        field("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 5)),
        field("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
    ]
    sizes = {"block_count": 1, "embedding_length": 32, "attention.head_count": 2, "context_length": 64}
    fields += [field(f"llama.{key}", 4, struct.pack("<I", value)) for key, value in sizes.items()]
    infos, offset = [], 0
    for name, shape, kind, size in (
        ("token_embd.weight", (32, 6), 0, 768), ("blk.0.attn_q.weight", (32, 32), 8, 1088),
        ("blk.0.ffn_down.weight", (32, 32), 2, 576), ("output_norm.weight", (32,), 0, 128),
    ):  # fmt: skip
        infos.append(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        offset += size
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(fields)) + b"".join(fields) + b"".join(infos)
    return head + bytes(-len(head) % 32) + bytes(offset)


def safetensors_file() -> bytes:
    """Three tensors."""
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "c": {"dtype": "I8", "shape": [0, 5], "data_offsets": [32, 32]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(32)


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to four changes: bits, bytes, numbers, cuts, copies, and words where a number stands in JSON."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(max(1, len(changed)))
        kind = draw.randrange(7)
        if kind == 0:
            changed[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 1 and changed:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            changed[at : at + 8] = struct.pack("<Q", draw.choice(NUMBERS))
        elif kind == 3:
            changed[at : at + 4] = struct.pack("<I", draw.choice(NUMBERS) & 0xFFFFFFFF)
        elif kind == 4:
            del changed[at : at + draw.choice((1, 4, 8, len(changed)))]
        elif kind == 5:
            start = draw.randrange(max(1, len(changed)))
            changed[at:at] = changed[start : start + draw.choice((1, 8, 64))]
        else:
            changed[at : at + draw.choice((1, 2, 3))] = draw.choice(WORDS).encode()
    return bytes(changed)


def read_gguf(path: Path) -> None:
    """All that is read before a kernel runs: header, configuration, names, tokenizer, and each tensor."""
    model = GgufModel(read_container(path))
    for tensor in model.tensors.values():
        tensor.array  # noqa: B018
    read_tokenizer(model.container.fields)


def read_safetensors(path: Path) -> None:
    """Every tensor of a folder."""
    for tensor in Checkpoint(path.parent).values():
        tensor.array  # noqa: B018


READERS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], None]]] = {
    "GGUF": ("model.gguf", gguf_file, read_gguf),
    "safetensors": ("model.safetensors", safetensors_file, read_safetensors),
}


def fuzz(what: str, folder: Path, count: int, seed: int) -> Iterator[tuple[str, float]]:
    """("read" or "refused", processor seconds) of each mutation; another error goes through."""
    name, whole, read = READERS[what]
    content, draw = whole(), random.Random(seed)
    path = folder / name
    path.write_bytes(content)
    read(path)  # the file itself is a good one
    for _ in range(count):
        path.unlink()
        path.write_bytes(mutate(content, draw))
        start = time.process_time()
        try:
            read(path)
            yield "read", time.process_time() - start
        except OndeviceError:
            yield "refused", time.process_time() - start


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--count", type=int, default=100_000, help="mutations in all, half of each format")
    arguments.add_argument("--seed", type=int, default=0)
    asked = arguments.parse_args()
    for what, (name, *_) in READERS.items():
        with tempfile.TemporaryDirectory() as folder:
            found, longest = Counter[str](), 0.0
            try:
                for outcome, seconds in fuzz(what, Path(folder), asked.count // 2, asked.seed):
                    found[outcome] += 1
                    longest = max(longest, seconds)
            except Exception:
                Path(f"failed-{name}").write_bytes(Path(folder, name).read_bytes())
                print(f"{what}: mutation {found.total()} fails; it is kept as failed-{name}", file=sys.stderr)
                raise
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"{what}: {found['read']} read, {found['refused']} refused; longest {longest * 1e3:.1f} ms; "
              f"process at most {most:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
