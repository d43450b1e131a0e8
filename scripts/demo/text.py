"""Prose about the little world of world.py: portraits, lessons, market talk, gossip, letters and stories.

Every fact and every pattern that the instruction rows ask for is told here in plain sentences, never as instruction and
response. The text is endless; the seed and the number of documents decide what is written.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from scripts.demo.instructions import meeting
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


def _told(rng: random.Random, speaker: str, said: str) -> str:
    """A statement, plain or in somebody's mouth."""
    return rng.choice((said, said, f'"{said[:-1]}," said {speaker}.', f'{speaker} said: "{said}"'))


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


def word_lesson(rng: random.Random) -> str:
    """Opposites and plurals at school."""
    teacher = rng.choice(PEOPLE).name
    parts = [f"In the school of {rng.choice(TOWNS).name} the children learn words."]
    words = [(item.name, item.plural) for item in (*ANIMALS, *THINGS)] + list(MORE_PLURALS)
    for _ in range(rng.randint(5, 8)):
        word, other = rng.choice(OPPOSITES)[:: rng.choice((1, -1))]
        one, many = rng.choice(words)
        parts.append(
            _told(
                rng,
                teacher,
                rng.choice(
                    (
                        f"The opposite of {word} is {other}.",
                        f"{capitalised(other)} is the opposite of {word}.",
                        f"{capitalised(word)} and {other} are opposites.",
                        f"One {one}, two {many}.",
                        f"The plural of {one} is {many}.",
                        f"There is one {one} here and there are many {many} there.",
                    )
                ),
            )
        )
    return " ".join(parts)


def word_book(rng: random.Random) -> str:
    """A page of a child's word book: two words that belong together on every line."""
    words = [(item.name, item.plural) for item in (*ANIMALS, *THINGS)] + list(MORE_PLURALS)
    lines = [f"{rng.choice(PEOPLE).name}'s word book"]
    for _ in range(rng.randint(6, 10)):
        word, other = rng.choice(OPPOSITES)[:: rng.choice((1, -1))]
        one, many = rng.choice(words)
        item = rng.choice((*ANIMALS, *THINGS))
        trade, person, thing = rng.choice(TRADES), rng.choice(PEOPLE), rng.choice(THINGS)
        lines.append(
            rng.choice(
                (
                    f"{word}: {other}",
                    f"{capitalised(word)}, {other}",
                    f"{one}, {many}",
                    f"{item.name}: {with_article(item.kind)}",
                    f"{thing.name}: {thing.price} coins" if thing.price > 1 else f"{thing.name}: 1 coin",
                    f"{trade.name}: {trade.tool}",
                    f"{person.full_name}: {person.trade.name}",
                )
            )
        )
    return "\n".join(lines)


def sum_lesson(rng: random.Random) -> str:
    """Sums in figures, with apples and without."""
    name = rng.choice(PEOPLE).name
    parts = [rng.choice(("The children count.", "Today the school learns sums.", f"{name} likes numbers."))]
    for _ in range(rng.randint(6, 9)):
        first, second = rng.randint(1, 12), rng.randint(1, 12)
        total = first + second
        one, other = rng.sample(PEOPLE, 2)
        things = rng.choice(THINGS).plural
        had, more = rng.randint(2, 9), rng.randint(2, 9)
        parts.append(
            rng.choice(
                (
                    f"{first} plus {second} is {total}.",
                    f"{first} plus {second} is {total}, and {second} plus {first} is {total}.",
                    f"{max(first, second)} minus {min(first, second)} is {abs(first - second)}.",
                    f"{one.name} has {had} {things}. {other.name} gives {one.them} {more} more {things}. "
                    f"{had} plus {more} is {had + more}, so {one.name} has {had + more} {things} now.",
                )
            )
        )
    return " ".join(parts)


def market(rng: random.Random) -> str:
    """Prices and what kind of thing each thing is."""
    seller, buyer = rng.sample(PEOPLE, 2)
    parts = [f"It is market day in {rng.choice(TOWNS).name}."]
    for thing in rng.sample(THINGS, rng.randint(3, 5)):
        coins = f"{thing.price} coin{'s' if thing.price > 1 else ''}"
        one = capitalised(with_article(thing.name))
        price = rng.choice((f"{one} costs {coins}.", f"The price of {with_article(thing.name)} is {coins}."))
        parts.append(_told(rng, seller.name, price))
        if thing.price <= 12 and rng.random() < 0.6:
            parts.append(f"Two {thing.plural} cost {2 * thing.price} coins.")
        if rng.random() < 0.5:
            parts.append(f"{one} is {with_article(thing.kind)}.")
        if rng.random() < 0.3:
            question = f'"How much does {with_article(thing.name)} cost?" asks {buyer.name}.'
            parts.append(f'{question} "{capitalised(coins)}," says {seller.name}.')
    return " ".join(parts)


def kinds_lesson(rng: random.Random) -> str:
    """What belongs together and what does not."""
    parts = [f"{rng.choice(PEOPLE).name} puts the pictures in order."]
    for _ in range(rng.randint(3, 5)):
        kind, odd_kind = rng.sample(list(KIND_PLURALS), 2)
        inside, (odd, _) = members(kind), rng.choice(members(odd_kind))
        words = [name for name, _ in rng.sample(inside, 3)]
        words.insert(rng.randrange(4), odd)
        names = [plural for _, plural in inside][: rng.randint(2, 3)]
        item = rng.choice((*ANIMALS, *THINGS))
        parts.append(
            rng.choice(
                (
                    f"On the wall are the words {', '.join(words)}. The {odd} does not belong, "
                    f"because the others are {KIND_PLURALS[kind]}.",
                    f"{capitalised(', '.join(words))}: the {odd} does not belong, "
                    f"because the others are {KIND_PLURALS[kind]}.",
                    f"{capitalised(listed(names))} are {KIND_PLURALS[kind]}.",
                    f"Think of {KIND_PLURALS[kind]}: {listed(names)}.",
                    f"{capitalised(with_article(item.name))} is {with_article(item.kind)}.",
                )
            )
        )
    return " ".join(parts)


def crafts(rng: random.Random) -> str:
    """Trades and towns."""
    parts = []
    for trade in rng.sample(TRADES, 3):
        one = with_article(trade.name)
        parts.append(f"{capitalised(one)} {trade.makes} with {trade.tool}.")
        parts.append(
            rng.choice(
                (
                    f"Yesterday the {trade.name} {trade.made} until the evening.",
                    f"What does {one} do? {capitalised(one)} {trade.makes}.",
                    f"Without {trade.tool} there is no work for {one}.",
                )
            )
        )
    for town in rng.sample(TOWNS, 2):
        parts.append(f"{town.name} lies {town.lies}.")
        parts.append(
            rng.choice(
                (
                    f"{town.name} is known for {town.known_for}.",
                    f"People come to {town.name} for {town.known_for}, for the town is known for {town.known_for}.",
                )
            )
        )
    return " ".join(parts)


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
    sum_lesson,
    market,
    kinds_lesson,
    crafts,
    days,
    shopping,
    letter,
    story,
)
WEIGHTS = (4, 2, 4, 2, 2, 2, 3, 1, 4, 5, 4, 3)
"""How often each kind is told: more where there is more to know."""


def documents(seed: int, count: int) -> Iterator[str]:
    """`count` documents of prose, 30 to 200 words each; the same seed gives the same documents in the same order."""
    rng = random.Random(seed)
    for _ in range(count):
        (kind,) = rng.choices(KINDS, WEIGHTS)
        yield kind(rng)
