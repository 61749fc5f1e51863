"""What a decoder costs in counts, and from them how fast it would write on a device: modelled, never measured.

Knows configurations, counts and device profiles. Runs nothing.

Source of the split: decode reads every weight once a token and is bound by memory, prefill shares them and is bound by
arithmetic (Laskaridis et al., "MELTing point", 2024, section 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ondevice.devices.profile import Achieved, Device, NumberFormat, Sourced
from ondevice.devices.roofline import Operation, Work, latency
from ondevice.errors import BadInput
from ondevice.kernels import PAGE, CacheDtype
from ondevice.runtime.kv.paged import PagedCache
from ondevice.runtime.weights.shapes import parameters

# Bits of a weight with its share of the scales, by the format's name.
FORMATS: dict[str, float] = {
    "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q4_0": 4.5, "tiles8": 8.25, "tiles4": 4.25, "tiles3": 3.25,
}  # fmt: skip
_SCRATCH = 64e6  # bytes of a process beside weights and cache: code, logits, buffers


@dataclass(frozen=True)
class RuntimeModel:
    """What a runtime makes of a device. compute, bandwidth: shares of what the device's software reaches.
    token_seconds: what a token costs beside its products, of one call through the runtime. resident: bytes of memory
    a byte of the file takes (1: as it is; 2: a repacked copy beside it)."""

    name: str
    compute: Sourced
    bandwidth: Sourced
    token_seconds: Sourced
    resident: Sourced


def own_runtime() -> RuntimeModel:
    """Ours, where nothing was calibrated: it is taken to reach what the device's profile grants to software."""
    return RuntimeModel(
        "ondevice",
        compute=Sourced(1.0, "assumed: what the profile grants"),
        bandwidth=Sourced(0.9, "assumed: 0.9 of what the profile grants, the aim of the kernels"),
        token_seconds=Sourced(1e-3, "assumed: about a millisecond of Python a token"),
        resident=Sourced(1.0, "counted: weights are used as they are stored"),
    )


@dataclass(frozen=True)
class Forecast:
    """memory: bytes of weights, cache and scratch. allowed: of the device. prefill, decode: tokens/s; first: seconds
    to the first token; None each where it does not fit."""

    memory: float
    allowed: float
    prefill: float | None
    decode: float | None
    first: float | None

    @property
    def fits(self) -> bool:
        return self.memory <= self.allowed


def weight_bytes(config: Mapping[str, Any], format: str) -> float:
    """Bytes of the stored matrices. BadInput for an unknown format."""
    return parameters(dict(config)) * _bits(format) / 8


def cache_bytes(config: Mapping[str, Any], tokens: float, cache: CacheDtype = "float16") -> float:
    """Bytes of keys and values of so many tokens, with their scales where they are kept in fewer bits."""
    sizes = config["num_hidden_layers"], config["num_key_value_heads"], config["head_dim"]
    return PagedCache.bytes_of(PAGE, *sizes, cache) / PAGE * tokens


def work(
    config: Mapping[str, Any], format: str, context: float, tokens: int = 1, cache: CacheDtype = "float16"
) -> Work:
    """One step over so many tokens whose past (themselves included, on average) is `context` tokens long: the layers'
    products, attention over the cache, the product with the vocabulary for the last token."""
    table = config["vocab_size"] * config["hidden_size"]
    body = parameters(dict(config)) - table * (1 if config["tie_word_embeddings"] else 2)
    bits = _bits(format)
    heads = config["num_attention_heads"] * config["head_dim"] * config["num_hidden_layers"]
    number_format: NumberFormat = "fp16" if format in ("f16", "bf16") else "int8"
    return [
        Operation("layers", body * tokens, body * bits / 8, 0, number_format),
        Operation("attention", 2 * heads * context * tokens, 0, cache_bytes(config, context, cache), "fp32"),
        Operation("head", table, table * bits / 8, 0, number_format),
    ]


def decode_bytes(
    config: Mapping[str, Any], format: str, context: float, cache: CacheDtype = "float16"
) -> float:
    """Bytes that one decoded token reads: weights once, and the cache."""
    return sum(each.weight_bytes + each.activation_bytes for each in work(config, format, context, 1, cache))


def forecast(
    config: Mapping[str, Any],
    format: str,
    device: Device,
    runtime: RuntimeModel,
    *,
    prompt: int = 512,
    tokens: int = 128,
    threads: int | None = None,
    cache: CacheDtype = "float16",
) -> Forecast:
    """Speed and memory of reading `prompt` tokens and writing `tokens`. BadInput for more threads than cores."""
    if threads is not None and not 1 <= threads <= device.cores.value:
        raise BadInput(f"{device.name} has {device.cores.value:g} cores, not {threads} threads")
    memory = weight_bytes(config, format) * runtime.resident.value + _SCRATCH
    memory += cache_bytes(config, prompt + tokens, cache)
    allowed = device.memory_limit.value
    if memory > allowed:
        return Forecast(memory, allowed, None, None, None)
    reached = _reached(device, runtime)
    reading = work(config, format, prompt / 2, prompt, cache)
    writing = work(config, format, prompt + tokens / 2, 1, cache)
    first = latency(reading, reached, threads) + runtime.token_seconds.value
    step = latency(writing, reached, threads) + runtime.token_seconds.value
    return Forecast(memory, allowed, prompt / first, 1 / step, first)


def scaled(runtime: RuntimeModel, factor: float) -> RuntimeModel:
    """The runtime with its free constants (shares up, overhead down) times a factor: how a forecast hangs on them."""
    return replace(
        runtime,
        compute=replace(runtime.compute, value=runtime.compute.value * factor),
        bandwidth=replace(runtime.bandwidth, value=runtime.bandwidth.value * factor),
        token_seconds=replace(runtime.token_seconds, value=runtime.token_seconds.value / factor),
    )


def _bits(format: str) -> float:
    if format not in FORMATS:
        raise BadInput(f"no format {format!r}; there are: {', '.join(FORMATS)}")
    return FORMATS[format]


def _reached(device: Device, runtime: RuntimeModel) -> Device:
    own = device.achieved
    shares = [1.0, 1.0] if own is None else [own.compute.value, own.bandwidth.value]
    source = f"{device.name}'s share times {runtime.name}'s"
    return replace(
        device,
        achieved=Achieved(
            Sourced(shares[0] * runtime.compute.value, source),
            Sourced(shares[1] * runtime.bandwidth.value, source),
            Sourced(0.0 if own is None else own.overhead.value, source),
        ),
    )
