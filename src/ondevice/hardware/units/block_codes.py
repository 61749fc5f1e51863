"""Decoders of the codes that flash usually has, as RTL: what outlier codes are set beside in logic cells.

Knows Hamming words of 64 bits (one error corrected, two found) and BCH over GF(2^14), eight errors of a sector. Knows
nothing of outliers. Both take two bytes in a cycle, as the flash core does, and are written as small as that allows:
the key equation runs in one multiplier while the next sector comes in.

Source: Hamming 1950; Bose and Ray-Chaudhuri 1960; Berlekamp's iteration without inversion after Burton 1971, which for
binary codes takes every other step.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ondevice.hardware.ecc import Hamming

ORDER, POLYNOMIAL = 14, 0b100010001000011  # x^14 + x^10 + x^6 + x + 1, primitive
BEAT = 16  # bits in a cycle


class HammingDecoder(wiring.Component):
    """Words of 64 bits. beat, valid: four beats of data, the lowest first, then one with the eight check bits. out,
    out_valid: the corrected beats while the next word comes in. lost: the word that is going out has two errors."""

    def __init__(self) -> None:
        super().__init__(
            {"beat": In(BEAT), "valid": In(1), "out": Out(BEAT), "out_valid": Out(1), "lost": Out(1)}
        )

    def elaborate(self, platform: Any) -> Module:
        m, code = Module(), Hamming(64)
        gathered, count = Signal(64), Signal(3)
        leaving, going = Signal(64), Signal(3)
        syndrome, odd = Signal(code.checks), Signal()
        data = code.data_positions
        with m.If(self.valid):
            m.d.sync += count.eq(Mux(count == 4, 0, count + 1))
            with m.If(count != 4):
                m.d.sync += gathered.eq(Cat(gathered[BEAT:], self.beat))
            with m.Else():
                found = [
                    Cat(
                        *(gathered[bit] for bit, at in enumerate(data) if at >> check & 1), self.beat[check]
                    ).xor()
                    for check in range(code.checks)
                ]
                m.d.sync += [
                    syndrome.eq(Cat(found)),
                    odd.eq(Cat(gathered, self.beat[: code.checks + 1]).xor()),
                ]
                m.d.sync += [leaving.eq(gathered), going.eq(4)]
        with m.If(going != 0):
            m.d.sync += [leaving.eq(leaving >> BEAT), going.eq(going - 1)]
        wrong = [
            odd & Mux(going == 4 - beat, 1, 0) & (syndrome == data[beat * BEAT + bit])
            for beat in range(4) for bit in range(BEAT)
        ]  # fmt: skip
        masks = [Cat(wrong[beat * BEAT : (beat + 1) * BEAT]) for beat in range(4)]
        m.d.comb += [
            self.out.eq(leaving[:BEAT] ^ masks[0] ^ masks[1] ^ masks[2] ^ masks[3]),
            self.out_valid.eq(going != 0),
            self.lost.eq(~odd & (syndrome != 0)),
        ]
        return m


class BCHDecoder(wiring.Component):
    """Sectors of `data` bytes with 14 t bits behind them, whole beats together.

    beat, valid: the sector, its first bit in the highest place. error, error_valid: beats of the same form in which a
    set bit was wrong, once a sector has come in and its key equation is solved (about 27 t cycles).
    """

    def __init__(self, data: int = 1024, t: int = 8) -> None:
        self.t, self.length = t, 8 * data + ORDER * t
        super().__init__({"beat": In(BEAT), "valid": In(1), "error": Out(BEAT), "error_valid": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m, t, beats = Module(), self.t, self.length // BEAT
        count = Signal(range(beats))
        sums = {j: Signal(ORDER, name=f"sum{j}") for j in range(1, 2 * t, 2)}
        ended = Signal()
        m.d.sync += ended.eq(0)
        with m.If(self.valid):
            m.d.sync += [count.eq(Mux(count == beats - 1, 0, count + 1)), ended.eq(count == beats - 1)]
            for j, value in sums.items():
                new = _times(Mux(count == 0, 0, value), power(BEAT * j))
                for k in range(BEAT):
                    new = new ^ (self.beat[k].replicate(ORDER) & power(j * k))
                m.d.sync += value.eq(new)

        # The key equation. locator: its coefficients; other: Berlekamp's second polynomial.
        syndromes = [Signal(ORDER, name=f"syndrome{j}") for j in range(1, 2 * t + 1)]
        locator = Array(Signal(ORDER, name=f"locator{i}") for i in range(t + 1))
        other = Array(Signal(ORDER, name=f"other{i}") for i in range(t + 1))
        gamma, delta, product = (Signal(ORDER, name=name) for name in ("gamma", "delta", "product"))
        i, step = Signal(range(t + 1)), Signal(range(t + 1))
        slack = Signal(range(-2 * t, 2 * t + 2))
        one, two, solved = Signal(ORDER), Signal(ORDER), Signal()
        result = multiply(one, two)
        keep = Signal()
        m.d.comb += keep.eq((delta != 0) & (slack >= 0))
        m.d.sync += solved.eq(0)
        with m.FSM():
            with m.State("WAIT"), m.If(ended):
                m.next = "SUM"
                m.d.sync += [syndromes[j - 1].eq(value) for j, value in sums.items()]
                for j in range(2, 2 * t + 1, 2):
                    m.d.sync += syndromes[j - 1].eq(_to_the(sums[_odd(j)], j // _odd(j)))
                m.d.sync += [each.eq(1 if n == 0 else 0) for n, each in enumerate(locator)]
                m.d.sync += [each.eq(1 if n == 0 else 0) for n, each in enumerate(other)]
                m.d.sync += [gamma.eq(1), delta.eq(0), slack.eq(0), step.eq(0), i.eq(0)]
            with m.State("SUM"):
                m.d.comb += [one.eq(locator[i]), two.eq(_window(syndromes, step, i, t))]
                m.d.sync += [delta.eq(delta ^ result), i.eq(Mux(i == t, t, i + 1))]
                with m.If(i == t):
                    m.next = "SCALE"
            with m.State("SCALE"):
                m.d.comb += [one.eq(gamma), two.eq(locator[i])]
                m.d.sync += product.eq(result)
                m.next = "ADD"
            with m.State("ADD"):
                below = Mux(i == 0, 0, other[i - 1])
                m.d.comb += [one.eq(delta), two.eq(below)]
                m.d.sync += locator[i].eq(product ^ result)
                m.d.sync += other[i].eq(
                    Mux(keep, Mux(i == 0, 0, locator[i - 1]), Mux(i < 2, 0, other[i - 2]))
                )
                m.d.sync += i.eq(i - 1)
                m.next = "SCALE"
                with m.If(i == 0):
                    m.d.sync += [i.eq(0), delta.eq(0), step.eq(step + 1)]
                    m.d.sync += slack.eq(Mux(keep, -slack, slack + 2))
                    m.next = "SUM"
                    with m.If(keep):
                        m.d.sync += gamma.eq(delta)
                    with m.If(step == t - 1):
                        m.d.sync += solved.eq(1)
                        m.next = "WAIT"

        # Where the locator is zero, sixteen places at a time.
        terms = [Signal(ORDER, name=f"term{j}") for j in range(t + 1)]
        going = Signal(range(beats + 1))
        with m.If(solved):
            m.d.sync += going.eq(beats)
            m.d.sync += [
                term.eq(_times(locator[j], power(-j * (self.length - 1)))) for j, term in enumerate(terms)
            ]
        with m.Elif(going != 0):
            m.d.sync += going.eq(going - 1)
            m.d.sync += [term.eq(_times(term, power(BEAT * j))) for j, term in enumerate(terms)]
        for k in range(BEAT):
            value = terms[0]
            for j in range(1, t + 1):
                value = value ^ _times(terms[j], power(j * k))
            m.d.comb += self.error[BEAT - 1 - k].eq(value == 0)
        m.d.comb += self.error_valid.eq(going != 0)
        return m


def encode(data: bytes, t: int = 8) -> int:
    """A sector of BCHDecoder as one number, its first bit the highest."""
    generator = 1
    for least in _roots(t):
        generator = _carryless(generator, least)
    shifted = int.from_bytes(data, "big") << (ORDER * t)
    rest, top = shifted, generator.bit_length()
    while rest.bit_length() >= top:
        rest ^= generator << (rest.bit_length() - top)
    return shifted | rest


@cache
def power(exponent: int) -> int:
    """The generator of the field to an exponent of any sign."""
    value = 1
    for _ in range(exponent % (2**ORDER - 1)):
        value = value << 1 ^ (POLYNOMIAL if value >> (ORDER - 1) else 0)
    return value


def multiply(x: Signal, y: Signal) -> Any:
    """Of two elements of the field."""
    total: Any = 0
    for bit in range(ORDER):
        total = total ^ (_times(x, 1 << bit) & y[bit].replicate(ORDER))
    return total


def _times(x: Any, constant: int) -> Any:
    """x as a value of the field times a constant."""
    return _linear(x, [_product(1 << bit, constant) for bit in range(ORDER)])


def _to_the(x: Any, exponent: int) -> Any:
    """x to a power of two."""
    columns = [1 << bit for bit in range(ORDER)]
    while exponent > 1:
        columns, exponent = [_product(column, column) for column in columns], exponent // 2
    return _linear(x, columns)


def _linear(x: Any, columns: list[int]) -> Any:
    """A net of exclusive ors: bit by bit of x, what it adds."""
    return Cat(
        Cat(*(x[bit] for bit in range(ORDER) if columns[bit] >> row & 1)).xor() for row in range(ORDER)
    )


def _window(syndromes: list[Signal], step: Signal, i: Signal, t: int) -> Any:
    """Syndrome 2 step + 1 - i, counted from 1; 0 before the first."""
    padded = Array([*([0] * t), *syndromes])
    return padded[(step << 1) + t - i]


def _product(a: int, b: int) -> int:
    value = _carryless(a, b)
    while value.bit_length() > ORDER:
        value ^= POLYNOMIAL << (value.bit_length() - ORDER - 1)
    return value


def _carryless(a: int, b: int) -> int:
    value = 0
    while b:
        if b & 1:
            value ^= a
        a, b = a << 1, b >> 1
    return value


def _odd(number: int) -> int:
    while number % 2 == 0:
        number //= 2
    return number


def _roots(t: int) -> list[int]:
    """The minimal polynomials of the generator's odd powers below 2 t, as bits over GF(2)."""
    found = []
    for j in range(1, 2 * t, 2):
        coefficients, exponent = [1], j  # over the field, the lowest first
        while True:
            root = power(exponent)
            shifted = [0, *coefficients]
            scaled = [*(_product(value, root) for value in coefficients), 0]
            coefficients = [a ^ b for a, b in zip(shifted, scaled, strict=True)]
            exponent = exponent * 2 % (2**ORDER - 1)
            if exponent == j:
                break
        found.append(sum(value << place for place, value in enumerate(coefficients)))
    return found
