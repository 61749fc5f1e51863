"""Faces of many identities: who is it, under other pose, light, expression, glasses?

Knows which numbers make an identity and which a picture of it, how pairs are drawn for verification, and the layout
of Labeled Faces in the Wild. How a face is drawn stands in `portraits`.

Train and test share no identity: the width of the head and the distance of the eyes of those for training lie in even
cells of a 4 by 4 board, of those for the test in odd ones.

Measured on 600 pairs, half of the different ones hard, of 24 people of the test at 48 pixels: features of a small
ResNet trained for 16 epochs on 480 pictures of 40 others verify 70.5 % of them; of the same network with random weights
57.5 %; the pixels themselves 59.8 %.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import Random, coverage, enlarged, over, stroke, titled
from ondevice.data.rendered.portraits import IDENTITY, portrait
from ondevice.data.rendered.public import pictures_in, read_picture
from ondevice.data.sets import Array, DataSet, generator, kept
from ondevice.errors import BadInput

VERSION = "1"
_KEPT_FROM = 500
_CELLS = 4


def make(split: str, count: int, *, seed: int = 0, identities: int = 0, size: int = 64) -> DataSet:
    """Portraits.

    identities: how many people (0: a sixth of the pictures, one at least); their pictures follow each other.
    Arrays: images uint8 (n, size, size, 3); identities int64 (n,); factors float32 (n, 20), 0 to 1, those of the
    identity in the order of `portraits.IDENTITY`; landmarks float32 (n, 5, 2), x and y in pixels of the middles of the
    eyes, the tip of the nose and the corners of the mouth, from left to right in the picture; glasses int64 (n,).
    """
    random = generator("faces", split, seed)
    people = identities or max(1, count // 6)
    if count < 1 or size < 32 or people < 1:
        raise BadInput(
            f"faces need a count and identities of 1 and a size of 32 pixels, not {count}, {people}, {size}"
        )

    def draw_all() -> DataSet:
        known = np.stack([_identity(random, split) for _ in range(people)])
        rows = [portrait(random, known[row * people // count], size) for row in range(count)]
        arrays: dict[str, Array] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        who = np.arange(count) * people // count
        arrays |= {"identities": who.astype(np.int64), "factors": known[who].astype(np.float32)}
        return DataSet("faces", split, arrays, (), {"factors": list(IDENTITY)}, VERSION)

    if count < _KEPT_FROM:
        return draw_all()
    settings = {
        "version": VERSION,
        "split": split,
        "count": count,
        "seed": seed,
        "people": people,
        "size": size,
    }
    return kept("faces", settings, draw_all)


def draw(samples: DataSet, row: int) -> Array:
    """The picture, twice as large, with its landmarks, and the number of the person."""
    marked = enlarged(samples["images"][row], 2).astype(np.float64)
    dots = [piece for point in samples["landmarks"][row] for piece in stroke([point * 2], 3)]
    over(marked, coverage(dots, *marked.shape[:2]), (0, 255, 255))
    return titled(np.round(marked).astype(np.uint8), f"person {samples['identities'][row]}")


def pairs(
    samples: DataSet, count: int, *, seed: int = 0, hard: float = 0.5
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Pairs of rows to verify, (count,) each, and whether they show one person: half do, in random order.

    hard: of the pairs of two people, the share in which the other is one of the three most alike (by `factors`).
    Raises BadInput where there are not two people, one of them with two pictures.
    """
    random = generator("face pairs", "test", seed)
    people = samples["identities"]
    known, first_rows = np.unique(people, return_index=True)
    rows = {who: np.flatnonzero(people == who) for who in known}
    twice = [who for who in known if len(rows[who]) > 1]
    if len(known) < 2 or not twice:
        raise BadInput(
            "pairs need two people, and two pictures of one of them; make more pictures or fewer people"
        )
    alike = None
    if "factors" in samples.arrays and len(known) > 3:
        factors = samples["factors"][first_rows].astype(np.float64)
        alike = known[np.argsort(((factors[:, None] - factors) ** 2).sum(2), axis=1)[:, 1:4]]
    left, right, same = [], [], random.permutation(np.arange(count) % 2 == 0)
    for one in same:
        if one:
            a, b = random.choice(rows[twice[int(random.integers(len(twice)))]], 2, replace=False)
        else:
            index = int(random.integers(len(known)))
            if alike is not None and random.random() < hard:
                other = alike[index][int(random.integers(3))]
            else:
                other = random.choice(np.delete(known, index))
            a, b = random.choice(rows[known[index]]), random.choice(rows[other])
        left.append(a)
        right.append(b)
    return np.array(left, np.int64), np.array(right, np.int64), same


def cell(factors: Array) -> Array:
    """0 for identities of training, 1 for those of the test; factors (..., 20)."""
    board: Array = (
        np.minimum(np.asarray(factors)[..., [0, 2]] * _CELLS, _CELLS - 1).astype(np.int64).sum(-1) % 2
    )
    return board


def read_lfw(folder: str | Path, *, size: int = 64) -> DataSet:
    """Labeled Faces in the Wild: folder/NAME/NAME_0001.jpg. Arrays: images, scaled to size; identities; numbers, of the
    picture of that person. Names are `classes`. Raises BadInput for pictures that are not named so."""
    folder = Path(folder)
    paths = pictures_in(folder)
    names = tuple(sorted({path.parent.name for path in paths}))
    numbers = []
    for path in paths:
        stem, _, number = path.stem.rpartition("_")
        if stem != path.parent.name or not number.isdigit():
            raise BadInput(
                f"{path} is not named NAME/NAME_0001.jpg; give the folder that holds the people's folders"
            )
        numbers.append(int(number))
    arrays: dict[str, Array] = {
        "images": np.stack([read_picture(path, size=(size, size)) for path in paths]),
        "identities": np.array([names.index(path.parent.name) for path in paths], np.int64),
        "numbers": np.array(numbers, np.int64),
    }
    return DataSet(folder.name, "public", arrays, names)


def read_lfw_pairs(
    file: str | Path, samples: DataSet
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """pairs.txt of Labeled Faces in the Wild as rows of what `read_lfw` read, and whether they show one person.

    Raises BadInput for a missing file, a malformed line, and a picture that is not there, naming it.
    """
    path = Path(file)
    if not path.exists():
        raise BadInput(
            f"there is no {path}; download pairs.txt of Labeled Faces in the Wild beside its pictures"
        )
    numbers = samples["numbers"].tolist()
    row_of = {
        (samples.classes[who], number): row
        for row, (who, number) in enumerate(zip(samples["identities"], numbers))
    }
    found = []
    for line, text in enumerate(path.read_text().splitlines()[1:], start=2):
        words = text.split()
        if not words:
            continue
        if len(words) not in (3, 4) or not all(
            words[index].isdigit() for index in ((1, 2) if len(words) == 3 else (1, 3))
        ):
            raise BadInput(f"line {line} of {path} is neither NAME 1 2 nor NAME 1 OTHER 2")
        one, other = (words[0], int(words[1])), (words[-2] if len(words) == 4 else words[0], int(words[-1]))
        for who in (one, other):
            if who not in row_of:
                raise BadInput(
                    f"line {line} of {path} names picture {who[1]} of {who[0]}, which is not in the folder"
                )
        found.append((row_of[one], row_of[other], len(words) == 3))
    if not found:
        raise BadInput(f"{path} holds no pairs; its first line is their number, one pair a line after it")
    left, right, same = zip(*found)
    return np.array(left, np.int64), np.array(right, np.int64), np.array(same, np.bool_)


def _identity(random: Random, split: str) -> npt.NDArray[np.float64]:
    while True:
        factors = random.random(len(IDENTITY))
        if cell(factors) == (split == "test"):
            return factors
