"""What is said: templated commands of about a hundred words, single words, carrier sentences.

Knows English and the splits: a sentence is test's or training's by its hash, never both.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import numpy as np

SLOTS: dict[str, tuple[str, ...]] = {
    "number": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twenty", "thirty"),
    "room": ("kitchen", "bedroom", "garden", "garage", "office", "bathroom"),
    "thing": ("light", "lamp", "heater", "fan", "television", "radio"),
    "cover": ("door", "window", "gate", "curtain"),
    "person": ("mother", "father", "anna", "peter", "doctor", "maria"),
    "music": ("jazz", "rock", "piano", "classical"),
    "day": ("today", "tomorrow", "monday", "friday", "sunday"),
    "place": ("home", "work", "school", "station", "airport"),
    "colour": ("red", "green", "blue", "white"),
    "switch": ("on", "off"),
}  # fmt: skip
TEMPLATES = (
    "turn {switch} the {thing}",
    "turn {switch} the {room} {thing}",
    "please turn the {room} {thing} {switch}",
    "set the {thing} to {number}",
    "set the {room} {thing} to {colour}",
    "make the {room} {colour}",
    "open the {cover}",
    "close the {room} {cover}",
    "open the {room} {cover} {day}",
    "call {person}",
    "call {person} {day} at {number}",
    "send a message to {person}",
    "play {music}",
    "play {music} in the {room}",
    "play some {music} for {person}",
    "stop the {music}",
    "volume {number}",
    "what is the weather {day}",
    "set a timer for {number} minutes",
    "wake me at {number} {day}",
    "how far is the {place}",
    "take me to the {place}",
    "when is the next train to the {place}",
    "remind me to call {person} {day}",
    "stop the timer",
    "next song please",
)  # fmt: skip
_UNSEEN = 5  # every fifth sentence is test's


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Every word that a command may hold, sorted."""
    words = set(re.sub(r"{\w+}", "", " ".join(TEMPLATES)).split())
    return tuple(sorted(words.union(*SLOTS.values())))


def command(rng: np.random.Generator, split: str) -> str:
    """A command of 2 to 8 words that is of this split."""
    while True:
        template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
        text = re.sub(r"{(\w+)}", lambda slot: str(rng.choice(SLOTS[slot.group(1)])), template)
        # A template without slots has one sentence: it is training's, or training would never meet it.
        unseen = "{" in template and is_test(text)
        if unseen == (split == "test"):
            return text


def is_test(text: str) -> bool:
    """Whether a text is test's, by its hash."""
    return hashlib.sha256(text.encode()).digest()[0] % _UNSEEN == 0


NAMES = ("the farmer", "my sister", "the old captain", "a young nurse", "the teacher", "our neighbour", "the baker",
         "a tired driver", "the painter", "her brother", "the gardener", "a quiet student")  # fmt: skip
DEEDS = (
    "carried",
    "found",
    "painted",
    "repaired",
    "sold",
    "borrowed",
    "cleaned",
    "measured",
    "opened",
    "lost",
)
THINGS = ("a wooden box", "the yellow boat", "seven small cups", "the broken clock", "a heavy chair", "his new coat",
          "the garden fence", "two silver rings", "an empty bottle", "the long ladder", "a paper map")  # fmt: skip
WHERE = ("near the river", "before the storm", "on a cold morning", "behind the station", "after the concert",
         "in the village", "under the bridge", "last summer", "during the night", "by the harbour")  # fmt: skip


def carrier(rng: np.random.Generator, split: str) -> str:
    """A sentence of 8 to 12 words that is of this split."""
    while True:
        text = " ".join(str(rng.choice(part)) for part in (NAMES, DEEDS, THINGS, WHERE))
        if is_test(text) == (split == "test"):
            return text
