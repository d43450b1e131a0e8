"""Instruction rows {"instruction", "input", "output"} about the little world of world.py.

Some tasks ask for what the prose tells (people, animals, prices, opposites), others need a rule that is applied to
something new (past tense, negation, sums, reading a passage, odd one out, letters, stories about a pair that no row has
shown).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from scripts.demo.world import (
    ACTIONS,
    ANIMALS,
    COLOURS,
    DAYS,
    KIND_PLURALS,
    MORE_PLURALS,
    NUMBER_WORDS,
    OPPOSITES,
    PEOPLE,
    PLACES,
    THINGS,
    TOWNS,
    TRADES,
    Person,
    capitalised,
    listed,
    members,
    with_article,
)

Row = dict[str, str]


def _row(instruction: str, output: str, given: str = "") -> Row:
    return {"instruction": instruction, "input": given, "output": output}


def people(rng: random.Random) -> Iterator[Row]:
    for person in PEOPLE:
        name = person.full_name
        lives = f"{person.name} lives in {person.town.name}."
        works = f"{person.name} is {with_article(person.trade.name)}."
        pet = f"{person.name} has {with_article(person.pet.name)} called {person.pet_name}."
        colour = f"{capitalised(person.their)} favourite colour is {person.colour}."
        yield _row(f"Where does {name} live?", lives)
        yield _row(f"In which town does {person.name} live?", lives)
        yield _row(f"What is {name}'s trade?", works)
        yield _row(f"What does {person.name} do for a living?", works)
        yield _row(f"Which pet does {name} have?", pet)
        yield _row(f"What is {name}'s favourite colour?", colour)
        from_where = f"{name} is {with_article(person.trade.name)} from {person.town.name}."
        yield _row("Introduce this person.", f"{from_where} {colour}", name)


def towns_and_trades(rng: random.Random) -> Iterator[Row]:
    for town in TOWNS:
        yield _row(f"What is {town.name} known for?", f"{town.name} is known for {town.known_for}.")
        yield _row(f"Where does the town of {town.name} lie?", f"{town.name} lies {town.lies}.")
        yield _row("Describe the town.", f"{town.name} lies {town.lies} and is known for {town.known_for}.", town.name)
    for trade in TRADES:
        works = f"{capitalised(with_article(trade.name))} {trade.makes} with {trade.tool}."
        yield _row(f"What does {with_article(trade.name)} do?", works)
        yield _row("Explain the trade in one sentence.", works, trade.name)


def animals(rng: random.Random) -> Iterator[Row]:
    for animal in ANIMALS:
        name = animal.name
        yield _row(f"Where does the {name} live?", f"The {name} lives {animal.home}.")
        yield _row(f"What does the {name} eat?", f"The {name} eats {animal.food}.")
        yield _row(f"What does the {name} look like?", f"The {name} is {animal.looks}.")
        whole = f"The {name} is {animal.looks}. It lives {animal.home} and eats {animal.food}."
        yield _row(f"Describe the {name}.", whole)
        yield _row(f"Tell me about {animal.plural} in two sentences.", whole)


def opposites(rng: random.Random) -> Iterator[Row]:
    for pair in OPPOSITES:
        for word, other in (pair, pair[::-1]):
            yield _row("Give the opposite of the word.", capitalised(other), word)
            yield _row(f"What is the opposite of {word}?", f"The opposite of {word} is {other}.")


def plurals(rng: random.Random) -> Iterator[Row]:
    words = [(item.name, item.plural) for item in (*ANIMALS, *THINGS)] + list(MORE_PLURALS)
    for one, many in words:
        yield _row("Write the plural of the word.", many, one)
        yield _row(f"We say one {one}. What do we say when there are two?", f"One {one}, two {many}.")


def prices(rng: random.Random) -> Iterator[Row]:
    for thing in THINGS:
        cost = f"{thing.price} coin{'s' if thing.price > 1 else ''}"
        one = with_article(thing.name)
        yield _row(f"How much does {one} cost?", f"{capitalised(one)} costs {cost}.")
        yield _row("Tell me the price of this thing.", capitalised(cost) + ".", thing.name)
        if thing.price <= 12:
            yield _row(f"What do two {thing.plural} cost?", f"Two {thing.plural} cost {2 * thing.price} coins.")


def sums(rng: random.Random) -> Iterator[Row]:
    for first in range(1, 13):
        for second in range(1, 13):
            if rng.random() < 0.6:
                yield _row(f"What is {first} plus {second}?", f"{first} plus {second} is {first + second}.")
            elif first > second:
                yield _row(f"What is {first} minus {second}?", f"{first} minus {second} is {first - second}.")
    for _ in range(80):
        one, other = rng.sample(PEOPLE, 2)
        things = rng.choice(THINGS).plural
        had, more = rng.randint(2, 9), rng.randint(2, 9)
        given = f"{one.name} has {had} {things}. {other.name} gives {one.them} {more} more {things}."
        yield _row(f"How many {things} does {one.name} have now?", f"{one.name} has {had + more} {things} now.", given)


def categories(rng: random.Random) -> Iterator[Row]:
    kinds = list(KIND_PLURALS)
    for item in (*ANIMALS, *THINGS):
        kind_of = f"{capitalised(with_article(item.name))} is {with_article(item.kind)}."
        yield _row("What kind of thing is this?", kind_of, item.name)
    for kind in kinds:
        names = [plural for _, plural in members(kind)]
        for count, word in ((2, "two"), (3, "three")):
            for verb in ("Name", "List", "Think of"):
                yield _row(f"{verb} {word} {KIND_PLURALS[kind]}.", capitalised(listed(names[:count])) + ".")
    for _ in range(110):
        kind, odd_kind = rng.sample(kinds, 2)
        odd = rng.choice(members(odd_kind))[0]
        words = [name for name, _ in rng.sample(members(kind), 3)]
        words.insert(rng.randrange(4), odd)
        why = f"The {odd} does not belong, because the others are {KIND_PLURALS[kind]}."
        yield _row("Which word does not belong with the others?", why, ", ".join(words))


def past_tense(rng: random.Random) -> Iterator[Row]:
    subjects = [person.name for person in PEOPLE] + [f"The {trade.name}" for trade in TRADES]
    for _ in range(170):
        subject, (now, then) = rng.choice(subjects), rng.choice(ACTIONS)
        place = rng.choice(("", *(f" near the {place}" for place in PLACES)))
        yield _row("Rewrite the sentence in the past tense.", f"{subject} {then}{place}.", f"{subject} {now}{place}.")


def negations(rng: random.Random) -> Iterator[Row]:
    things = [item.name for item in (*ANIMALS, *THINGS)]
    describing = [word for pair in OPPOSITES[:22] for word in pair] + list(COLOURS)
    for _ in range(130):
        thing, word = rng.choice(things), rng.choice(describing)
        yield _row("Negate the sentence.", f"The {thing} is not {word}.", f"The {thing} is {word}.")


def reading(rng: random.Random) -> Iterator[Row]:
    for _ in range(190):
        person, thing = rng.choice(PEOPLE), rng.choice(THINGS)
        day, place, colour = rng.choice(DAYS), rng.choice(PLACES), rng.choice(COLOURS)
        number = rng.choice(NUMBER_WORDS[2:9])
        given = f"On {day} {person.name} went to the {place} and bought {number} {colour} {thing.plural}."
        question, answer = rng.choice(
            (
                (f"What did {person.name} buy?", f"{person.name} bought {number} {colour} {thing.plural}."),
                (f"Where did {person.name} go?", f"{person.name} went to the {place}."),
                (f"When did {person.name} go to the {place}?", f"{person.name} went there on {day}."),
                (f"How many {thing.plural} were bought?", f"{capitalised(number)} {thing.plural} were bought."),
                (f"Which colour did the {thing.plural} have?", f"The {thing.plural} were {colour}."),
            )
        )
        yield _row(f"Read the text and answer: {question}", answer, given)


def letters(rng: random.Random) -> Iterator[Row]:
    for _ in range(130):
        one, other = rng.sample(PEOPLE, 2)
        gift = f"{rng.choice(COLOURS)} {rng.choice(THINGS).name}"
        yield _row(
            f"Write a short letter in which {one.name} thanks {other.name} for the {gift}.",
            f"Dear {other.name}, thank you for the {gift}. Your friend, {one.name}",
        )


def meeting(person: Person, number: int) -> str:
    """Two sentences in which a person meets the animal of this number: the stuff of all stories."""
    animal = ANIMALS[number]
    return (
        f"One day {person.name} found {with_article(animal.name)} {animal.home}. "
        f"It was {animal.looks}, and {person.they} gave it {animal.food}."
    )


def stories(rng: random.Random) -> Iterator[Row]:
    pairs = [(person, number) for person in PEOPLE for number in range(len(ANIMALS))]
    for person, number in rng.sample(pairs, 200):
        animal = with_article(ANIMALS[number].name)
        yield _row(f"Write a short story about {person.name} and {animal}.", meeting(person, number))


TASKS = (
    people,
    towns_and_trades,
    animals,
    opposites,
    plurals,
    prices,
    sums,
    categories,
    past_tense,
    negations,
    reading,
    letters,
    stories,
)


def instruction_rows(seed: int) -> list[Row]:
    """All rows, shuffled. No two rows share instruction and input; the same seed gives the same rows."""
    rng = random.Random(seed)
    rows = {(row["instruction"], row["input"]): row for task in TASKS for row in task(rng)}
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return shuffled
