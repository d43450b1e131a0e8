"""Prose about the little world of world.py: portraits, gossip, letters and stories, and the lessons of lessons.py.

Every fact and every pattern that the instruction rows ask for is told here in plain sentences, never as instruction and
response. The text is endless; the seed and the number of documents decide what is written.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from scripts.demo.instructions import meeting
from scripts.demo.lessons import crafts, echo_game, kinds_lesson, market, sum_lesson, word_book, word_lesson
from scripts.demo.world import (
    ACTIONS,
    ANIMALS,
    COLOURS,
    DAYS,
    KIND_PLURALS,
    NUMBER_WORDS,
    OPPOSITES,
    PEOPLE,
    PLACES,
    THINGS,
    TOWNS,
    TRADES,
    Person,
    capitalised,
    with_article,
)


def portrait(rng: random.Random) -> str:
    """What there is to know about one person, and how the day goes in that trade and town."""
    person = rng.choice(PEOPLE)
    name, they, trade, town = person.name, person.they, person.trade, person.town
    lives = (
        f"{name} lives in {town.name}.",
        f"{name} lives in the town of {town.name}.",
        f"The home of {name} is {town.name}.",
    )
    their, pet = capitalised(person.their), with_article(person.pet.name)
    sentences = [
        rng.choice(lives),
        rng.choice((f"{name} is {with_article(trade.name)}.", f"{name} is {with_article(trade.name)} by trade.")),
        rng.choice(
            (f"{name} has {pet} called {person.pet_name}.", f"{their} {person.pet.name} is called {person.pet_name}.")
        ),
        rng.choice(
            (f"{their} favourite colour is {person.colour}.", f"{name} loves everything that is {person.colour}.")
        ),
        rng.choice(
            (f"Every day {they} {trade.makes} with {trade.tool}.", f"{capitalised(they)} works with {trade.tool}.")
        ),
    ]
    rng.shuffle(sentences)
    first = rng.choice(
        (
            f"{person.full_name} is {with_article(trade.name)} from {town.name}.",
            f"This is {person.full_name}.",
            f"Everybody in {town.name} knows {person.full_name}.",
        )
    )
    last = rng.choice(
        (
            f"{town.name} lies {town.lies} and is known for {town.known_for}.",
            f'"Where does {person.full_name} live?" asked a stranger. '
            f'"{name} lives in {town.name}," said the children.',
            f'"What does {name} do for a living?" "{name} is {with_article(trade.name)}."',
            f"{name} and {person.pet_name} the {person.pet.name} are never far apart.",
        )
    )
    return " ".join((first, *sentences[: rng.randint(3, 5)], last))


def wildlife(rng: random.Random) -> str:
    """One animal, told by a walker or a book."""
    animal = rng.choice(ANIMALS)
    name = animal.name
    parts = [
        f"The {name} is {animal.looks}. It lives {animal.home} and eats {animal.food}.",
        rng.choice(
            (
                f"{capitalised(with_article(name))} is {with_article(animal.kind)}.",
                f"All {animal.plural} are {KIND_PLURALS[animal.kind]}.",
            )
        ),
        rng.choice(
            (f"The {name} lives {animal.home}.", f"If you look {animal.home}, you may see {with_article(name)}.")
        ),
        rng.choice(
            (f"The {name} eats {animal.food}.", f'"What does the {name} eat?" "The {name} eats {animal.food}."')
        ),
        rng.choice((f"When the {name} is happy, it {animal.does}.", f"Listen: the {name} {animal.does}.")),
        rng.choice((f"The {name} is {animal.looks}.", f"What does the {name} look like? It is {animal.looks}.")),
    ]
    rng.shuffle(parts)
    town, watcher = rng.choice(TOWNS).name, rng.choice(PEOPLE).name
    first = rng.choice(("", f"The walk through {town} was long. ", f"{watcher} watches the animals. "))
    return first + " ".join(parts[: rng.randint(3, 5)])


def days(rng: random.Random) -> str:
    """The same thing today and yesterday; what is so and what is not so."""
    subjects = [person.name for person in PEOPLE] + [f"the {trade.name}" for trade in TRADES]
    things = [item.name for item in (*ANIMALS, *THINGS)]
    describing = [word for pair in OPPOSITES[:22] for word in pair] + list(COLOURS)
    parts = []
    for _ in range(rng.randint(2, 4)):
        subject, (now, then) = rng.choice(subjects), rng.choice(ACTIONS)
        place = rng.choice(("", *(f" near the {place}" for place in PLACES)))
        parts.append(
            rng.choice(
                (
                    f"Today {subject} {now}{place}. Yesterday {subject} {then}{place}.",
                    f"{capitalised(subject)} {now}{place}. {capitalised(subject)} {then}{place}.",
                )
            )
        )
        thing, word = rng.choice(things), rng.choice(describing)
        teller = rng.choice(PEOPLE)
        parts.append(
            rng.choice(
                (
                    f"The {thing} is {word}, says {teller.name}. But it is not so: the {thing} is not {word}.",
                    f"The {thing} is {word}. The {thing} is not {word}. "
                    f"{teller.name} cannot make up {teller.their} mind.",
                    "",
                )
            )
        )
    return " ".join(part for part in parts if part)


def shopping(rng: random.Random) -> str:
    """Who bought what, where and when; and the neighbours, who want to know."""
    person, asker, teller = rng.sample(PEOPLE, 3)
    name, thing, number = person.name, rng.choice(THINGS), rng.choice(NUMBER_WORDS[2:9])
    day, place, colour = rng.choice(DAYS), rng.choice(PLACES), rng.choice(COLOURS)
    talk = [
        (f"What did {name} buy?", f"{name} bought {number} {colour} {thing.plural}."),
        (f"Where did {name} go?", f"{name} went to the {place}."),
        (f"When did {name} go to the {place}?", f"{name} went there on {day}."),
        (f"How many {thing.plural} were bought?", f"{capitalised(number)} {thing.plural} were bought."),
        (f"Which colour did the {thing.plural} have?", f"The {thing.plural} were {colour}."),
    ]
    parts = [f"On {day} {name} went to the {place} and bought {number} {colour} {thing.plural}."]
    for question, answer in rng.sample(talk, rng.randint(3, 5)):
        parts.append(
            rng.choice(
                (
                    f"{question} {answer}",
                    f'"{question}" asked {asker.name}. "{answer[:-1]}," said {teller.name}.',
                )
            )
        )
    return " ".join(parts)


def letter(rng: random.Random) -> str:
    """A present and the letter that thanks for it, or a notice on the school door."""
    one, other = rng.sample(PEOPLE, 2)
    gift = f"{rng.choice(COLOURS)} {rng.choice(THINGS).name}"
    if rng.random() < 0.12:
        return (
            "Below the bell of the school hang three cards, and they say Instruction, Input and Response. Write what "
            "you like on them, says the teacher. Beside them a notice describes a task, the next one. It is paired "
            f"with a short text that provides further context. {one.name} reads the notice as an instruction, "
            f"{other.name} as a request, and nobody knows whose answer appropriately completes the task. What a child "
            f"can write down as an input for the lesson is welcome. In response {one.name} sends {with_article(gift)}."
        )
    when = rng.choice(DAYS)
    happy = f"{one.name} was happy and wrote a letter."
    thanks = rng.choice((happy, f"So {one.name} thanks {other.name} in a short letter."))
    return (
        f"{rng.choice(('Last', 'On'))} {when} {other.name} gave {one.name} {with_article(gift)}. {thanks} "
        f"Dear {other.name}, thank you for the {gift}. Your friend, {one.name}"
    )


def story(rng: random.Random) -> str:
    """Somebody meets an animal, and a little more happens."""
    person: Person = rng.choice(PEOPLE)
    number = rng.randrange(len(ANIMALS))
    animal = ANIMALS[number]
    they = capitalised(person.they)
    more = [
        f"The {animal.name} was not afraid.",
        f"{they} told {person.pet_name} the {person.pet.name} all about it.",
        f"In the evening {person.name} went home to {person.town.name}.",
        f"The next {rng.choice(DAYS)} the {animal.name} came back.",
        f"{they} {rng.choice(ACTIONS)[1]} and smiled.",
        f"Since then {person.name} and the {animal.name} are friends.",
    ]
    first = rng.choice(("", "", f"This is a short story about {person.name} and {with_article(animal.name)}. "))
    chosen = sorted(rng.sample(range(len(more)), rng.randint(1, 4)))
    return first + " ".join((meeting(person, number), *(more[i] for i in chosen)))


KINDS = (
    portrait,
    wildlife,
    word_lesson,
    word_book,
    echo_game,
    sum_lesson,
    market,
    kinds_lesson,
    crafts,
    days,
    shopping,
    letter,
    story,
)
WEIGHTS = (5, 2, 4, 2, 4, 3, 3, 3, 2, 3, 4, 4, 2)
"""How often each kind is told: more where there is more to know."""


def documents(seed: int, count: int) -> Iterator[str]:
    """`count` documents of prose, 30 to 200 words each; the same seed gives the same documents in the same order."""
    rng = random.Random(seed)
    for _ in range(count):
        (kind,) = rng.choices(KINDS, WEIGHTS)
        yield kind(rng)
