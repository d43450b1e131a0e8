"""No flag is accepted and dropped: in each of its modes a verb obeys a flag, or refuses it by name.

OBEYED lists the flags that a mode obeys; every other one of the verb's parser must be refused there, by its name or
its value.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest
from verbs import Bench, Command

from tunelab import plugins
from tunelab.cli._parser import VerbParser
from tunelab.cli._recipe_arguments import KEY_FLAGS
from tunelab.cli.main import FOLDER, verbs

KEYS = " ".join(flag.name for flag in KEY_FLAGS)
OF_STUDIES = " ".join(flag.name for flag in KEY_FLAGS if flag.of_studies)
#: What evaluates a model: keys of models and rows, not of training.
OF_EVAL = "model data size template precision dtype limit out"
DECODING = "max-new-tokens temperature top-p top-k min-p repetition-penalty seed stop"
ASKED = "benchmarks chat-template backend arm limit max-new-tokens micro-batch-tokens allow-code"

#: (verb, the rest of a command) -> the flags that it obeys, its own among them. Capitals: see places().
OBEYED = {
    ("inspect", "RECIPE"): f"{KEYS} rows json".replace(" limit out", ""),
    ("plan", "RECIPE"): f"{KEYS} gpu gpus write json".replace(" limit out", ""),
    ("lint", "RECIPE"): f"{KEYS} html benchmarks json".replace(" limit out", ""),
    ("prepare", "RECIPE"): f"{KEYS} json".replace(" limit out", ""),
    ("train", "RECIPE"): f"{KEYS} resume overwrite allow-code json",
    ("train", "--resume LORA"): "resume base allow-code json",
    ("study", "init FILE"): "model size data compare question json",
    ("study", "run FILE"): f"{OF_STUDIES} out set scale executor option dry-run json allow-code",
    ("study", "list"): "json",
    ("study", "status DIR"): "json",
    ("study", "clean DIR"): "dry-run json",
    ("demo", ""): "out",
    ("eval", "LORA"): "limit max-new-tokens micro-batch-tokens base allow-code check benchmarks json",
    ("eval", "--model MODEL --data ROWS"): f"{OF_EVAL} adapter max-new-tokens micro-batch-tokens allow-code json",
    ("eval", "LORA --benchmarks ITEMS"): f"{ASKED} base json",
    ("eval", "--model MODEL --benchmarks ITEMS"): f"{ASKED} json model adapter template precision dtype out",
    ("eval", "LORA --check"): "arm base allow-code check json",
    ("eval", "--model MODEL --check"): "model adapter arm template precision dtype allow-code check json",
    ("score", "RESPONSES"): "as data workers by-group allow-code json",
    ("compare", "LORA"): "benchmarks metrics allow-diff common-items-only flips out json",
    ("report", "DIR"): "",
    ("generate", "LORA --prompt x"): f"arm raw prompt base micro-batch-tokens allow-code {DECODING}",
    ("generate", "LORA --file PROMPTS"): f"arm raw file out limit base micro-batch-tokens allow-code {DECODING}",
    ("generate", "--model MODEL --prompt x --template plain"): (
        f"model adapter template arm prompt precision micro-batch-tokens allow-code {DECODING}"
    ),
    ("generate", "LORA --prompt x --temperature 0"): (
        "arm raw prompt base micro-batch-tokens allow-code max-new-tokens temperature repetition-penalty stop"
    ),
    ("generate", "LORA --benchmarks ITEMS"): f"{ASKED} base",
    ("generate", "--model MODEL --benchmarks ITEMS"): f"{ASKED} model adapter template precision out",
    ("chat", "LORA"): "base system tools set allow-code",
    ("chat", "--model MODEL"): "model adapter template precision system tools set allow-code",
    ("merge", "LORA --out NEW"): "out format base force allow-code json",
    ("merge", "LORA --compare"): "compare base allow-code json",
    ("quantize", "MODEL --precision nf4 --out NEW"): "precision out loftq-rank json",
    ("quantize", "MODEL --precision nf4 --out NEW --loftq-rank 4"): (
        "precision out loftq-rank loftq-alternations json"
    ),
    ("export", "LORA --to hf --out NEW"): "to out base force allow-code json",
    ("export", "LORA --to peft --out NEW"): "to out allow-code json",
    ("export", "LORA --to compressed-tensors --out NEW"): "to out base force allow-code json",
    ("export", "LORA --to gguf --out NEW"): "to out kind base allow-code json",
    ("export", "LORA --to ollama --out NEW"): "to out kind base allow-code json",
    ("push", "LORA me/one --dry-run"): "base private revision message dry-run json merged",
    ("keys", ""): "",
    ("schema", ""): "",
    ("env", ""): "json",
}


def flags_of(verb: str) -> dict[str, argparse.Action]:
    """Flag without dashes -> its action; all verbs have --help and --debug."""
    parser = VerbParser(prog=verb)
    plugins.load(FOLDER, verb).add_arguments(parser)
    found = [action for action in parser._actions if action.option_strings and action.dest not in ("help", "debug")]
    return {action.option_strings[0][2:]: action for action in found}


def given(action: argparse.Action) -> list[str]:
    """The flag with a value that it takes."""
    flag = action.option_strings[0]
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return [flag]
    if action.choices:
        return [flag, str(list(action.choices)[-1])]
    return [flag, {int: "3", float: "0.5"}.get(action.type, "x=y")]  # type: ignore[arg-type,call-overload]


def refused() -> Iterator[tuple[str, str, str]]:
    for (verb, rest), obeyed in OBEYED.items():
        for name in flags_of(verb):
            if name not in obeyed.split():
                yield verb, rest, name


def test_every_verb_is_listed_and_every_flag_is_one_of_its_verb() -> None:
    assert {verb for verb, _ in OBEYED} == set(verbs()), "list the modes of a new verb, and what each obeys"
    for (verb, rest), obeyed in OBEYED.items():
        assert set(obeyed.split()) <= set(flags_of(verb)), (verb, rest)


@pytest.mark.parametrize(("verb", "rest"), OBEYED)
def test_what_a_mode_does_not_obey_is_refused_by_name(
    verb: str, rest: str, tunelab: Command, bench: Bench, tmp_path: Path
) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"prompt": "What is red?", "answer": "a color"}\n', encoding="utf-8")
    places = {
        "ITEMS": items,
        "RECIPE": bench.recipe,
        "LORA": bench.lora,
        "MODEL": bench.model,
        "ROWS": bench.rows,
        "PROMPTS": bench.rows,
    }
    words = [str(places.get(word, word.lower())) for word in rest.split()]
    wrong = []
    for name in (name for a, b, name in refused() if (a, b) == (verb, rest)):
        found = tunelab(verb, *words, *given(flags_of(verb)[name]))
        if found.code != 2 or not any(word in found.err.replace("_", "-") for word in (f"--{name}", "x=y")):
            wrong.append(f"--{name}: exit code {found.code}, {found.err.strip()}")
    assert not wrong, "\n".join(wrong)
