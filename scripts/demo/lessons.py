"""Prose of lessons, games and market talk about the world of world.py: words, sums, kinds, prices, trades and towns."""

from __future__ import annotations

import random

from scripts.demo.world import (
    ANIMALS,
    KIND_PLURALS,
    MORE_PLURALS,
    OPPOSITES,
    PEOPLE,
    THINGS,
    TOWNS,
    TRADES,
    capitalised,
    listed,
    members,
    with_article,
)


def told(rng: random.Random, speaker: str, said: str) -> str:
    """A statement, plain or in somebody's mouth."""
    return rng.choice((said, said, f'"{said[:-1]}," said {speaker}.', f'{speaker} said: "{said}"'))


def word_lesson(rng: random.Random) -> str:
    """Opposites and plurals at school."""
    teacher = rng.choice(PEOPLE).name
    parts = [f"In the school of {rng.choice(TOWNS).name} the children learn words."]
    words = [(item.name, item.plural) for item in (*ANIMALS, *THINGS)] + list(MORE_PLURALS)
    for _ in range(rng.randint(5, 8)):
        word, other = rng.choice(OPPOSITES)[:: rng.choice((1, -1))]
        one, many = rng.choice(words)
        parts.append(
            told(
                rng,
                teacher,
                rng.choice(
                    (
                        f"The opposite of {word} is {other}.",
                        f"{capitalised(other)} is the opposite of {word}.",
                        f"What is the opposite of {word}? The opposite of {word} is {other}.",
                        f"{capitalised(word)} and {other} are opposites.",
                        f"One {one}, two {many}.",
                        f"The plural of {one} is {many}.",
                        f"What do we say when there are two and not one {one}? One {one}, two {many}.",
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


def echo_game(rng: random.Random) -> str:
    """A game that practises nothing but saying again what was said."""
    things = [item.name for item in (*ANIMALS, *THINGS)]
    words = [*things, *(word for pair in OPPOSITES for word in pair), *(person.name for person in PEOPLE)]
    one, other = rng.sample(PEOPLE, 2)
    parts = [f"{one.name} and {other.name} play echo."]
    for _ in range(rng.randint(2, 4)):
        said = [str(rng.randint(1, 30)) if rng.random() < 0.2 else rng.choice(words) for _ in range(rng.randint(2, 6))]
        first = rng.choice((", ".join(said), " ".join(said)))
        again = rng.choice((", ".join(said), " ".join(said)))
        parts.append(f'"{first}," says {one.name}. "{again}," says the echo.')
    return " ".join(parts)


def sum_lesson(rng: random.Random) -> str:
    """Sums in figures, with apples and without."""
    name = rng.choice(PEOPLE).name
    parts = [rng.choice(("The children count.", "Today the school learns sums.", f"{name} likes numbers."))]
    for _ in range(rng.randint(6, 9)):
        first, second = rng.randint(1, 12), rng.randint(1, 12)
        large, little = max(first, second), min(first, second)
        plus, minus = f"{first} plus {second}", f"{large} minus {little}"
        one, other = rng.sample(PEOPLE, 2)
        things = rng.choice(THINGS).plural
        had, more = rng.randint(2, 9), rng.randint(2, 9)
        given = f"{one.name} has {had} {things}. {other.name} gives {one.them} {more} more {things}."
        now = f"{one.name} has {had + more} {things} now."
        parts.append(
            rng.choice(
                (
                    f"{plus} is {first + second}.",
                    f"What is {plus}? {capitalised(plus)} is {first + second}.",
                    f"{minus} is {large - little}.",
                    f"What is {minus}? {capitalised(minus)} is {large - little}.",
                    f"{given} {had} plus {more} is {had + more}, so {now}",
                    f"{given} How many {things} does {one.name} have now? {now}",
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
        a_thing = with_article(thing.name)
        one = capitalised(a_thing)
        parts.append(
            rng.choice(
                (
                    told(rng, seller.name, f"{one} costs {coins}."),
                    told(rng, seller.name, f"The price of {a_thing} is {coins}."),
                    f'"How much does {a_thing} cost?" asks {buyer.name}. "{one} costs {coins}," says {seller.name}.',
                    f"How much does {a_thing} cost? {one} costs {coins}.",
                )
            )
        )
        if thing.price <= 12:
            twice = f"Two {thing.plural} cost {2 * thing.price} coins."
            parts.append(rng.choice(("", twice, f"What do two {thing.plural} cost? {twice}")))
        if rng.random() < 0.3:
            parts.append(f"{one} is {with_article(thing.kind)}.")
    return " ".join(part for part in parts if part)


def kinds_lesson(rng: random.Random) -> str:
    """What belongs together and what does not."""
    parts = [f"{rng.choice(PEOPLE).name} puts the pictures in order."]
    for _ in range(rng.randint(3, 5)):
        kind, odd_kind = rng.sample(list(KIND_PLURALS), 2)
        inside, (odd, _) = members(kind), rng.choice(members(odd_kind))
        words = [name for name, _ in rng.sample(inside, 3)]
        words.insert(rng.randrange(4), odd)
        row = ", ".join(words)
        why = f"The {odd} does not belong, because the others are {KIND_PLURALS[kind]}."
        names = [plural for _, plural in inside][: rng.randint(2, 3)]
        item = rng.choice((*ANIMALS, *THINGS))
        kind_of = f"{capitalised(with_article(item.name))} is {with_article(item.kind)}."
        parts.append(
            rng.choice(
                (
                    f"On the wall are the words {row}. {why}",
                    f"{capitalised(row)}: which word does not belong with the others? {why}",
                    f"{capitalised(listed(names))} are {KIND_PLURALS[kind]}.",
                    f"Think of {KIND_PLURALS[kind]}: {listed(names)}.",
                    kind_of,
                    f"What kind of thing is {with_article(item.name)}? {kind_of}",
                )
            )
        )
    return " ".join(parts)


def crafts(rng: random.Random) -> str:
    """Trades and towns."""
    parts = []
    for trade in rng.sample(TRADES, 2):
        one = with_article(trade.name)
        works = f"{capitalised(one)} {trade.makes} with {trade.tool}."
        more = (
            f"Yesterday the {trade.name} {trade.made} until the evening.",
            f"Without {trade.tool} there is no work for {one}.",
        )
        parts.append(rng.choice((works, f"What does {one} do? {works}", f"{works} {rng.choice(more)}")))
    for town in rng.sample(TOWNS, 2):
        lies, known = f"{town.name} lies {town.lies}.", f"{town.name} is known for {town.known_for}."
        parts.append(
            rng.choice(
                (
                    f"{lies} {known}",
                    f"{town.name} lies {town.lies} and is known for {town.known_for}.",
                    f"Where does the town of {town.name} lie? {lies}",
                    f"What is {town.name} known for? {known}",
                )
            )
        )
    return " ".join(parts)
