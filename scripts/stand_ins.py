"""Write what stands in for models' data at tiny scale: rows and benchmark items, each in its source's own form.

    python -m scripts.stand_ins src/tunelab/assets/stand_ins

All text is about the little world of scripts/demo/world.py or written here; nothing comes from the data sets whose form
it has. The same files come out every time.
"""

from __future__ import annotations

import csv
import json
import random
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scripts.demo.instructions import instruction_rows, meeting
from scripts.demo.world import ANIMALS, PEOPLE, THINGS, TOWNS, TRADES, Person, capitalised, with_article

SEED = 22
ROWS, TREES, GERMAN_TREES, ITEMS, EXAMPLES = 96, 72, 4, 12, 8

Row = dict[str, Any]


def alpaca(draw: random.Random) -> list[Row]:
    """Short answers, as in the demo."""
    return draw.sample(instruction_rows(SEED), ROWS)


def alpaca_gpt4(draw: random.Random) -> list[Row]:
    """Longer answers, of several sentences."""
    pairs = [(person, number) for person in PEOPLE for number in range(len(ANIMALS))]
    made = []
    for person, number in draw.sample(pairs, ROWS):
        animal, time = ANIMALS[number], draw.choice(("morning", "evening"))
        story = meeting(person, number)
        end = f"Since that day {person.they} visits the {animal.name} every {time}."
        about = f"{person.full_name} is {with_article(person.trade.name)} who lives in {person.town.name}."
        made.append(
            {
                "instruction": f"Write a paragraph about {person.name} and {with_article(animal.name)}.",
                "input": draw.choice(("", f"Begin with the town of {person.town.name}.")),
                "output": f"{about} {story} {end}",
            }
        )
    return made


def oasst_trees(draw: random.Random) -> list[Row]:
    """Trees of prompts and ranked replies, nested; the last few in German."""
    people = [draw.choice(PEOPLE) for _ in range(TREES)]
    trees = [_tree(number, person, draw) for number, person in enumerate(people)]
    return trees + [_german_tree(TREES + number, PEOPLE[number]) for number in range(GERMAN_TREES)]


def _tree(number: int, person: Person, draw: random.Random) -> Row:
    animal = draw.choice(ANIMALS)
    root = _message(number, "0", "prompter", f"Do you know {person.full_name}?")
    good = f"Yes. {person.name} is {with_article(person.trade.name)} from {person.town.name}."
    best = _message(number, "1", "assistant", good, rank=0)
    other = _message(number, "2", "assistant", f"I have heard of {person.them}.", rank=1)
    asked = _message(number, "3", "prompter", f"And what does {with_article(animal.name)} eat?")
    told = f"{capitalised(with_article(animal.name))} eats {animal.food}. It lives {animal.home}."
    asked["replies"] = [_message(number, "4", "assistant", told, rank=0)]
    best["replies"] = [asked]
    root["replies"] = [other, best] if number % 2 else [best, other]
    return {"message_tree_id": root["message_id"], "tree_state": "ready_for_export", "prompt": root}


def _german_tree(number: int, person: Person) -> Row:
    root = _message(number, "0", "prompter", f"Wo wohnt {person.full_name}?", language="de")
    reply = _message(number, "1", "assistant", f"{person.name} wohnt in {person.town.name}.", rank=0, language="de")
    root["replies"] = [reply]
    return {"message_tree_id": root["message_id"], "tree_state": "ready_for_export", "prompt": root}


def _message(tree: int, name: str, role: str, text: str, *, rank: int | None = None, language: str = "en") -> Row:
    return {
        "message_id": f"stand-in-{tree}-{name}",
        "parent_id": None,
        "text": text,
        "role": role,
        "lang": language,
        "deleted": False,
        "rank": rank,
        "replies": [],
    }


def multiple_choice(draw: random.Random, subject: str, count: int) -> list[Row]:
    """Questions with four choices: what an animal eats, or where a trade's tool belongs."""
    facts = [(f"What does the {one.name} eat?", one.food) for one in ANIMALS]
    if subject == "stand_in_trades":
        facts = [(f"Which tool does {with_article(one.name)} use?", one.tool) for one in TRADES]
    made = []
    for question, right in draw.sample(facts, count):
        choices = [right, *draw.sample([answer for _, answer in facts if answer != right], 3)]
        draw.shuffle(choices)
        made.append({"question": question, "choices": choices, "answer": choices.index(right)})
    return made


def ifeval() -> list[Row]:
    """Prompts with instructions that need no data to be verified."""
    town, animal = TOWNS[0].name, ANIMALS[0].name
    asked: list[tuple[str, dict[str, dict[str, Any]]]] = [
        (f"Describe {town}. Do not use any commas.", {"punctuation:no_comma": {}}),
        (
            f"Tell me about the {animal} in at least 20 words.",
            {"length_constraints:number_words": {"relation": "at least", "num_words": 20}},
        ),
        (
            "Name three trades. Use the words baker and smith.",
            {"keywords:existence": {"keywords": ["baker", "smith"]}},
        ),
        (
            "Say what you like about bread. Do not use the word oven.",
            {"keywords:forbidden_words": {"forbidden_words": ["oven"]}},
        ),
        (
            "Give exactly 2 bullet points about the sea, each on a line that begins with *.",
            {"detectable_format:number_bullet_lists": {"num_bullets": 2}},
        ),
        ("Say good night, with your whole answer in double quotation marks.", {"startend:quotation": {}}),
        (
            "Write a letter to a miller. End it with: Yours truly. Do not use any commas.",
            {"startend:end_checker": {"end_phrase": "Yours truly."}, "punctuation:no_comma": {}},
        ),
        ("Describe a mill as JSON.", {"detectable_format:json_format": {}}),
    ]
    return [
        {
            "key": f"stand-in-{number}",
            "prompt": prompt,
            "instruction_id_list": list(named),
            "kwargs": list(named.values()),
        }
        for number, (prompt, named) in enumerate(asked)
    ]


def gsm8k(draw: random.Random, count: int) -> list[Row]:
    """Sums in words, with their steps and the result after ####."""
    made = []
    for _ in range(count):
        person, thing = draw.choice(PEOPLE), draw.choice(THINGS)
        many, spent, left = draw.randint(2, 9), draw.randint(1, 5), draw.randint(0, 9)
        cost = many * thing.price
        coins = cost + spent + left
        made.append(
            {
                "question": f"{person.name} has {coins} coins, buys {many} {thing.plural} at {thing.price} each and a "
                f"cake for {spent}. How many coins are left?",
                "answer": f"The {thing.plural} cost {many}*{thing.price}=<<{many}*{thing.price}={cost}>>{cost} coins.\n"
                f"Left are {coins}-{cost}-{spent}=<<{coins}-{cost}-{spent}={left}>>{left} coins.\n#### {left}",
            }
        )
    return made


def metamathqa(draw: random.Random) -> list[Row]:
    """Sums in words under MetaMathQA's columns, with the result at the end of the answer."""
    made = []
    for row in gsm8k(draw, ROWS):
        steps, _, result = row["answer"].partition("\n#### ")
        shown = re.sub(r"<<.*?>>", "", steps)
        asked = row["question"]
        answer = f"{shown}\n#### {result}\nThe answer is: {result}"
        made.append({"type": "stand-in", "query": asked, "original_question": asked, "response": answer})
    return made


def truthfulqa(draw: random.Random) -> list[Row]:
    """Questions with a right answer, another right one, and two wrong ones."""
    made = []
    for animal in draw.sample(ANIMALS, ITEMS):
        wrong = draw.sample([one.home for one in ANIMALS if one.home != animal.home], 2)
        best = f"The {animal.name} lives {animal.home}"
        made.append(
            {
                "Type": "Stand-in",
                "Category": "Stand-in",
                "Question": f"Where does the {animal.name} live?",
                "Best Answer": best,
                "Correct Answers": f"{best}; {capitalised(animal.home)}",
                "Incorrect Answers": "; ".join(f"The {animal.name} lives {home}" for home in wrong),
                "Source": "written for tunelab",
            }
        )
    return made


def alpacaeval(draw: random.Random) -> list[Row]:
    """Instructions with a reference answer."""
    return [
        {
            "dataset": "stand-in",
            "instruction": row["instruction"],
            "output": row["output"],
            "generator": "stand-in",
        }
        for row in draw.sample([row for row in instruction_rows(SEED) if not row["input"]], ITEMS)
    ]


def arc(draw: random.Random, subject: str) -> list[Row]:
    """Questions with the texts of their choices under letters."""
    made = []
    for number, row in enumerate(multiple_choice(draw, subject, ITEMS)):
        choices = [{"text": text, "label": label} for text, label in zip(row["choices"], "ABCD", strict=True)]
        asked = {"stem": row["question"], "choices": choices}
        made.append({"id": f"stand_in_{number}", "question": asked, "answerKey": "ABCD"[row["answer"]]})
    return made


def hellaswag(draw: random.Random) -> list[Row]:
    """What an animal does next, with three endings of other animals."""
    made = []
    for animal in draw.sample(ANIMALS, ITEMS):
        person = draw.choice(PEOPLE)
        endings = [f"eats {food}." for food in (animal.food, *draw.sample(_other_foods(animal.food), 3))]
        right = endings[0]
        draw.shuffle(endings)
        made.append(
            {
                "activity_label": f"Feeding the {animal.name}",
                "ctx_a": f"{person.full_name} opens the gate for the {animal.name}.",
                "ctx_b": "it",
                "endings": endings,
                "label": endings.index(right),
            }
        )
    return made


def _other_foods(food: str) -> list[str]:
    return sorted({one.food for one in ANIMALS} - {food})


def winogrande(draw: random.Random) -> list[Row]:
    """Sentences with a blank that one of two people fills."""
    made = []
    for _ in range(ITEMS):
        first, second = draw.sample(PEOPLE, 2)
        right = draw.choice((first, second))
        made.append(
            {
                "sentence": f"{first.name} bought a cake from {second.name}, so _ "
                + ("had a cake." if right is first else "had the money."),
                "option1": first.name,
                "option2": second.name,
                "answer": "1" if right is first else "2",
            }
        )
    return made


def write(folder: Path) -> None:
    """Write every file; `folder` is created if missing."""
    draw = random.Random(SEED)
    _json(folder / "alpaca_stand_ins.json", alpaca(draw))
    _json(folder / "alpaca_cleaned_stand_ins.json", alpaca(draw))
    _json(folder / "alpaca_gpt4_stand_ins.json", alpaca_gpt4(draw))
    _json_lines(folder / "oasst1_stand_ins.trees.jsonl", oasst_trees(draw))
    for subject in ("stand_in_animals", "stand_in_trades"):
        rows = multiple_choice(draw, subject, ITEMS)
        _mmlu(folder / "mmlu" / "test" / f"{subject}_test.csv", rows[:7])
        _mmlu(folder / "mmlu" / "dev" / f"{subject}_dev.csv", rows[7:])
    subjects = {name: multiple_choice(draw, f"stand_in_{name}", ITEMS) for name in ("animals", "trades")}
    pairs = zip(*(rows[:6] for rows in subjects.values()), strict=True)
    mixed = [{**row, "subject": name} for pair in pairs for name, row in zip(subjects, pair, strict=True)]
    _json_lines(folder / "tinymmlu" / "stand_ins.jsonl", mixed)
    for name, rows in subjects.items():
        _mmlu(folder / "tinymmlu" / "dev" / f"stand_in_{name}_dev.csv", rows[6:])
    _json_lines(folder / "ifeval" / "input_data.jsonl", ifeval())
    _json_lines(folder / "gsm8k" / "train.jsonl", gsm8k(draw, EXAMPLES))
    _json_lines(folder / "gsm8k" / "test.jsonl", gsm8k(draw, ITEMS))
    _csv(folder / "truthfulqa" / "TruthfulQA.csv", truthfulqa(draw))
    _json(folder / "alpacaeval" / "alpaca_eval.json", alpacaeval(draw))
    _json_lines(folder / "arc_easy" / "ARC-Easy-Test.jsonl", arc(draw, "stand_in_animals"))
    _json_lines(folder / "arc_challenge" / "ARC-Challenge-Test.jsonl", arc(draw, "stand_in_trades"))
    _json_lines(folder / "hellaswag" / "hellaswag_val.jsonl", hellaswag(draw))
    _json_lines(folder / "winogrande" / "dev.jsonl", winogrande(draw))
    _json(folder / "metamathqa_stand_ins.json", metamathqa(draw))


def _mmlu(path: Path, rows: Iterable[Row]) -> None:
    names = [f"choice{place}" for place in range(4)]
    _csv(
        path,
        [
            {"question": row["question"], **dict(zip(names, row["choices"], strict=True)), "answer": row["answer"]}
            for row in rows
        ],
    )


def _csv(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _json(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _json_lines(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
