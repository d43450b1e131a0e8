"""A realistic study report, made up: five arms of which one failed, four benchmarks, two seeds, sixty flips."""

from __future__ import annotations

import dataclasses
import math
import random
from functools import cache

from tunelab.linting.finding import ShownRow
from tunelab.report.content import (
    Arm,
    ArmScore,
    Curve,
    Flip,
    PairedComparison,
    Published,
    Question,
    SettingDifference,
    StudyReport,
)
from tunelab.report.data_checks_content import DataChecks, DataFinding
from tunelab.report.html_page import html_page
from tunelab.units import GIB, MIB

WORDS = ["Write", "a", "short", "poem", "about", "the", "sea", "without", "any", "commas", "and", "end", "in", "bold"]
MODEL = "meta-llama/Llama-2-7b-hf"
PAPER = "arXiv:2511.04214, table 2"

# name, unit, higher is better, items
BENCHMARKS = {
    "mmlu": ("accuracy", "0-1", True, 14_042),
    "ifeval": ("prompt_strict", "0-1", True, 541),
    "gsm8k": ("exact_match", "0-1", True, 1_319),
    "held-out": ("completion_perplexity", "per token", False, 500),
}
VALUES = {
    "base bf16": (0.4127, 0.213, 0.138, 3.92),
    "base nf4": (0.4021, 0.209, 0.121, 4.05),
    "lora r128 bf16": (0.4194, 0.287, 0.149, 2.4),
    "qlora r128 nf4": (0.4162, 0.281, 0.144, 2.42),
}


#: Held-out rows' figures that stand in the table beside perplexity: BLEU, ROUGE-L.
TEXT_SCORES = {
    "base bf16": (3.1, 18.4),
    "base nf4": (2.9, 17.9),
    "lora r128 bf16": (14.7, 30.1),
    "qlora r128 nf4": (14.2, 29.8),
}


def example_arms() -> tuple[Arm, ...]:
    out_of_memory = "CUDA out of memory: 84.21 GiB needed for weights, gradients and AdamW's state, 79.10 GiB free"
    return (
        Arm("base bf16", MODEL, "none", "none", "", "done", "", 13.6 * GIB, 0.0, 2_460.0, None, 0, 0.0, 1.37),
        Arm(*("base nf4", MODEL), "nf4", "none", "", "done", "", 5.12 * GIB, 0.0, 3_015.0, None, 0, 0.0, 1.68),
        Arm(
            *("lora r128 bf16", MODEL, "none", "lora", "alpaca-gpt4", "done", "", 18.89 * GIB, 9_720.0, 2_555.0),
            *(3_412.0, 319_815_680, 610 * MIB, 6.82),
        ),
        Arm(
            *("qlora r128 nf4", MODEL, "nf4", "lora", "alpaca-gpt4", "done", "", 11.09 * GIB, 11_880.0, 3_120.0),
            *(2_790.0, 319_815_680, 610 * MIB, None),
        ),
        Arm("full bf16", MODEL, "none", "none", "alpaca-gpt4", "failed", out_of_memory),
    )


def example_scores() -> tuple[ArmScore, ...]:
    scores = []
    for place, (benchmark, (name, unit, higher, n)) in enumerate(BENCHMARKS.items()):
        for arm, values in VALUES.items():
            value, trained = values[place], "lora" in arm
            error = math.sqrt(value * (1 - value) / n) if unit == "0-1" else 0.071
            seeds = (0.0021 if unit == "0-1" else 0.013, 2) if trained else (None, 1)
            scores.append(ArmScore(arm, benchmark, name, value, error, seeds[0], n, seeds[1], unit, higher, True))
            if benchmark == "ifeval":
                loose = ("prompt_loose", value + 0.03, error, None, n, seeds[1], unit, higher, False)
                scores.append(ArmScore(arm, benchmark, *loose))
            if benchmark == "held-out":
                spread = (0.31, 2) if trained else (None, 1)
                for metric, figure in zip(("bleu", "rougeL"), TEXT_SCORES[arm], strict=True):
                    rest = (metric, figure, 0.62, spread[0], n, spread[1], "0-100", True, False, True)
                    scores.append(ArmScore(arm, benchmark, *rest))
    return tuple(scores)


def example_comparisons() -> tuple[PairedComparison, ...]:
    shown = "lora r128 bf16 is better than base bf16 by 7.4 points (95 % interval 4.1 to 10.7, p < 0.001 after Holm"
    return (
        PairedComparison(
            *("base bf16", "lora r128 bf16", "ifeval", "prompt_strict", 0.0739, 0.0412, 0.1067, 1.2e-5, 4.8e-5),
            *(541, 62, 22, 0.046, f"{shown} over 4 comparisons).", 2, 0.004, "better", "0-1", True),
        ),
        PairedComparison(
            *("base bf16", "lora r128 bf16", "mmlu", "accuracy", 0.0067, -0.0009, 0.0143, 0.0871, 0.2613, 14_042),
            *(675, 581, 0.0108, "No difference shown, minimum detectable difference 1.1 points."),
            *(1, None, "no difference shown", "0-1", True),
        ),
        PairedComparison(
            *("lora r128 bf16", "qlora r128 nf4", "mmlu", "accuracy", -0.0032, -0.0104, 0.004, 0.38, 0.76, 14_042),
            *(593, 638, 0.0103, "No difference shown, minimum detectable difference 1.0 points."),
            *(2, 0.003, "no difference shown", "0-1", True),
        ),
        PairedComparison(
            *("lora r128 bf16", "qlora r128 nf4", "held-out", "completion_loss", 0.02, -0.011, 0.052, 0.21, None),
            *(500, None, None, None, "No difference shown.", 1, None, "no difference shown", "nats per token", False),
        ),
    )


def example_flips(count: int = 60) -> tuple[Flip, ...]:
    chance = random.Random(0)
    flips = []
    for place in range(count):
        benchmark, kind = ("mmlu", "ifeval")[place % 2], ("gained", "lost")[place % 3 == 0]
        question = f"{place}. " + " ".join(chance.choices(WORDS, k=chance.randint(8, 60))) + "?"
        texts = [" ".join(chance.choices(WORDS, k=chance.randint(5, 90))) for _ in range(2)]
        item = f"high_school_european_history/{place}" if benchmark == "mmlu" else str(1000 + place)
        flips.append(
            Flip(
                *("base bf16", "lora r128 bf16", benchmark, item, kind, question, *texts),
                "B" if benchmark == "mmlu" else "punctuation:no_comma, startend:end_checker",
            )
        )
    return tuple(flips)


def example_curves() -> tuple[Curve, ...]:
    chance = random.Random(1)
    curves = []
    for arm, level in (("lora r128 bf16", 0.87), ("qlora r128 nf4", 0.88)):
        for seed in (0, 1):
            points = [(step, level + 0.9 * math.exp(-step / 60) + chance.gauss(0, 0.03)) for step in range(1, 813)]
            held_out = ((0, level + 1.1), (406, level + 0.1), (812, level + 0.05))
            curves.append(Curve(arm, seed, tuple(points), held_out))
    return tuple(curves)


def example_data_checks() -> DataChecks:
    row = "alpaca_gpt4_data.json row"
    overlap = "2 training rows with 13 words in a row of 2 items of mmlu"
    return DataChecks(
        ("The rows of 4 trainings were checked (52,002 rows each): 3 findings.",),
        (
            DataFinding(
                *("no-end-token", "error", "no answer of 52,002 training rows ends with a stop token (</s>)", 52_002),
                *("nothing teaches the model to stop: it generates until the token limit", "end the rows with </s>"),
                (ShownRow(f"{row} 1", "Paris is the capital of France."),),
            ),
            DataFinding(
                *("near-duplicates", "warning", "4 rows with nearly the same words as an earlier one", 4),
                *("they count as several rows and teach little more than one", "keep one of each group"),
                tuple(
                    ShownRow(f"{row} {n}", f"like {row} {n - 7}: Name a " + "blue thing, and " * 16) for n in (9, 88)
                ),
                "qlora r128 nf4, seed 1",
            ),
            DataFinding(
                *("benchmark-overlap", "warning", overlap, 2, "scores measure memory as well", "remove the rows"),
                (ShownRow(f"{row} 7", "mmlu virology/3: Which of <these> viruses"),),
            ),
        ),
    )


def example_report(flips: int = 60) -> StudyReport:
    recipe = "model:\n  name: meta-llama/Llama-2-7b-hf\n  precision: nf4\nadapter:\n  name: lora\n  r: 128\n"
    return StudyReport(
        title="Does QLoRA on Alpaca-GPT4 cost quality on Llama-2-7B?",
        created="14 March 2026, 09:41 UTC",
        questions=(
            Question(
                "Does fine-tuning help?",
                "Yes on instructions: LoRA follows 28.7 % of IFEval's prompts, the base 21.3 %; on MMLU none is shown.",
                "better",
            ),
            Question(
                "Is NF4 as good as bf16?",
                "No difference shown on MMLU; QLoRA needs 11.1 GiB where LoRA needs 18.9 GiB.",
                "no difference shown",
            ),
            Question("Is full fine-tuning better than LoRA?", "Not known: the arm ran out of memory.", "unknown"),
            Question("Does NF4 alone cost quality?", "Yes: MMLU falls by 1.1 points.", "worse"),
        ),
        arms=example_arms(),
        scores=example_scores(),
        published=(
            Published("base bf16", "mmlu", 0.4127, PAPER, "0-1", "accuracy", 0.4127, 0.0042),
            Published("lora r128 bf16", "mmlu", 0.45, PAPER, "0-1", "accuracy", 0.4194, 0.0042),
            Published("full bf16", "mmlu", 0.46, PAPER, "0-1", "accuracy"),
            Published("lora r128 bf16", "held-out", 15.1, PAPER, "0-100", "bleu", 14.7, 0.62),
            Published("qlora r128 nf4", "peak memory", 11.09, "the study's repository, README", "GB", "", 11.908),
        ),
        comparisons=example_comparisons(),
        flips=example_flips(flips),
        flips_left_out=1_196,
        curves=example_curves(),
        not_proved=(
            "Two seeds an arm: the error between seeds rests on two numbers.",
            "GSM8K has 1,319 items: minimum detectable difference 2.6 points.",
        ),
        differences=(
            SettingDifference("precision", {"base bf16": "none", "base nf4": "nf4", "qlora r128 nf4": "nf4"}),
            SettingDifference("train.batch_size", {"lora r128 bf16": "16", "qlora r128 nf4": "8 x 2"}),
        ),
        provenance={
            "hardware": {"accelerator": "1 x NVIDIA A100 80GB", "driver": "570.86.15", "memory": "117 GiB"},
            "versions": {"tunelab": "0.6.0", "torch": "2.13.0", "transformers": "5.23.0"},
            "hashes": {"data": "sha256:" + "9f3a" * 16, "model revision": "01c7f73d771dfac7d292323805ebc428287df4f9"},
            "recipe of qlora r128 nf4": {"resolved": recipe},
        },
        currency="USD",
        data_checks=example_data_checks(),
    )


def without_plots(report: StudyReport) -> StudyReport:
    """The report without what is drawn, which takes most of a page's time: for tests of its texts."""
    return dataclasses.replace(report, scores=(), published=(), comparisons=(), curves=(), rates=(), forgetting=None)


@cache
def example_page() -> str:
    """The page of the example report, drawn once."""
    return html_page(example_report())
