"""Queries made of templates and slots, with their intent and slot values; splits that share neither.

Knows a grammar: intents, each with templates, and slots, each with values. Knows nothing of models. The set
"templates" is commands to a phone; applications bring grammars of their own.

Of every intent each fourth template is for testing, of every slot each fourth value: a test query was never
seen, nor was what fills it, and `assert_disjoint` checks it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ondevice.data.page import draw_page
from ondevice.data.sets import DataSet, Ragged, generator
from ondevice.errors import BadInput

VERSION = "1"
_EACH = 4  # of templates and values, one in so many is for testing
_OPENINGS = ("", "", "", "hey, ", "ok, ", "computer, ", "well, ")


@dataclass(frozen=True)
class Grammar:
    """intents: name -> templates with slots in braces. slots: name -> values. Raises BadInput where a template
    names a slot that is not there, or a split of an intent or a slot would be empty."""

    name: str
    intents: Mapping[str, Sequence[str]]
    slots: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        if not self.intents:
            raise BadInput(f"the grammar {self.name} has no intents")
        for kind, table in (("templates", self.intents), ("values", self.slots)):
            for owner, entries in table.items():
                if len(entries) < _EACH or len(set(entries)) < len(entries):
                    raise BadInput(f"{owner} of {self.name} needs {_EACH} {kind} or more, no two equal")
        for intent, templates in self.intents.items():
            for template in templates:
                if missing := [slot for slot in _slots(template) if slot not in self.slots]:
                    raise BadInput(f"a template of {intent} has the slot {missing[0]}, which has no values")

    def make(self, split: str, count: int, *, seed: int = 0) -> DataSet:
        """Queries, the intents in equal parts and mixed.

        Arrays: text uint8 (UTF-8, of unequal length), labels (the intent), templates (its index in
        facts["templates"]), slots uint8 (JSON, slot -> value, of unequal length).
        """
        rng = generator(self.name, split, seed)
        if count < 1:
            raise BadInput(f"{count} queries are none; ask for 1 or more")
        names = list(self.intents)
        listing = [template for intent in names for template in self.intents[intent]]
        labels = rng.permutation(np.arange(count) % len(names))
        texts, chosen, filled = [], [], []
        for label in labels:
            templates = _side(self.intents[names[label]], split)
            template = templates[rng.integers(len(templates))]
            values = {}
            for slot in _slots(template):
                pool = _side(self.slots[slot], split)
                values[slot] = pool[rng.integers(len(pool))]
            texts.append(_OPENINGS[rng.integers(len(_OPENINGS))] + template.format(**values))
            chosen.append(listing.index(template))
            filled.append(json.dumps(values))
        return DataSet(
            self.name,
            split,
            {
                "text": _ragged(texts),
                "labels": labels.astype(np.int64),
                "templates": np.array(chosen, np.int64),
                "slots": _ragged(filled),
            },
            tuple(names),
            {"templates": listing},
            VERSION,
        )


def make(split: str, count: int, *, seed: int = 0) -> DataSet:
    """Commands to a phone; see `Grammar.make`."""
    return PHONE.make(split, count, seed=seed)


def rows(samples: DataSet, name: str) -> list[str]:
    """An array of texts as strings."""
    array = samples.ragged(name)
    return [array[row].tobytes().decode() for row in range(len(array))]


def assert_disjoint(train: DataSet, test: DataSet) -> None:
    """Raises BadInput with the template or the value that stands on both sides of a split."""
    sides = [
        {f"the template {samples.facts['templates'][index]!r}" for index in samples["templates"]}
        | {
            f"the value {value!r} of {slot}"
            for text in rows(samples, "slots")
            for slot, value in json.loads(text).items()
        }
        for samples in (train, test)
    ]
    if both := sorted(sides[0] & sides[1]):
        raise BadInput(f"{both[0]} and {len(both) - 1} more are in both {train.split} and {test.split}")


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The query, and under it its slots."""
    values = json.loads(samples.ragged("slots")[row].tobytes())
    label = int(samples["labels"][row])
    text = samples.ragged("text")[row].tobytes().decode()
    listing = "\n".join(f"    {slot} = {value}" for slot, value in values.items())
    return draw_page(samples.classes[label], f'"{text}"\n\n{listing}', label, lines=8)


def read_massive(folder: str | Path, split: str = "train", locale: str = "en-US") -> DataSet:
    """MASSIVE (FitzGerald 2022) as it is distributed: LOCALE.jsonl in the folder or in its folder data.

    The arrays of `Grammar.make`; a query's template is its annotation without the values. Raises BadInput where
    the file or the split is missing.
    """
    folder = Path(folder)
    path = next(
        (p for p in (folder / f"{locale}.jsonl", folder / "data" / f"{locale}.jsonl") if p.is_file()), None
    )
    if path is None:
        raise BadInput(f"{folder} has no {locale}.jsonl; unpack the MASSIVE archive there")
    found, intents = [], set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            intents.add(row["intent"])
            if row["partition"] == split:
                found.append((row["utt"], row["intent"], row["annot_utt"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path}, line {number} is not a row of MASSIVE: {error!r}") from error
    if not found:
        raise BadInput(f"{path} has no rows of the split {split!r}; it has train, dev and test")
    names = sorted(intents)
    templates = [re.sub(r"\[([^:\]]+) : [^]]*\]", r"{\1}", annotated) for _, _, annotated in found]
    listing = sorted(set(templates))
    position = {template: index for index, template in enumerate(listing)}
    values = [dict(re.findall(r"\[([^:\]]+) : ([^]]*)\]", annotated)) for _, _, annotated in found]
    return DataSet(
        "massive",
        split,
        {
            "text": _ragged([text for text, _, _ in found]),
            "labels": np.array([names.index(intent) for _, intent, _ in found], np.int64),
            "templates": np.array([position[template] for template in templates], np.int64),
            "slots": _ragged([json.dumps(each) for each in values]),
        },
        tuple(names),
        {"templates": listing},
        path.name,
    )


def _slots(template: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", template)


def _side(entries: Sequence[str], split: str) -> list[str]:
    return [entry for index, entry in enumerate(entries) if (index % _EACH == _EACH - 1) == (split == "test")]


def _ragged(texts: Sequence[str]) -> Ragged:
    return Ragged.of(np.frombuffer(text.encode(), np.uint8) for text in texts)


PHONE = Grammar(
    "templates",
    {
        "alarm": (
            "set an alarm for {time}", "wake me up at {time}", "I need to get up at {time}",
            "alarm at {time} on {day}",
            "make sure I am awake by {time} on {day}", "put an alarm on for {day}, {time}",
            "don't let me sleep past {time}", "my alarm should ring at {time}",
        ),
        "timer": (
            "set a timer for {duration}", "count down {duration}", "start a {duration} timer",
            "tell me after {duration}",
            "time {duration} for me", "I want a countdown of {duration}", "begin {duration} on the timer",
            "let me know when {duration} are over",
        ),
        "message": (
            "text {person} that {content}", "send {person} a message: {content}", "tell {person} {content}",
            "write to {person} and say {content}", "let {person} know {content}", "message {person}, {content}",
            "drop {person} a line saying {content}", "{person} should hear from me that {content}",
        ),
        "call": (
            "call {person}", "ring {person} on the {device}", "phone {person}", "get {person} on the line",
            "start a call with {person}", "dial {person}'s number", "I want to talk to {person}",
            "connect me to {person} with my {device}",
        ),
        "weather": (
            "what is the weather in {place}", "will it rain in {place} on {day}", "forecast for {place}",
            "how warm does it get in {place} {day}", "do I need an umbrella in {place}", "weather {place} {day}",
            "is it sunny in {place} right now", "tell me about {day}'s weather at {place}",
        ),
        "music": (
            "play {song} by {artist}", "put on some {artist}", "I want to hear {song}", "start {song}",
            "queue {song} from {artist}", "let's listen to {artist}", "music by {artist}", "can I have {song} on",
        ),
        "navigate": (
            "take me to {place}", "how do I get to {place}", "directions to {place} by {transport}",
            "navigate to {place}", "find a route to {place} without {obstacle}", "bring me to {place} by {transport}",
            "what is the fastest way to {place}", "guide me to {place} and avoid {obstacle}",
        ),
        "calendar": (
            "add {event} to my calendar on {day}", "schedule {event} for {day} at {time}", "I have {event} on {day}",
            "book {event} at {time}", "plan {event} with {person} on {day}",
            "new appointment: {event}, {day}, {time}",
            "put {event} down for {day}", "note that {event} is at {time} with {person}",
        ),
        "light": (
            "turn on the light in the {room}", "switch the {room} lights to {colour}", "make the {room} {colour}",
            "lights off in the {room}", "dim the {room}", "I want {colour} light in the {room}",
            "it is too dark in the {room}", "let the {room} glow {colour}",
        ),
        "settings": (
            "turn {setting} off", "enable {setting}", "switch {setting} on", "stop {setting}",
            "I don't need {setting} now", "activate {setting} on my {device}", "{setting} off please",
            "would you disable {setting} on the {device}",
        ),
    },
    {
        "time": tuple(f"{hour}:{minute:02}" for hour in range(5, 23) for minute in (0, 15, 30, 45)),
        "day": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "tomorrow", "today",
                "the third", "next week", "may 5"),
        "duration": tuple(f"{number} {unit}"
                    for number in (2, 5, 8, 10, 15, 25, 40, 50) for unit in ("minutes", "seconds", "hours")),
        "person": ("Anna", "Boris", "Chen", "Dilek", "Emil", "Fatima", "Georg", "Hana", "Ivan", "Jamila", "Kofi",
                   "Lena", "Marek", "Noor", "Oskar", "Priya"),
        "content": ("I am late", "dinner is ready", "the train has left", "we won the game", "I love the present",
                    "the key is under the mat", "the meeting moved", "he can call me back", "I forgot the milk",
                    "the parcel came", "we leave in an hour", "she should bring the tickets"),
        "place": ("Paris", "Lagos", "the airport", "Kyoto", "the office", "Lima", "the harbour", "Oslo",
                  "my dentist", "Delhi",
                  "the museum", "Quito", "the main station", "Cairo", "the nearest pharmacy", "Perth"),
        "song": ("Blue River", "Two Moons", "Hold the Door", "Paper Boats", "Falling Up", "Silver Road", "Nine Lives",
                 "Old Town Waltz", "Glass House", "Last Summer", "Northern Wind", "Counting Stars Again"),
        "artist": ("the Foxes", "Mira Lund", "Echo Park", "Tom Asher", "Los Gatos", "Ines Roca", "the Night Owls",
                   "Delta Nine",
                   "Yuki Mori", "the Blacksmiths", "Sam Okoro", "Velvet Rain"),
        "transport": ("bus", "bike", "train", "car", "tram", "ferry", "foot", "taxi"),
        "obstacle": ("tolls", "motorways", "ferries", "stairs", "tunnels", "traffic", "hills", "bridges"),
        "event": ("lunch", "a yoga class", "the budget meeting", "a haircut", "the school play", "choir practice",
                  "a job interview",
                  "the plumber", "a chess match", "book club", "the vaccination", "a rehearsal"),
        "room": ("kitchen", "bedroom", "hall", "bathroom", "garage", "study", "attic", "living room"),
        "colour": ("red", "warm white", "blue", "green", "orange", "violet", "pink", "cold white"),
        "setting": ("bluetooth", "the hotspot", "flight mode", "dark mode", "wifi", "location", "the flashlight",
                    "notifications",
                    "mobile data", "battery saver", "auto rotate", "do not disturb"),
        "device": ("phone", "watch", "tablet", "headset", "car", "speaker", "laptop", "tv"),
    },
)  # fmt: skip
