"""A decoder in a trusted world on a published chip: how long until its first token, by the schedule of real runs.

Knows published figures and a decoder's proportions; all of it is modelled. Runs nothing.

Sources: "TZ-LLM: Protecting On-Device Large Language Models with Arm TrustZone" (Llama-3-8B at 8 bits on an RK3588:
what starting, allocating, reading and decrypting take, and how much faster the accelerator is); airockchip/rknn-llm,
README of version 1.1.3 (a prompt of 64 tokens).
"""

from __future__ import annotations

from dataclasses import dataclass

from ondevice.devices.simulate.pipeline import simulate
from ondevice.runtime.schedule.restoration import CPU, NPU, Compute, Policy, Restoration, Restore, graph


@dataclass(frozen=True)
class Published:
    """Seconds of start, allocation, reading and decryption of all weights, and of a token of a prompt on the
    accelerator; how many times as long the processor takes for it; layers, hidden size, vocabulary, parameters."""

    start: float
    allocate: float
    read: float
    decrypt: float
    token: float
    times: float
    layers: int
    hidden: int
    words: int
    parameters: float


RK3588 = Published(2.3, 4.2, 4.05, 0.9, 1.128 / 64, 7.3, 32, 4096, 128256, 8.03e9)


def first_token(chip: Published, tokens: int, policy: Policy, *, accelerator: bool = True) -> float:
    """Seconds to the first token after a prompt, from nothing. Without the accelerator the processor multiplies too.

    Attention is the processor's in any case; its time is its share of the operations, at the processor's rate. Memory
    and decryption are cut into 16 pieces a layer.
    """
    table = chip.words * chip.hidden / chip.parameters
    layer = (1 - 2 * table) / chip.layers
    products = chip.token * tokens
    attention = products * chip.times * chip.layers * tokens * chip.hidden / chip.parameters
    lane, rate = (NPU, 1.0) if accelerator else (CPU, chip.times)

    def restore(share: float) -> tuple[Restore, ...]:
        return (Restore(share * chip.allocate, share * chip.read, share * chip.decrypt, (16, 16)),)

    chain = [Compute("embeddings", CPU, 0.0, restore(table))]
    for number in range(chip.layers):
        chain.append(Compute(f"attention {number}", CPU, attention / chip.layers))
        chain.append(Compute(f"products {number}", lane, rate * products / chip.layers, restore(layer)))
    chain.append(Compute("head", lane, 0.0, restore(table)))
    return chip.start + max(ran.end for ran in simulate(Restoration(graph(chain)[0], policy)))
