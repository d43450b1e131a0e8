"""The little world that the demo's texts speak of: people, towns, trades, animals, things, words; all made up here.

The prose (text.py) tells these facts, and the instruction rows (instructions.py) ask for them, so that a base model
that has read the prose knows the answers and a short fine-tuning can teach it to give them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    """Words divided by white space."""
    return tuple(text.split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs written as "one/other", divided by white space."""
    return tuple((one, other) for one, _, other in (pair.partition("/") for pair in text.split()))


COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "grey", "orange", "purple")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PLACES = ("market", "harbour", "mill", "school", "bridge", "garden", "old well", "library", "inn", "tower")
NUMBER_WORDS = _words(
    """
    zero one two three four five six seven eight nine ten eleven twelve
    """
)


@dataclass(frozen=True)
class Town:
    name: str
    lies: str
    known_for: str


TOWNS = (
    Town("Oakford", "in a deep wood", "its tall oak trees"),
    Town("Millbrook", "on a quick little river", "its seven mills"),
    Town("Saltby", "by the sea", "its blue boats"),
    Town("Fernhill", "on a green hill", "its sweet honey"),
    Town("Stonewick", "at the foot of a mountain", "its old stone bridge"),
    Town("Larkmere", "beside a quiet lake", "its singing birds"),
    Town("Windham", "on a wide plain", "its kites"),
    Town("Pebble Bay", "on a sandy beach", "its white lighthouse"),
)


@dataclass(frozen=True)
class Trade:
    name: str
    makes: str
    """Third person present, with what is made: "bakes bread"."""
    made: str
    """The same in the past: "baked bread"."""
    tool: str


TRADES = (
    Trade("baker", "bakes bread", "baked bread", "an oven"),
    Trade("smith", "makes horseshoes", "made horseshoes", "a hammer"),
    Trade("weaver", "weaves cloth", "wove cloth", "a loom"),
    Trade("potter", "shapes bowls", "shaped bowls", "a wheel"),
    Trade("fisher", "catches fish", "caught fish", "a net"),
    Trade("carpenter", "builds tables", "built tables", "a saw"),
    Trade("gardener", "grows roses", "grew roses", "a spade"),
    Trade("miller", "grinds flour", "ground flour", "a millstone"),
    Trade("tailor", "sews coats", "sewed coats", "a needle"),
    Trade("painter", "paints pictures", "painted pictures", "a brush"),
    Trade("cook", "cooks soup", "cooked soup", "a pot"),
    Trade("teacher", "teaches children", "taught children", "a blackboard"),
    Trade("shepherd", "keeps sheep", "kept sheep", "a long stick"),
    Trade("clockmaker", "mends clocks", "mended clocks", "a tiny screwdriver"),
    Trade("beekeeper", "gathers honey", "gathered honey", "a smoke can"),
    Trade("sailor", "sails ships", "sailed ships", "a rope"),
)


@dataclass(frozen=True)
class Animal:
    name: str
    plural: str
    kind: str
    looks: str
    home: str
    food: str
    does: str


ANIMALS = (
    Animal("fox", "foxes", "mammal", "small and red", "in the wood", "berries", "barks"),
    Animal("bear", "bears", "mammal", "big and brown", "in a cave", "honey", "growls"),
    Animal("rabbit", "rabbits", "mammal", "small and grey", "under the hedge", "clover", "hops"),
    Animal("horse", "horses", "mammal", "tall and strong", "in the stable", "oats", "gallops"),
    Animal("cow", "cows", "mammal", "heavy and calm", "in the meadow", "grass", "moos"),
    Animal("goat", "goats", "mammal", "white and stubborn", "on the mountain", "thistles", "climbs"),
    Animal("cat", "cats", "mammal", "soft and black", "on the warm stove", "cream", "purrs"),
    Animal("mouse", "mice", "mammal", "tiny and brown", "behind the wall", "cheese", "squeaks"),
    Animal("wolf", "wolves", "mammal", "lean and grey", "in the dark forest", "meat", "howls"),
    Animal("squirrel", "squirrels", "mammal", "quick and orange", "in the oak tree", "nuts", "leaps"),
    Animal("otter", "otters", "mammal", "sleek and playful", "on the river bank", "crabs", "dives"),
    Animal("owl", "owls", "bird", "wise and silent", "in the church tower", "beetles", "hoots"),
    Animal("duck", "ducks", "bird", "round and yellow", "on the pond", "water weed", "quacks"),
    Animal("goose", "geese", "bird", "white and proud", "in the farmyard", "barley", "honks"),
    Animal("crow", "crows", "bird", "clever and black", "on the roof", "corn", "caws"),
    Animal("robin", "robins", "bird", "small and round", "in the garden", "worms", "sings"),
    Animal("gull", "gulls", "bird", "white and noisy", "on the harbour wall", "herring", "screams"),
    Animal("trout", "trout", "fish", "silver and quick", "in the brook", "flies", "jumps"),
    Animal("carp", "carp", "fish", "fat and slow", "in the village pond", "pond weed", "blows bubbles"),
    Animal("eel", "eels", "fish", "long and dark", "under the bridge", "snails", "twists"),
    Animal("bee", "bees", "insect", "tiny and striped", "in the hive", "nectar", "buzzes"),
    Animal("ant", "ants", "insect", "tiny and black", "in the sandy path", "crumbs", "marches"),
    Animal("beetle", "beetles", "insect", "green and shiny", "under the bark", "leaves", "crawls"),
    Animal("butterfly", "butterflies", "insect", "blue and gentle", "in the flower bed", "sweet dew", "flutters"),
)


@dataclass(frozen=True)
class Thing:
    name: str
    plural: str
    kind: str
    price: int
    """In coins."""


THINGS = (
    Thing("apple", "apples", "fruit", 1),
    Thing("pear", "pears", "fruit", 2),
    Thing("plum", "plums", "fruit", 1),
    Thing("cherry", "cherries", "fruit", 1),
    Thing("peach", "peaches", "fruit", 3),
    Thing("melon", "melons", "fruit", 6),
    Thing("carrot", "carrots", "vegetable", 1),
    Thing("cabbage", "cabbages", "vegetable", 2),
    Thing("onion", "onions", "vegetable", 1),
    Thing("turnip", "turnips", "vegetable", 2),
    Thing("pumpkin", "pumpkins", "vegetable", 5),
    Thing("hammer", "hammers", "tool", 8),
    Thing("spade", "spades", "tool", 9),
    Thing("saw", "saws", "tool", 10),
    Thing("needle", "needles", "tool", 2),
    Thing("brush", "brushes", "tool", 4),
    Thing("knife", "knives", "tool", 6),
    Thing("chair", "chairs", "piece of furniture", 12),
    Thing("table", "tables", "piece of furniture", 20),
    Thing("bed", "beds", "piece of furniture", 24),
    Thing("shelf", "shelves", "piece of furniture", 11),
    Thing("bench", "benches", "piece of furniture", 14),
    Thing("coat", "coats", "piece of clothing", 15),
    Thing("hat", "hats", "piece of clothing", 7),
    Thing("scarf", "scarves", "piece of clothing", 5),
    Thing("shirt", "shirts", "piece of clothing", 8),
    Thing("dress", "dresses", "piece of clothing", 16),
    Thing("drum", "drums", "instrument", 13),
    Thing("flute", "flutes", "instrument", 10),
    Thing("fiddle", "fiddles", "instrument", 18),
    Thing("harp", "harps", "instrument", 30),
    Thing("trumpet", "trumpets", "instrument", 22),
    Thing("lantern", "lanterns", "thing for the house", 7),
    Thing("basket", "baskets", "thing for the house", 4),
    Thing("bowl", "bowls", "thing for the house", 3),
    Thing("candle", "candles", "thing for the house", 2),
    Thing("kettle", "kettles", "thing for the house", 9),
)

KIND_PLURALS = {
    "mammal": "mammals",
    "bird": "birds",
    "fish": "fish",
    "insect": "insects",
    "fruit": "fruits",
    "vegetable": "vegetables",
    "tool": "tools",
    "piece of furniture": "pieces of furniture",
    "piece of clothing": "pieces of clothing",
    "instrument": "instruments",
    "thing for the house": "things for the house",
}

OPPOSITES = _pairs(
    """
    hot/cold big/small tall/short light/dark fast/slow old/young happy/sad full/empty open/closed wet/dry loud/quiet
    hard/soft rich/poor near/far early/late clean/dirty brave/afraid heavy/weightless sweet/sour strong/weak
    thick/thin wide/narrow high/low deep/shallow sharp/blunt smooth/rough first/last left/right up/down inside/outside
    day/night summer/winter morning/evening friend/enemy begin/end push/pull buy/sell laugh/cry win/lose find/hide
    always/never true/false
    """
)

MORE_PLURALS = _pairs(
    """
    child/children foot/feet tooth/teeth leaf/leaves loaf/loaves man/men woman/women sheep/sheep box/boxes
    glass/glasses baby/babies story/stories city/cities church/churches boat/boats river/rivers tree/trees
    flower/flowers cloud/clouds road/roads key/keys boy/boys day/days potato/potatoes tomato/tomatoes ship/ships
    letter/letters stone/stones window/windows half/halves
    """
)

ACTIONS = (
    ("sells bread", "sold bread"),
    ("carries a basket", "carried a basket"),
    ("buys a lantern", "bought a lantern"),
    ("sings a song", "sang a song"),
    ("reads a book", "read a book"),
    ("writes a letter", "wrote a letter"),
    ("drinks cold milk", "drank cold milk"),
    ("eats a warm cake", "ate a warm cake"),
    ("finds a key", "found a key"),
    ("sees a rainbow", "saw a rainbow"),
    ("tells a story", "told a story"),
    ("flies a kite", "flew a kite"),
    ("plays the flute", "played the flute"),
    ("draws a map", "drew a map"),
    ("waters the flowers", "watered the flowers"),
    ("opens the gate", "opened the gate"),
    ("counts the stars", "counted the stars"),
    ("walks home", "walked home"),
    ("rides a horse", "rode a horse"),
    ("catches a fish", "caught a fish"),
    ("lights a candle", "lit a candle"),
    ("washes the windows", "washed the windows"),
    ("sweeps the floor", "swept the floor"),
    ("loses a hat", "lost a hat"),
    ("builds a wall", "built a wall"),
    ("hears the bells", "heard the bells"),
    ("wears a scarf", "wore a scarf"),
    ("brings good news", "brought good news"),
    ("sits under a tree", "sat under a tree"),
    ("runs very fast", "ran very fast"),
)


@dataclass(frozen=True)
class Person:
    name: str
    family: str
    woman: bool
    town: Town
    trade: Trade
    pet: Animal
    pet_name: str
    colour: str

    @property
    def full_name(self) -> str:
        return f"{self.name} {self.family}"

    @property
    def they(self) -> str:
        return "she" if self.woman else "he"

    @property
    def their(self) -> str:
        return "her" if self.woman else "his"

    @property
    def them(self) -> str:
        return "her" if self.woman else "him"


WOMEN = _words(
    """
    Ada Mira Nora Lena Rosa Tilda Iris Greta Wanda Elsa Petra Juno Hazel Olive
    """
)
MEN = _words(
    """
    Ben Tom Oskar Felix Hugo Jonas Milo Rufus Edgar Colin Victor Silas Arlo Barney
    """
)
FAMILIES = _words(
    """
    Fenn Marsh Holt Reed Thorn Brook Finch Wells Stone Hill Rivers Hart Frost Lane Moss Pike Vale Bell Crane Dale Rowe
    Swift Wood Lamb Field Penn Shaw Birch
    """
)
PET_NAMES = _words(
    """
    Pip Biscuit Button Clover Dusty Ember Fidget Ginger Hopper Inky Jolly Kipper Lucky Muffin Nibbles Otto Pebble
    Quill Rusty Sunny Tuppence Velvet Whisker Ziggy Acorn Bramble Cocoa Domino
    """
)


def _make_people() -> tuple[Person, ...]:
    """One person for every first name, always the same ones; trades, towns and colours are dealt out evenly."""
    dealer = random.Random(20)

    def deal(cards: Sequence[object], count: int) -> list[int]:
        numbers = [number % len(cards) for number in range(count)]
        dealer.shuffle(numbers)
        return numbers

    names = [name for pair in zip(WOMEN, MEN, strict=True) for name in pair]
    count = len(names)
    towns, trades, pets, colours = (deal(cards, count) for cards in (TOWNS, TRADES, ANIMALS[:17], COLOURS))
    return tuple(
        Person(
            name,
            FAMILIES[i],
            name in WOMEN,
            TOWNS[towns[i]],
            TRADES[trades[i]],
            ANIMALS[pets[i]],
            PET_NAMES[i],
            COLOURS[colours[i]],
        )
        for i, name in enumerate(names)
    )


PEOPLE = _make_people()


def with_article(word: str) -> str:
    """The word with its indefinite article: "an apple", "a pear"."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def capitalised(text: str) -> str:
    """The text with its first letter as a capital, the others untouched."""
    return text[:1].upper() + text[1:]


def listed(words: list[str]) -> str:
    """Words as English lists them: "apples, pears and plums"."""
    return " and ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]


def members(kind: str) -> list[tuple[str, str]]:
    """Name and plural of every animal and thing of a kind, in the world's order."""
    return [(item.name, item.plural) for item in (*ANIMALS, *THINGS) if item.kind == kind]
