"""The compute core of a flash die as RTL: outlier codes are decoded on the way into two multiply-accumulate units.

Knows streams of a page's bytes, its spare area and an input slice; the same bits as `ondevice.hardware.ecc`, which is
its oracle. Knows nothing of flash timing.

Two values go by in a cycle. Each entry of the spare area takes a cycle of its own, so a page takes page / 2 + entries
cycles and the threshold's copies.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ondevice.errors import BadInput
from ondevice.hardware.ecc import THRESHOLD_COPIES, OutlierECC


class OutlierDecoder(wiring.Component):
    """Bytes in, corrected bytes out.

    start: clears for a page. copy, copy_valid: the copies of the threshold, first. raw, raw_valid, raw_ready: two
    values, the first in the low byte; raw is held until it is taken. entry, entry_valid, entry_ready: of the spare
    area, in order. out: the two corrected values in the cycle in which raw is taken.
    """

    def __init__(self, code: OutlierECC) -> None:
        if code.page & (code.page - 1):
            raise BadInput(f"the core counts pages of a power of two, not {code.page}")
        self.code = code
        super().__init__(
            {
                "start": In(1), "copy": In(8), "copy_valid": In(1), "raw": In(16), "raw_valid": In(1),
                "raw_ready": Out(1), "entry": In(code.entry_bits), "entry_valid": In(1), "entry_ready": Out(1),
                "out": Out(16),
            }
        )  # fmt: skip

    def elaborate(self, platform: Any) -> Module:
        m, code = Module(), self.code
        hamming = code.address
        threshold = Signal(8)
        for bit in range(8):
            count = Signal(range(THRESHOLD_COPIES + 1), name=f"count{bit}")
            with m.If(self.start):
                m.d.sync += count.eq(0)
            with m.Elif(self.copy_valid):
                m.d.sync += count.eq(count + self.copy[bit])
            m.d.comb += threshold[bit].eq(count > THRESHOLD_COPIES // 2)

        held, held_valid = Signal(code.entry_bits), Signal()
        left = Signal(range(code.kept + 1))
        pair = Signal(range(code.page // 2))
        word = held[: hamming.length]
        syndrome = Cat(
            Cat(*(word[at - 1] for at in range(1, hamming.length) if at >> check & 1)).xor()
            for check in range(hamming.checks)
        )
        odd = Signal()
        m.d.comb += odd.eq(word.xor())
        repaired = Cat(word[at - 1] ^ (odd & (syndrome == at)) for at in hamming.data_positions)
        address, usable = Signal(hamming.bits), Signal()
        m.d.comb += [address.eq(repaired), usable.eq(Mux(odd, syndrome < hamming.length, syndrome == 0))]

        here, ahead, take, drop = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            here.eq(held_valid & usable & (address[1:] == pair)),
            ahead.eq(held_valid & usable & (address[1:] > pair)),
            drop.eq(held_valid & ~here & ~ahead),
            take.eq(here & self.raw_valid),
            self.raw_ready.eq(self.raw_valid & (ahead | (~held_valid & (left == 0)))),
            self.entry_ready.eq((left != 0) & self.entry_valid & (~held_valid | take | drop)),
        ]
        with m.If(self.start):
            m.d.sync += [held_valid.eq(0), left.eq(code.kept), pair.eq(0)]
        with m.Else():
            with m.If(self.entry_ready):
                m.d.sync += [held.eq(self.entry), held_valid.eq(1), left.eq(left - 1)]
            with m.Elif(take | drop):
                m.d.sync += held_valid.eq(0)
            with m.If(self.raw_ready):
                m.d.sync += pair.eq(pair + 1)

        first, second = held[hamming.length :][:8], held[hamming.length + 8 :][:8]
        for lane in range(2):
            raw = self.raw.word_select(lane, 8)
            fixed, fixed_valid = Signal(8, name=f"fixed{lane}"), Signal(name=f"fixed_valid{lane}")
            with m.If(self.start | self.raw_ready):
                m.d.sync += fixed_valid.eq(0)
            with m.Elif(take & (address[0] == lane)):
                voted = raw & first | raw & second | first & second
                m.d.sync += [fixed.eq(voted), fixed_valid.eq(1)]
            size = Signal(8, name=f"size{lane}")
            m.d.comb += size.eq(Mux(raw[7], -raw, raw))
            small = Mux(size > threshold, Const(0, 8), raw)
            m.d.comb += self.out.word_select(lane, 8).eq(Mux(fixed_valid, fixed, small))
        return m


class FlashCore(wiring.Component):
    """A page times an input slice.

    columns: values of a row of the page's tile. x: the two inputs of the columns `column` and `column` + 1. sum,
    sum_valid: a row's partial output, in the cycle after its last pair. The rest as of OutlierDecoder.
    """

    def __init__(self, code: OutlierECC, columns: int) -> None:
        if columns < 2 or code.page % columns or columns & (columns - 1):
            raise BadInput(f"rows of {columns} values do not fill a page of {code.page}")
        self.code, self.columns = code, columns
        super().__init__(
            {
                "start": In(1), "copy": In(8), "copy_valid": In(1), "raw": In(16), "raw_valid": In(1),
                "raw_ready": Out(1), "entry": In(code.entry_bits), "entry_valid": In(1), "entry_ready": Out(1),
                "x": In(16), "column": Out(range(columns)), "sum": Out(signed(32)), "sum_valid": Out(1),
            }
        )  # fmt: skip

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.decoder = decoder = OutlierDecoder(self.code)
        for name in ("start", "copy", "copy_valid", "raw", "raw_valid", "entry", "entry_valid"):
            m.d.comb += getattr(decoder, name).eq(getattr(self, name))
        for name in ("raw_ready", "entry_ready"):
            m.d.comb += getattr(self, name).eq(getattr(decoder, name))
        pair = Signal(range(max(2, self.columns // 2)))
        m.d.comb += self.column.eq(pair << 1)
        products = Array(
            decoder.out.word_select(lane, 8).as_signed() * self.x.word_select(lane, 8).as_signed()
            for lane in range(2)
        )
        running, last = Signal(signed(32)), Signal()
        total = Signal(signed(32))
        m.d.comb += [total.eq(running + products[0] + products[1]), last.eq(pair == self.columns // 2 - 1)]
        m.d.sync += self.sum_valid.eq(0)
        with m.If(self.start):
            m.d.sync += [running.eq(0), pair.eq(0)]
        with m.Elif(self.raw_ready):
            m.d.sync += [running.eq(Mux(last, 0, total)), pair.eq(Mux(last, 0, pair + 1))]
            m.d.sync += [self.sum.eq(total), self.sum_valid.eq(last)]
        return m
