"""The chest as sums of shadows: bones, lungs with their vessels, heart, findings, and what lies on the patient.

Knows one patient at a time, in shares of the picture's side. Knows nothing of devices, pictures or sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import Floats, arc, blur, coverage, ellipse, stroke
from ondevice.data.rendered.fields import Field, fractal, grid, smooth, step

FINDINGS = (
    "nodule",
    "effusion",
    "consolidation",
    "cardiomegaly",
    "pneumothorax",
    "atelectasis",
    "oedema",
    "interstitial",
)
NODULE, EFFUSION, CONSOLIDATION, HEART, PNEUMOTHORAX, ATELECTASIS, OEDEMA, NET = range(8)
_FINE = 192  # steps that a width of an edge is given in: softness does not depend on the picture's size
# R: the patient's right, on the left of the picture
_LETTER = np.array([(0, 0.06), (0, 0), (0.03, 0.003), (0.03, 0.028), (0, 0.03), (0.034, 0.06)])


@dataclass(frozen=True)
class Body:
    """Of one patient, in units of the picture's side: where things are before breathing and posture."""

    sex: int
    old: bool
    width: float
    apex: float
    dome: float
    heart: float
    ribs: float
    slant: float
    bone: float
    fat: float


def body_of(number: int, split: str) -> Body:
    random = np.random.default_rng([number, *b"xrays patient"])
    women, old = (0.3, 0.35) if split == "train" else (0.5, 0.5)
    sex = int(random.random() >= women)
    aged = bool(random.random() < old)
    return Body(
        sex=sex,
        old=aged,
        width=random.normal(0.335 + 0.015 * sex, 0.012),
        apex=random.normal(0.13, 0.012),
        dome=random.normal(0.735, 0.018),
        heart=random.normal(0.145 + 0.006 * aged, 0.007),
        ribs=random.normal(0.082, 0.003),
        slant=random.normal(0.16, 0.03),
        bone=random.normal(0.27 - 0.06 * aged, 0.02),
        fat=np.clip(random.normal(0.9, 0.25), 0.4, 1.7),
    )


def _band(line: Floats, half: float) -> Floats:
    """The outline of a smooth line of this half width."""
    along = np.gradient(line, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], 1) * (half / np.maximum(np.hypot(*along.T), 1e-9))[:, None]
    return np.concatenate([line + across, (line - across)[::-1]])


class Thorax:
    """The shadows of one patient. Coordinates are shares of the side, the patient's left at larger x."""

    def __init__(
        self, random: np.random.Generator, body: Body, findings: npt.NDArray[np.bool_], side: int
    ) -> None:
        self.random, self.body, self.findings, self.side = random, body, findings, side
        self.masks: dict[int, npt.NDArray[np.bool_]] = {}
        down, across = grid(side, side)
        # posture: turned, off centre, nearer or farther
        turn, zoom = random.normal(0, 0.025), random.normal(1.0, 0.03)
        x0, y0 = 0.5 + random.normal(0, 0.012), 0.5 + random.normal(0, 0.015)
        u, v = (across / side - x0) / zoom, (down / side - y0) / zoom
        self.x = 0.5 + u * np.cos(turn) + v * np.sin(turn)
        self.y = 0.5 - u * np.sin(turn) + v * np.cos(turn)
        self.pose = (x0, y0, turn, zoom)
        breath = random.normal(0, 0.012)
        # the liver lifts the right dome
        self.domes = [body.dome + breath + random.normal(mean, 0.010) for mean in (-0.018, 0.008)]
        self.collapse = int(random.integers(2))
        self.wet = np.zeros((side, side))  # how much of a pixel an effusion fills
        if findings[ATELECTASIS]:
            self.domes[self.collapse] -= random.uniform(0.015, 0.06)
        self.heart_size = body.heart * (
            random.uniform(1.17, 1.42) if findings[HEART] else random.uniform(0.95, 1.08)
        )
        self.lungs = [self._lung(which) for which in (0, 1)]
        self.lung = np.maximum(*self.lungs)
        self.free = self.edge = np.zeros((side, side))
        if findings[PNEUMOTHORAX]:
            self.free, self.edge = self._pneumothorax()

    def soft(self, field: npt.NDArray[np.floating], radius: float) -> Field:
        """Blurred by a radius in the steps of `_FINE`."""
        return blur(np.asarray(field, np.float64), radius * self.side / _FINE)

    def lines(self, lines: list[Floats], width: float) -> Field:
        """Coverage of lines through points, in shares of the side as their width, moved with the patient."""
        bands = [_band(self.moved(line), width * self.side / 2) for line in lines]
        return np.asarray(coverage(bands, self.side, self.side), np.float64)

    def moved(self, points: Floats) -> Floats:
        x0, y0, turn, zoom = self.pose
        u, v = (points[:, 0] - 0.5) * zoom, (points[:, 1] - 0.5) * zoom
        return (
            np.stack([x0 + u * np.cos(turn) - v * np.sin(turn), y0 + u * np.sin(turn) + v * np.cos(turn)], 1)
            * self.side
        )

    def _lung(self, which: int) -> Field:
        """How much each pixel is lung, 0..1: which 0 is the patient's right, seen on the left."""
        body, sign = self.body, (-1, 1)[which]
        across = (self.x - 0.5) * sign
        dome = self.domes[which]
        height = np.clip((self.y - body.apex) / (dome + 0.07 - body.apex), 1e-3, 1)
        # outer edge: narrow at the apex, widest low; inner edge along the mediastinum
        outer = body.width * (1 - (1 - height) ** 2.4) ** 0.5 * (0.93 + 0.09 * height)
        inner = 0.062 + 0.025 * (1 - height) ** 4 + 0.012 * height
        # the diaphragm: a dome that falls to a sharp angle at the side
        middle = 0.5 * (outer + inner)
        floor = dome + 0.09 * np.clip(np.abs(across - middle * 0.8) / 0.2, 0, 1.5) ** 2.2
        inside = np.minimum.reduce([outer - across, across - inner, floor - self.y, self.y - body.apex])
        return self.soft(step(inside * _FINE, 3.0), 0.8)

    def shadow(self) -> Field:
        """Attenuation of everything, about 0..1.5."""
        body, random, side = self.body, self.random, self.side
        trunk = self._trunk()
        air = self.lung * (1 + 0.05 * fractal(random, side, side, side / 10, 4))
        total = 0.95 * trunk + 0.05 * smooth(random, side, side, side / 5) * trunk
        total = total - 0.62 * air
        total += self._vessels()
        total += self._heart() + self._spine() + self._bones()
        total += self._findings()
        if body.sex == 0:
            total += self._breasts()
        # fluid has no air in it: it looks like the belly below
        total += self.wet * (1.06 * trunk - total)
        return np.asarray(total + self._things())

    def _trunk(self) -> Field:
        body = self.body
        neck, shoulder = 0.075 + 0.02 * body.fat, 0.1
        half = np.where(self.y < shoulder, neck + (np.clip(self.y, 0, shoulder) / shoulder) ** 3 * 0.32, 0.5)
        sides = body.width + 0.055 + 0.035 * body.fat + 0.02 * (self.y - 0.5)
        arm = np.clip((0.42 - self.y) / 0.2, 0, 1)  # the shoulders widen the picture's upper part
        half = np.minimum(half, sides + 0.12 * arm)
        trunk = step((half - np.abs(self.x - 0.5)) * _FINE, 6)
        thick = (
            1.0
            - 0.35 * np.clip(np.abs(self.x - 0.5) / 0.5, 0, 1) ** 2
            + 0.16 * np.clip((self.y - 0.7) / 0.3, 0, 1)
        )
        return np.asarray(self.soft(trunk, 3.0) * thick)

    def _heart(self) -> Field:
        size, body, random = self.heart_size, self.body, self.random
        bottom = self.domes[1] + 0.015
        x, y = self.x - (0.5 + 0.035 + 0.30 * (size - 0.12)), self.y - (bottom - size * 0.78)
        lean = 0.62
        along, side_on = x * np.cos(lean) + y * np.sin(lean), -x * np.sin(lean) + y * np.cos(lean)
        away = np.sqrt((along / (size * 1.22)) ** 2 + (side_on / (size * 0.93)) ** 2)
        muscle = step((1 - away) * size * _FINE, 5)
        # great vessels: the aortic knob on the left, the upper mediastinum
        knob = step(
            (1 - np.hypot((self.x - 0.556) / 0.036, (self.y - body.apex - 0.165) / 0.04)) * 0.036 * _FINE,
            4,
        )
        stem = step((0.055 + 0.01 * body.old - np.abs(self.x - 0.505)) * _FINE, 6) * step(
            (self.y - 0.1) * _FINE, 20
        )
        middle = np.maximum(muscle, np.maximum(knob, stem * step((self.domes[1] - self.y) * _FINE, 12)))
        middle = self.soft(middle, 1.6)
        if self.findings[HEART]:
            self.masks[HEART] = muscle > 0.5
        windpipe = np.exp(-(((self.x - 0.498) / 0.017) ** 2)) * np.clip((0.36 - self.y) / 0.05, 0, 1)
        return np.asarray(
            (0.44 + 0.02 * random.normal()) * middle * np.clip(self.lung + 0.35, 0, 1) - 0.15 * windpipe
        )

    def _spine(self) -> Field:
        column = np.exp(-((np.abs(self.x - 0.5) / 0.042) ** 4))
        gap = 0.5 + 0.5 * np.cos(2 * np.pi * self.y / (self.body.ribs * 0.82))
        return np.asarray(self.body.bone * 0.75 * column * (0.75 - 0.3 * gap**4))

    def _bones(self) -> Field:
        body, random, side = self.body, self.random, self.side
        back, front = [], []
        for sign in (-1, 1):
            for k in range(10):
                y = body.apex - 0.015 + k * body.ribs
                reach = body.width * min(1.0, (0.52 + 0.16 * k) ** 0.75) + 0.012
                t = np.linspace(0, 1, 14)
                x = 0.5 + sign * (0.035 + (reach - 0.035) * np.sin(t * np.pi / 2))
                back.append(
                    np.stack(
                        [x, y - 0.03 * np.sin(np.pi * t) * (1 - t) + body.slant * (0.5 + 0.05 * k) * t**2.4],
                        1,
                    )
                )
                if 0 < k < 7:
                    x = 0.5 + sign * (reach - (reach - 0.115) * t**0.8)
                    front.append(
                        np.stack(
                            [x, y + body.slant * (0.5 + 0.05 * k) + 0.085 * t + 0.02 * np.sin(np.pi * t)], 1
                        )
                    )
        width = 0.0215
        total = np.zeros((side, side))
        for lines, strength in ((back, 0.8), (front, 0.45)):
            full = self.lines(lines, width)
            rim = full - self.lines(lines, width * 0.55)
            total += body.bone * strength * (0.55 * full + 0.4 * np.clip(rim, 0, 1))
        collar = []
        for sign in (-1, 1):
            t = np.linspace(0, 1, 12)
            x = 0.5 + sign * (0.045 + 0.29 * t)
            collar.append(np.stack([x, body.apex + 0.105 - 0.085 * t + 0.028 * np.sin(2 * np.pi * t)], 1))
        full = self.lines(collar, 0.030)
        total += body.bone * (0.85 * full + 0.5 * (full - self.lines(collar, 0.017)))
        blade = [
            ellipse(0.5 + sign * (body.width + 0.035), 0.33, 0.055, 0.16, angle=-sign * 0.25)
            for sign in (-1, 1)
        ]
        blades = coverage([self.moved(each) for each in blade], side, side)
        total += 0.35 * body.bone * self.soft(np.asarray(blades, np.float64), 1.5)
        return total * (1 + 0.06 * smooth(random, side, side, side / 32))

    def _vessels(self) -> Field:
        """Branches from both hila, thinner outwards; thick and blurred under oedema."""
        random, side = self.random, self.side
        wide = 1.35 if self.findings[OEDEMA] else 1.0
        branches: dict[float, list[Floats]] = {}
        for which, sign in enumerate((-1, 1)):
            hilum = np.array([0.5 + sign * 0.085, 0.405 + 0.01 * which])
            for heading in np.linspace(-1.25, 1.35, 9) + random.normal(0, 0.1, 9):
                self._grow(branches, hilum, heading, sign, 0.0125 * random.uniform(0.7, 1.1) * wide, 4)
        total = np.zeros((side, side))
        for width, lines in branches.items():
            total = np.maximum(total, self.lines(lines, width) * min(1.0, 0.35 + width / 0.011))
        hila = sum(
            np.exp(
                -(((self.x - 0.5 - sign * 0.09) / 0.03) ** 2) - ((self.y - 0.41 - 0.015 * sign) / 0.055) ** 2
            )
            for sign in (-1, 1)
        )
        total = 0.21 * self.soft(total, 1.0) * self.lung + 0.13 * wide * hila * self.lung
        return np.asarray(total * (1 - self.free))

    def _grow(
        self,
        branches: dict[float, list[Floats]],
        start: Floats,
        heading: float,
        sign: int,
        width: float,
        left: int,
    ) -> None:
        random = self.random
        line, angle = [start], heading
        for _ in range(3):
            angle += random.normal(0, 0.16)
            line.append(line[-1] + 0.026 * np.array([sign * np.cos(angle), np.sin(angle)]))
        branches.setdefault(max(1, round(width / 0.002)) * 0.002, []).append(np.array(line))
        if left > 1:
            for split in (-0.33, 0.33):
                if random.random() < 0.86:
                    turned = angle + split + random.normal(0, 0.12)
                    self._grow(branches, line[-1], turned, sign, width * 0.74, left - 1)

    def _pneumothorax(self) -> tuple[Field, Field]:
        """Where no lung is left, and the lung's edge, both 0..1; with its mask."""
        which, depth = int(self.random.integers(2)), self.random.uniform(0.05, 0.10)
        height = np.clip((self.y - self.body.apex) / (self.domes[which] - self.body.apex), 0, 1)
        top = np.clip((self.y - self.body.apex - depth * 0.9) / 0.3, 1e-3, 1) ** 0.45
        shrunk = (self.body.width - depth * (1.25 - 0.75 * height)) * top
        out = ((self.x - 0.5) * (-1, 1)[which] - shrunk) * _FINE
        free = step(out, 2) * self.lungs[which]
        self.masks[PNEUMOTHORAX] = free > 0.5
        return free, np.asarray(np.exp(-((out / 2.2) ** 2)) * self.lungs[which])

    def _findings(self) -> Field:
        random, side = self.random, self.side
        total = np.zeros((side, side))
        if self.findings[PNEUMOTHORAX]:
            total += random.uniform(0.05, 0.13) * self.edge - 0.08 * self.free
        if self.findings[NODULE]:
            x, y = self._spot(0.12, 0.85)
            radius = random.uniform(0.024, 0.046)
            angle = np.arctan2(self.y - y, self.x - x)
            edge = radius * (1 + 0.10 * np.cos(3 * angle + random.uniform(0, 6)) + 0.06 * np.cos(5 * angle))
            round_ = step((edge - np.hypot(self.x - x, self.y - y)) * _FINE, 3.5)
            self.masks[NODULE] = round_ > 0.5
            total += random.uniform(0.24, 0.36) * round_ * self.lung
        if self.findings[CONSOLIDATION]:
            x, y = self._spot(0.3, 0.9)
            radius = random.uniform(0.075, 0.125)
            away = np.hypot((self.x - x) / random.uniform(0.85, 1.3), self.y - y) / radius
            cloud = step((1.05 - away + 0.28 * fractal(random, side, side, side / 9, 4)) * 4, 2.6) * self.lung
            self.masks[CONSOLIDATION] = cloud > 0.5
            patchy = np.clip(0.8 + 0.25 * fractal(random, side, side, side / 16, 3), 0.3, 1.2)
            total += random.uniform(0.18, 0.38) * self.soft(cloud, 1.5) * patchy
        if self.findings[EFFUSION]:
            which = int(random.integers(2))
            out = np.clip((self.x - 0.5) * (-1, 1)[which] / self.body.width, 0, 1)
            level = self.domes[which] - random.uniform(-0.03, 0.07) - 0.09 * out**5 + 0.03
            wet = step((self.y - level) * _FINE, 4) * (self.x * (-1, 1)[which] > 0.5 * (-1, 1)[which])
            wet = wet * self.soft(self.lungs[which], 1.0)
            self.masks[EFFUSION] = wet > 0.5
            self.wet = wet
        if self.findings[ATELECTASIS]:
            which = self.collapse
            sign, y = (-1, 1)[which], self.domes[which] - random.uniform(0.03, 0.09)
            tilt = random.normal(0, 0.25)
            off = self.y - y - tilt * ((self.x - 0.5) * sign - 0.2)
            width = random.uniform(0.010, 0.016)
            band = np.exp(-((off / width) ** 2)) * self.lungs[which]
            band = band * step(((self.x - 0.5) * sign - 0.09) * _FINE, 10)
            self.masks[ATELECTASIS] = band > 0.45
            total += random.uniform(0.11, 0.24) * band
        if self.findings[OEDEMA]:
            far = np.hypot((np.abs(self.x - 0.5) - 0.10) / 0.15, (self.y - 0.45) / 0.2)
            haze = (
                np.exp(-(far**2))
                * self.lung
                * np.clip(1 + 0.25 * fractal(random, side, side, side / 8, 4), 0, 2)
            )
            self.masks[OEDEMA] = (np.exp(-(far**2)) * self.lung) > 0.45
            total += random.uniform(0.09, 0.22) * haze
        if self.findings[NET]:
            cells = np.abs(fractal(random, side, side, side / 24, 2))
            net = np.clip(1 - 2.6 * cells, 0, 1) * self.lung
            low = np.clip(0.35 + 1.1 * (self.y - 0.3), 0.15, 1)
            self.masks[NET] = (self.lung * low) > 0.55
            total += random.uniform(0.24, 0.36) * net * low
        return total

    def _spot(self, top: float, bottom: float) -> tuple[float, float]:
        """A random place well inside a lung, away from the heart."""
        inside = self.soft(self.lung, 4) > 0.97
        inside &= np.hypot(self.x - 0.53, self.y - (self.domes[1] - 0.1)) > self.heart_size * 1.15
        inside &= (self.y > top) & (self.y < bottom)
        rows, columns = np.nonzero(inside)
        k = int(self.random.integers(len(rows)))
        return float(self.x[rows[k], columns[k]]), float(self.y[rows[k], columns[k]])

    def _breasts(self) -> Field:
        total = np.zeros((self.side, self.side))
        for sign in (-1, 1):
            x, y = self.x - (0.5 + sign * 0.2), self.y - 0.66
            away = np.sqrt((x / 0.155) ** 2 + (y / 0.155) ** 2)
            total += step((1 - away) * 0.15 * _FINE, 9) * (0.4 + 0.6 * np.clip(y / 0.15 + 0.4, 0, 1))
        return np.asarray(0.10 * self.body.fat**0.5 * total)

    def _things(self) -> Field:
        """What lies on or in the patient and says nothing: electrodes, tubes, a pacemaker, the side letter."""
        random, side = self.random, self.side
        total = np.zeros((side, side))
        if random.random() < 0.3:
            for _ in range(int(random.integers(2, 5))):
                x, y = random.uniform((0.15, 0.2), (0.85, 0.75))
                lead = np.array(
                    [(x, y), (x + random.normal(0, 0.06), y + 0.12), (x + random.normal(0, 0.15), 1.05)]
                )
                total += 0.25 * self.lines([lead], 0.006)
                total += 0.45 * coverage([self.moved(ellipse(x, y, 0.015))], side, side)
        if random.random() < 0.15:
            x = 0.5 + random.normal(0, 0.004)
            total += 0.22 * self.lines(
                [np.array([(x, -0.05), (x, 0.2), (x + 0.004, random.uniform(0.25, 0.33))])], 0.010
            )
        if random.random() < 0.12:
            total += 0.9 * coverage([self.moved(ellipse(0.75, 0.27, 0.055, 0.045))], side, side)
            wire = arc(0.66, 0.36, 0.11, 0.25, -1.2, 1.9)
            total += 0.5 * self.lines([wire], 0.008)
        if random.random() < 0.7:
            letter = stroke((_LETTER + random.uniform((0.05, 0.04), (0.09, 0.1))) * side, 0.011 * side)
            total += 0.9 * coverage(letter, side, side)
        return total
