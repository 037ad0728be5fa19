"""The built-in data set: small drawn pictures with captions that tell only a part of them.

It needs no download and shows what the project is about: a caption leaves out some of what is
there, and a picture hides some of it behind other things, at its edge or in look-alikes, so a model
of both beats a model of either. It is written in the layout of the report's data, with its label
numbers, and read by the same reader.
"""

import atexit
import csv
import os
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmlabel.cache import fingerprint, read_entry, say_unkept, turn, write_entry
from mmlabel.data.drawing import FURS, PAINTS, draw_scene
from mmlabel.data.splits import SPLITS
from mmlabel.errors import UserError

DRAWING_VERSION = 1  # raise it with every change of what is drawn or told: caches depend on it
MAX_OBJECTS = 4


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How the objects of one label are called and how often they occur."""

    words: tuple[str, ...]  # the first is the usual one
    weight: float
    paints: tuple[str, ...] = ()  # names of colours that a caption may tell


# Weights: the square roots of the counts in the report's data, so that the rare labels are learnt.
KINDS: dict[int, Kind] = {
    1: Kind(words=("man", "woman", "person", "boy", "girl", "lady", "pedestrian"), weight=151),
    2: Kind(words=("bicycle", "bike", "cycle"), weight=34, paints=tuple(PAINTS)),
    3: Kind(words=("car", "sedan", "taxi", "vehicle"), weight=66, paints=tuple(PAINTS)),
    4: Kind(words=("motorcycle", "motorbike", "scooter", "bike"), weight=36, paints=tuple(PAINTS)),
    5: Kind(words=("airplane", "plane", "jet", "aircraft"), weight=34),
    6: Kind(
        words=("bus", "coach", "minibus", "vehicle"),
        weight=37,
        paints=("red", "yellow", "blue"),
    ),
    7: Kind(words=("train", "locomotive", "tram"), weight=35, paints=("green", "orange", "silver")),
    8: Kind(
        words=("truck", "lorry", "van", "vehicle"),
        weight=47,
        paints=("white", "red", "green", "orange"),
    ),
    9: Kind(
        words=("boat", "ship", "sailboat", "yacht"),
        weight=32,
        paints=("red", "blue", "white", "yellow"),
    ),
    10: Kind(words=("traffic light", "stoplight", "traffic signal"), weight=38),
    11: Kind(words=("fire hydrant", "hydrant"), weight=25, paints=("red", "yellow")),
    13: Kind(words=("stop sign", "octagonal sign", "road sign"), weight=25),
    14: Kind(words=("parking meter", "meter"), weight=16),
    15: Kind(words=("bench", "wooden seat"), weight=44, paints=("green", "white", "red", "brown")),
    16: Kind(words=("bird", "sparrow", "pigeon", "gull"), weight=33, paints=tuple(FURS)),
    17: Kind(
        words=("cat", "kitten", "tabby", "animal"),
        weight=38,
        paints=("ginger", "grey", "black"),
    ),
    18: Kind(
        words=("dog", "puppy", "hound", "animal"),
        weight=39,
        paints=("brown", "white", "black"),
    ),
    19: Kind(
        words=("horse", "pony", "foal", "animal"),
        weight=32,
        paints=("brown", "white", "black"),
    ),
}

# Where it all stands: the labels that are at home there, and how a caption may call it.
PLACES: dict[str, tuple[frozenset[int], tuple[str, ...]]] = {
    "street": (
        frozenset({3, 6, 8, 10, 11, 13, 14}),
        ("on the street", "downtown", "in the city", "at the corner"),
    ),
    "park": (
        frozenset({2, 15, 16, 17, 18}),
        ("in the park", "on the grass", "under the trees", "in a garden"),
    ),
    "shore": (frozenset({9, 15, 16}), ("by the water", "at the harbour", "near the shore")),
    "country": (
        frozenset({4, 5, 7, 19}),
        ("in the countryside", "in a field", "out in the open", "on a farm"),
    ),
}

NAMED = 0.62  # the share of what is shown that the caption names
USUAL_WORD = 0.5
SKIES = ("sunny", "cloudy", "rainy", "windy", "cold", "lovely", "quiet", "busy", "grey")
SIGNS = ("for rent", "open", "sale today", "welcome", "no entry")
TELLING = (
    "{things} {where}.",
    "{things} {where}.",
    "{things}.",
    "There is {things} {where}.",
    "A photo of {things}.",
    "{things} on a {weather} day.",
    "A {weather} day {where} with {things}.",
    "{things}, seen {where} on a {weather} afternoon.",
    '{things} by a wall that says "{sign}".',
    "A close look at {things} {where}.",
)
TELLING_NOTHING = (
    "A {weather} scene outside.",
    "A {weather} day {where}.",
    "Nothing much is happening {where}.",
    'A board {where} reading "{sign}".',
    "What a {weather} morning!",
    "Everything one can find {where}.",
    "A snapshot taken {where}.",
)


@dataclass(frozen=True)
class Scene:
    """What one picture shows and what its caption tells of it."""

    labels: tuple[int, ...]  # one object each, in no particular order
    paints: tuple[str, ...]  # one colour name each, "" where captions never tell it
    place: str
    caption: str

    @property
    def objects(self) -> list[tuple[int, str]]:
        """The label and the colour name of each object."""
        return list(zip(self.labels, self.paints, strict=True))


def compose(*, seed: int, number: int) -> Scene:
    """Choose what the `number`-th picture of a seed shows, and word its caption."""
    rng = random.Random(f"scene {seed} {number}")
    count = rng.choices(range(1, MAX_OBJECTS + 1), weights=(35, 36, 20, 9))[0]
    weights = {label: kind.weight for label, kind in KINDS.items()}
    labels: list[int] = []
    while len(labels) < count:
        labels += rng.choices(list(weights), weights=list(weights.values()))
        del weights[labels[-1]]
    rng.shuffle(labels)
    paints = [rng.choice(KINDS[label].paints or ("",)) for label in labels]
    place = max(PLACES, key=lambda name: (len(PLACES[name][0] & set(labels)), rng.random()))
    told = [pair for pair in zip(labels, paints, strict=True) if rng.random() < NAMED]
    rng.shuffle(told)
    caption = word_caption(rng, told, place)
    return Scene(tuple(labels), tuple(paints), place, caption)


def word_caption(rng: random.Random, told: list[tuple[int, str]], place: str) -> str:
    """One sentence that names the told objects (label and colour) and nothing else."""
    phrases = [word_object(rng, label, paint) for label, paint in told]
    if len(phrases) == 2:
        things = rng.choice((" and ", " next to ", " near ", " with ")).join(phrases)
    else:
        things = " and ".join(filter(None, (", ".join(phrases[:-1]), *phrases[-1:])))
    caption = rng.choice(TELLING if told else TELLING_NOTHING).format(
        things=things,
        where=rng.choice(PLACES[place][1]),
        weather=rng.choice(SKIES),
        sign=rng.choice(SIGNS),
    )
    style = rng.random()
    if style < 0.04:
        return caption.upper()
    if style < 0.14:
        return caption.rstrip(".")
    return caption if style < 0.24 else caption[0].upper() + caption[1:]


def word_object(rng: random.Random, label: int, paint: str) -> str:
    """What a caption calls an object, with its article: "a red car", "an aeroplane"."""
    words = KINDS[label].words
    phrase = words[0] if rng.random() < USUAL_WORD else rng.choice(words)
    if paint and rng.random() < 0.35:
        phrase = f"{paint} {phrase}"
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def write_scenes(folder: Path, *, seed: int, rows: tuple[int, int, int], size: int) -> None:
    """Write the data set into `folder`: train.csv, splits.csv and data/*.jpg.

    Args:
        folder: made if need be.
        seed: the same seed gives the same labels, captions and drawings.
        rows: rows of the train, val and test split; ids count through them.
        size: width and height of the pictures in pixels.
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    split_of = [name for name, count in zip(SPLITS, rows, strict=True) for _ in range(count)]
    table, splits = [], []
    for number, split in enumerate(split_of):
        scene = compose(seed=seed, number=number)
        picture = draw_scene(scene.objects, scene.place, seed=seed, number=number, size=size)
        picture.save(folder / "data" / f"{number}.jpg", quality=90)
        table.append((f"{number}.jpg", " ".join(map(str, scene.labels)), scene.caption))
        splits.append((f"{number}.jpg", split))
    write_csv(folder / "train.csv", ("ImageID", "Labels", "Caption"), table)
    write_csv(folder / "splits.csv", ("ImageID", "split"), splits)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a CSV in UTF-8."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def scenes_folder(cache_dir: Path, *, seed: int, rows: tuple[int, int, int], size: int) -> Path:
    """The folder of the built-in data set under `cache_dir`, written if it is not there yet.

    It appears there whole or not at all, damage to any of its files has it written anew, and jobs
    that start together write it once. Where nothing can be written, it is a temporary folder of
    this process, and that is said. Raises UserError if there can be none of these either, and for a
    size in px at which nothing can be told apart.
    """
    if size < 32:
        raise UserError(f"size={size} of the built-in data: give at least 32 pixels")
    key = fingerprint(DRAWING_VERSION, seed, list(rows), size)
    folder = cache_dir / "scenes" / key
    if _is_whole(folder):
        return folder
    try:
        with turn(folder):
            if not _is_whole(folder):
                # The lock makes the name ours alone; what a killed job left there is written over.
                unfinished = folder.with_name(f".{key}.unfinished")
                try:
                    write_scenes(unfinished, seed=seed, rows=rows, size=size)
                    write_entry(_entry(folder), _checksum(unfinished))
                    shutil.rmtree(folder, ignore_errors=True)
                    os.rename(unfinished, folder)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
        return folder
    except OSError as error:
        say_unkept(cache_dir, error)
        return _temporary_folder(seed, rows, size)


def _entry(folder: Path) -> Path:
    """Where the checksum of a folder is kept."""
    return folder.with_name(f"{folder.name}.entry")


def _is_whole(folder: Path) -> bool:
    try:
        return read_entry(_entry(folder)) == _checksum(folder)
    except OSError:
        return False


def _checksum(folder: Path) -> bytes:
    """Changes with any file's name or content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return fingerprint([file.relative_to(folder).as_posix() for file in files], *files).encode()


@cache
def _temporary_folder(seed: int, rows: tuple[int, int, int], size: int) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix="mmlabel-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        write_scenes(folder, seed=seed, rows=rows, size=size)
    except OSError as error:
        raise UserError(
            f"the built-in pictures cannot be drawn: neither cache_dir nor the system's folder for "
            f"temporary files can be written ({error.strerror or error}); give cache_dir=FOLDER"
        ) from error
    return folder
