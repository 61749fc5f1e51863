"""Chest radiographs from the front with eight findings, where each one lies, and who was radiographed on what.

Knows anatomy as sums of shadows, findings, patients and devices. Knows nothing of models.

What the beam meets adds up (Beer-Lambert): soft tissue, lungs as missing tissue with their vessels, heart, spine,
ribs, clavicles, diaphragm; the film shows it through the device's curve, blur and noise. Findings follow their
textbook signs: a nodule is a small round shadow, an effusion fills the angle beside the diaphragm with a rising
rim, a consolidation veils vessels, cardiomegaly widens the heart past half the chest, a pneumothorax is a lung
edge with no vessels beyond, an atelectasis a band under which the diaphragm has risen, oedema a haze from the hila
with thick vessels, an interstitial pattern a fine net. Electrodes, tubes, pacemakers and letters mean nothing.
Train and test differ in patients (anatomy, facts["patients"]) and in devices (facts["devices"]).

Measured by benchmarks/controls.py (2,500 train, 600 test, 96 pixels, other patients and devices; mean AUROC of the
eight findings): a linear head on the frozen random features of a small CNN (4 stages, 16 to 96 channels) 0.661; the
same CNN after 24 epochs 0.827, from 0.63 for the hardest finding to 0.97 for the easiest.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import blur, outlined
from ondevice.data.rendered.fields import smooth
from ondevice.data.rendered.thorax import (
    ATELECTASIS,
    EFFUSION,
    FINDINGS,
    HEART,
    OEDEMA,
    PNEUMOTHORAX,
    Body,
    Thorax,
    body_of,
)  # fmt: skip
from ondevice.data.sets import Array, DataSet, Ragged, generator, kept
from ondevice.errors import BadInput

VERSION = "4"
SEXES = ("female", "male")
PATIENTS = {"train": range(100_000), "test": range(100_000, 150_000)}
DEVICES = {"train": ("ceiling", "bucky", "mobile"), "test": ("tower", "cart")}
_ODDS = np.array([0.16, 0.16, 0.14, 0.14, 0.10, 0.13, 0.10, 0.11])
# A finding makes another likelier (row: given; column: then), as in the clinic.
_TOGETHER = {
    (HEART, OEDEMA): 0.35,
    (HEART, EFFUSION): 0.3,
    (OEDEMA, EFFUSION): 0.35,
    (EFFUSION, ATELECTASIS): 0.3,
}
# Contrast, gamma, blur (pixels), noise, unevenness of the field: what each device does to a picture.
_DEVICES = {
    "ceiling": (1.00, 1.00, 0.45, 0.012, 0.03),
    "bucky": (1.12, 0.90, 0.60, 0.018, 0.05),
    "mobile": (0.82, 1.15, 0.85, 0.028, 0.12),
    "tower": (1.05, 1.08, 0.55, 0.015, 0.06),
    "cart": (0.88, 0.95, 0.75, 0.024, 0.10),
}


def make(split: str, count: int, *, seed: int = 0, size: int = 96) -> DataSet:
    """Radiographs, each of another patient.

    images uint8 (n, size, size, 1), bone bright, the patient's right on the left; findings uint8 (n, 8), the
    columns are `classes`; masks uint8 (n, size, size), bit k set where finding k lies; labels int64 (n,), 1 where
    there is any finding; sex, old, devices int64 (n,), the subgroups: women are 30 % and the old 35 % of the
    train split, half of the test split; patients int64 (n,). Raises BadInput for another split or an empty set.
    """
    if count < 1 or size < 64:
        raise BadInput(f"{count} radiographs of {size} pixels: give 1 or more, of 64 pixels or more")
    settings = {"split": split, "count": count, "seed": seed, "size": size, "version": VERSION}
    random = generator("xrays", split, seed)

    def render() -> DataSet:
        names = DEVICES[split]
        patients = random.choice(len(PATIENTS[split]), count, replace=count > len(PATIENTS[split]))
        patients = np.asarray(patients + PATIENTS[split].start)
        images, masks = np.zeros((count, size, size, 1), np.uint8), np.zeros((count, size, size), np.uint8)
        findings = np.stack([_drawn_findings(random) for _ in range(count)])
        devices = np.asarray(random.integers(0, len(names), count))
        bodies = [body_of(int(patient), split) for patient in patients]
        for row in range(count):
            images[row, :, :, 0], masks[row] = _radiograph(
                random, bodies[row], findings[row], _DEVICES[names[devices[row]]], size
            )
        arrays: dict[str, Array | Ragged] = {
            "images": images,
            "findings": findings.astype(np.uint8),
            "masks": masks,
            "labels": np.asarray(findings.any(axis=1), np.int64),
            "sex": np.array([body.sex for body in bodies], np.int64),
            "old": np.array([body.old for body in bodies], np.int64),
            "devices": np.asarray(devices, np.int64),
            "patients": patients.astype(np.int64),
        }
        facts = {
            "devices": list(names),
            "sexes": list(SEXES),
            "patients": [PATIENTS[split].start, PATIENTS[split].stop],
        }
        return DataSet("xrays", split, arrays, FINDINGS, facts, VERSION)

    return kept("xrays", settings, render) if count > 256 else render()


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The radiograph, and beside it the same with each finding outlined in its own colour."""
    picture = samples["images"][row].repeat(3, axis=2)
    marked = picture.copy()
    colours = ((255, 80, 80), (80, 160, 255), (255, 200, 60), (255, 120, 220),
               (90, 230, 120), (200, 140, 255), (255, 150, 90), (120, 240, 240))  # fmt: skip
    for bit, colour in enumerate(colours):
        outlined(marked, (samples["masks"][row] >> bit & 1).astype(np.bool_), colour)
    return np.concatenate([picture, marked], axis=1)


def _drawn_findings(random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """A third of the radiographs show nothing."""
    found = random.random(8) < _ODDS * 1.5
    luck = random.random(len(_TOGETHER))
    for (given, then), odds, roll in zip(_TOGETHER, _TOGETHER.values(), luck):
        found[then] |= found[given] and roll < odds
    if found[PNEUMOTHORAX]:
        found[[EFFUSION, OEDEMA]] = False  # one side is shown without vessels: keep its signs readable
    return np.zeros(8, np.bool_) if random.random() < 0.2 else found


def _radiograph(
    random: np.random.Generator,
    body: Body,
    findings: npt.NDArray[np.bool_],
    device: tuple[float, float, float, float, float],
    size: int,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A picture and the bits of its mask."""
    thorax = Thorax(random, body, findings, size)
    density = thorax.shadow()
    contrast, gamma, soft, noise, uneven = device
    picture = np.clip(blur(density, soft * size / 96), 0, None)
    picture = picture + uneven * smooth(random, size, size, size * 0.9)
    low, high = np.percentile(picture, [2, 99.3])
    picture = (picture - low) / (high - low)
    picture = 0.5 + contrast * random.uniform(0.9, 1.1) * (picture - 0.5) + random.normal(0, 0.03)
    picture = np.clip(picture, 0, 1) ** (gamma * random.uniform(0.9, 1.1))
    picture += random.normal(0, noise, picture.shape) * (1.3 - 0.6 * picture)
    bits = np.zeros((size, size), np.uint8)
    for bit, mask in thorax.masks.items():
        bits |= mask.astype(np.uint8) << bit
    return np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8), bits
