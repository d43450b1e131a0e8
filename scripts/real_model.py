"""Every verb of the README on a real instruct model; the output goes to benchmarks/results/DATE-real-model.md.

    make real-model                                         (or: python scripts/real_model.py [--folder DIR])
    TUNELAB_REAL_MODEL=DIR    a small instruct model saved by transformers, such as SmolLM2-135M-Instruct in bfloat16
    TUNELAB_REAL_DATA=DIR     alpaca/alpaca_cleaned.json, ifeval/ and mmlu/ (default: ../shared/data)

What is not there is skipped, and said. The sizes below keep 135M parameters under 20 minutes on 2 CPU cores without
bf16 instructions, which emulate the bf16 products that merges are measured with. With --folder, finished commands are
not run again; the page adds up the time of all. It holds no absolute path: commands run in one folder, which links to
the model and the data.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.measuring import machine  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results"
MODEL, DATA = "TUNELAB_REAL_MODEL", "TUNELAB_REAL_DATA"

#: 300 Alpaca rows, one epoch; those of up to 96 tokens, of 14 held out about 6, on which merges are measured.
MODEL_AND_DATA = ("--model", "model", "--data", "alpaca_cleaned.json")
TRAINING = (*MODEL_AND_DATA, "--size", "300", "--epochs", "1", "--lr", "2e-4", "data.max_length=96", "data.held_out=14")

#: Two steps of one row in bf16, on CPUs where all of it would take an hour: they emulate bf16 products.
SHORT = (*MODEL_AND_DATA, "--size", "12", "data.held_out=2", "data.max_length=64", "train.steps=2", "--batch-size", "1")

#: Two steps of all weights, in float32 on such a CPU.
TWO_STEPS = ("--method", "full", "train.steps=2", "--batch-size", "4")
LORA, NF4, FULL, BF16 = "runs/lora", "runs/lora-nf4", "runs/full", "runs/lora-bf16"

#: Of a GGUF file's matrices. llama.cpp must give tunelab's answers from the first.
KINDS = ("F16", "BF16", "Q8_0")

#: MXFP4 without calibration costs a model of this size more than it learned here: an export is refused, or forced.
#: "hf" merges the NF4 run, since `merge` does the other one.
EXPORTS = (
    (LORA, "peft", ()),
    (LORA, "compressed-tensors", ("--force",)),
    *((LORA, "gguf", ("--kind", kind)) for kind in KINDS),
    (LORA, "ollama", ()),
    (NF4, "hf", ()),
)

#: A chat template whose tokens SmolLM2's tokenizer lacks.
LLAMA3 = ("data.template=llama3", "model.new_tokens=template")

QUESTION = "Name the three primary colors."
#: What tunelab and llama.cpp answer, one after the other.
QUESTIONS = (
    QUESTION,
    "Why is the sky blue?",
    "Give three tips for staying healthy.",
    "Write a short poem about the sea.",
    "What is the capital of France?",
    "Translate 'good morning' into Spanish.",
    "Explain recursion to a child.",
    'Rewrite in the past tense: "She walks to school."',
)

#: What plain transformers answers, with the chat template and the generation settings that the merge brought along.
PLAIN = """
import os
import sys
os.environ["TQDM_DISABLE"] = "1"
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, question = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
turns = [{"role": "user", "content": question}]
prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, max_new_tokens=48, do_sample=False)
print(tokenizer.decode(answer[0][prompt["input_ids"].shape[1]:], skip_special_tokens=True))
"""


@dataclass(frozen=True)
class Step:
    """One command: its words, what it needs, and where its output goes if a step of before left that."""

    words: Sequence[str]
    needs: str = ""
    makes: str = ""


def has_bf16_products() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AVX512_BF16 or AMX)."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", cpuinfo.read_text(encoding="utf-8")))


def steps() -> list[Step]:
    """The commands in their order."""
    asked = ("--prompt", QUESTION, "--max-new-tokens", "48")
    training = (*TRAINING, "--dtype", "bf16" if has_bf16_products() else "fp32")
    short = [] if has_bf16_products() else [Step(("train", *SHORT, "--dtype", "bf16", "--out", BF16), makes=BF16)]
    return [
        Step(("env",)),
        Step(("inspect", *training, "--rows", "1")),
        Step(("train", *training, "--out", LORA), makes=LORA),
        Step(("train", *training, "--precision", "nf4", "--out", NF4), makes=NF4),
        *short,
        Step(("train", *training, *TWO_STEPS, "--out", FULL), makes=FULL),
        *(Step(("eval", run, "--max-new-tokens", "32")) for run in (LORA, NF4)),
        Step(("eval", LORA, "--benchmarks", "ifeval", "--limit", "8", "--max-new-tokens", "64"), needs="ifeval"),
        Step(("eval", LORA, "--benchmarks", "mmlu", "--limit", "20", "mmlu.shots=1"), needs="mmlu"),
        Step(("compare", LORA, NF4)),
        Step(("chat", LORA, "--set", "max_new_tokens=32")),
        Step(("generate", LORA, *asked)),
        Step(("generate", "--model", "model", *asked)),
        Step(("merge", LORA, "--compare")),
        Step(("merge", LORA, "--out", "merged"), makes="merged"),
        *(Step(("export", run, "--to", to, *more, "--out", out), makes=out) for run, to, more, out in exports()),
        Step(("python", "plain.py", "merged", QUESTION), needs="merged"),
        *in_llama_cpp(),
        *further(training),
    ]


def exports() -> list[tuple[str, str, tuple[str, ...], str]]:
    """EXPORTS, each with where it goes."""
    return [
        (run, to, more, "-".join(["exported", to, *(one for one in more if not one.startswith("-"))]))
        for run, to, more in EXPORTS
    ]


def in_llama_cpp() -> list[Step]:
    """The run's answers in float32, and llama.cpp's from each GGUF file."""
    written = [out for _, to, _, out in exports() if to == "gguf"]
    in_float32 = ("--model", "merged-fp32", "train.dtype=fp32")
    asked = ("--file", "questions.jsonl", "--out", "answers.jsonl", "--max-new-tokens", "48")
    return [
        Step(("merge", LORA, "--format", "fp32", "--out", "merged-fp32"), makes="merged-fp32"),
        Step(("generate", *in_float32, *asked)),
        Step(("python", "llama_cpp_answers.py", "answers.jsonl", "merged-fp32", *written), needs=written[0]),
    ]


def further(training: Sequence[str]) -> list[Step]:
    """What else a user does with a model: data checks, a GGUF file and a quantized folder as base, an adapter trained
    further, a chat template by name with tokens that the tokenizer lacks, the hub's card, a plan."""
    short = (*TRAINING[2:4], "--size", "40", "data.held_out=4", "data.max_length=96", *training[-2:])
    two_steps = (*short, "train.steps=2", "--batch-size", "2")
    file, more, named = exports()[2][3] + "/model.gguf", "runs/more", "runs/llama3"
    asked = ("--prompt", QUESTION, "--max-new-tokens", "48")
    return [
        Step(("plan", "--model", "model", "--gpu", "8GB", *TRAINING[2:6])),
        Step(("lint", *training)),
        Step(("generate", "--model", file, *asked)),
        Step(("train", "--model", file, *two_steps, "--out", "runs/from-gguf"), makes="runs/from-gguf"),
        Step(("quantize", "model", "--precision", "nf4", "--out", "model-nf4"), makes="model-nf4"),
        Step(("generate", "--model", "model-nf4", "--precision", "nf4", *asked)),
        Step(("merge", NF4, "--format", "nf4", "--force", "--out", "merged-nf4"), makes="merged-nf4"),
        Step(("train", "--model", "model", *two_steps, f"adapter.from={LORA}", "--out", more), makes=more),
        Step(("train", "--model", "model", *two_steps, *LLAMA3, "--out", named), makes=named),
        Step(("generate", named, *asked)),
        Step(("merge", named, "--out", "merged-llama3"), makes="merged-llama3"),
        Step(("push", LORA, "me/first-lora", "--base", "HuggingFaceTB/SmolLM2-135M-Instruct", "--dry-run")),
    ]


def run(step: Step, folder: Path) -> tuple[str, int]:
    """A command's output, both streams in their order without a terminal, and its exit code."""
    if step.words[0] == "chat":
        return chat(step.words, folder)
    words = [sys.executable, *(step.words[1:] if step.words[0] == "python" else ("-m", "tunelab", *step.words))]
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=offline())
    return done.stdout, done.returncode


def chat(words: Sequence[str], folder: Path) -> tuple[str, int]:
    """A conversation at a terminal: a question, the base's answer to the same, and the end."""
    lines = [QUESTION, "/base", QUESTION, "quit"]
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tunelab", *words], cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal,
        env={**offline(), "COLUMNS": "100", "TERM": "xterm", "NO_COLOR": "1"},
    )  # fmt: skip
    os.close(terminal)
    shown, typed = bytearray(), 0
    while True:
        try:
            piece = os.read(main, 4096)
        except OSError:  # the terminal is closed
            break
        if not piece:
            break
        shown += piece
        # A line is typed at a prompt alone: what is typed while an answer is written can be lost.
        if typed < min(shown.count(b"you> "), len(lines)):
            os.write(main, lines[typed].encode() + b"\n")
            typed += 1
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][AB0]|\r", b"", bytes(shown)).decode(errors="replace")
    return text, process.wait()


def offline() -> dict[str, str]:
    return {"NLTK_DATA": "nltk_data", **os.environ, "HF_HUB_OFFLINE": "1"}


@contextmanager
def prepared(model: Path, data: Path, folder: Path) -> Iterator[Path]:
    """The folder that the commands run in, with links to what they use."""
    folder.mkdir(parents=True, exist_ok=True)
    links = {"model": model, "alpaca_cleaned.json": data / "alpaca" / "alpaca_cleaned.json"}
    links |= {name: data / name for name in ("ifeval", "mmlu", "nltk_data")}
    for name, place in links.items():
        if place.exists() and not (folder / name).exists():
            (folder / name).symlink_to(place.resolve())
    (folder / "plain.py").write_text(PLAIN, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("llama_cpp_answers.py"), folder)
    questions = (json.dumps({"prompt": question}) + "\n" for question in QUESTIONS)
    (folder / "questions.jsonl").write_text("".join(questions), encoding="utf-8")
    yield folder


def record(folder: Path, *, runs: bool = True) -> tuple[list[str], list[str]]:
    """Run everything; the page's sections, and the commands that failed.

    Args:
        runs: False = run nothing: what is not finished is named.
    """
    sections, failed = [], []
    for number, step in enumerate(steps()):
        shown = " ".join(f'"{word}"' if " " in word else word for word in options(step, folder))
        name = shown if step.words[0] == "python" else f"tunelab {shown}"
        if step.needs and not (folder / step.needs).exists():
            sections.append(f"## {name}\n\nSkipped: {step.needs} is not there.\n")
            print(f"skipped: {name}", flush=True)
            continue
        kept = folder / "output" / f"{number:02}.md"
        if kept.exists():
            sections.append(kept.read_text(encoding="utf-8"))
            print(f"kept: {name}", flush=True)
            continue
        if not runs:
            sections.append(f"## {name}\n\nNot run.\n")
            print(f"not run: {name}", flush=True)
            continue
        if step.makes:
            shutil.rmtree(folder / step.makes, ignore_errors=True)  # of a step that was stopped
        started = time.monotonic()
        printed, code = run(Step(options(step, folder)), folder)
        seconds = time.monotonic() - started
        print(f"{seconds:6.1f} s, exit {code}: {name}", flush=True)
        failed += [name] if code else []
        sections.append(f"## {name}\n\n{seconds:.0f} s, exit code {code}\n\n```\n{printed.strip()}\n```\n")
        if not code:
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(sections[-1], encoding="utf-8")
    if not is_one_answer(sections):
        failed.append("the merged model in plain transformers does not answer as the run does")
    return sections, failed


def is_one_answer(sections: Sequence[str]) -> bool:
    """Whether the run and its merged model in plain transformers gave the same answer, as far as they gave one."""
    asked = [one for one in sections if one.startswith((f"## tunelab generate {LORA} ", "## python plain.py"))]
    answers = [found[1] for one in asked if (found := re.search(r"```\n(.*)\n```", one, re.DOTALL))]
    # `generate` says on stderr that an answer was cut off; transformers does not.
    return len({re.sub(r"\nthe answer was cut off .*", "", answer) for answer in answers}) <= 1


def options(step: Step, folder: Path) -> tuple[str, ...]:
    """The words, with the folder of a benchmark's files."""
    return (
        (*step.words, f"{step.needs}.data={step.needs}")
        if step.words[0] == "eval" and step.needs
        else tuple(step.words)
    )


#: Quoted scores: name -> the command that gave them, and the row of its table.
SCORES = {
    "LoRA: held-out rows, completion perplexity": (f"## tunelab eval {LORA} --max", "completion perplexity"),
    "NF4 LoRA: held-out rows, completion perplexity": (f"## tunelab eval {NF4} --max", "completion perplexity"),
    "LoRA: IFEval, prompt strict": (f"## tunelab eval {LORA} --benchmarks ifeval", "prompt strict"),
    "LoRA: MMLU, accuracy": (f"## tunelab eval {LORA} --benchmarks mmlu", "accuracy"),
}

#: Quoted trainings: name -> where it went.
TRAININGS = {"LoRA": LORA, "NF4 LoRA": NF4, "full (2 steps)": FULL}


def in_short(sections: Sequence[str]) -> str:
    """Two tables that documents quote, as blocks; what was skipped is left out."""
    scores = [("", "base", "tuned")]
    for name, (title, row) in SCORES.items():
        found = _row(sections, title, row)
        scores += [(name, *found[:2])] if len(found) >= 2 else []
    trainings = [("", "speed", "peak memory", "held-out loss")]
    for name, out in TRAININGS.items():
        title = "## tunelab train "
        made = [one for one in sections if one.startswith(title) and f" --out {out}\n" in one]
        cells = [_row(made, title, row) for row in ("speed", "peak resident memory", "held-out loss")]
        trainings += [(name, *(cell[0] for cell in cells))] if all(cells) else []
    blocks = {"scores": scores, "training": trainings}
    texts = [f"<!-- block {name} -->\n```\n{_aligned(rows)}\n```\n<!-- end {name} -->" for name, rows in blocks.items()]
    title = "## python llama_cpp_answers.py"
    counts = [
        line for one in sections if one.startswith(title) for line in re.findall("^exported.*", one, re.MULTILINE)
    ]
    if counts:
        texts.append("<!-- block llama-cpp -->\n```\n" + "\n".join(counts) + "\n```\n<!-- end llama-cpp -->")
    return "## In short\n\n" + "\n\n".join(texts) + "\n"


def _row(sections: Sequence[str], title: str, name: str) -> list[str]:
    """The cells after a row's name in the output of a command; [] if it is not there."""
    for section in sections:
        for line in section.splitlines() if section.startswith(title) else ():
            cells = [cell for cell in re.split(r"\s{2,}", line.strip()) if cell]
            if cells and cells[0] == name:
                return cells[1:]
    return []


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def page(sections: Sequence[str], today: str, note: str = "") -> str:
    here = machine()
    seconds = sum(
        int(found[1]) for section in sections if (found := re.search(r"^(\d+) s, exit", section, re.MULTILINE))
    )
    versions = ", ".join(f"{name} {version}" for name, version in here["libraries"].items())
    return (
        f"# A real model, {today}\n\n`make real-model` with SmolLM2-135M-Instruct (bfloat16, from a Q4_1 file: "
        f"the scores are that file's); {here['processor']}, {here['cores']} cores; python {here['python']}, "
        f"{versions}. "
        f"{seconds / 60:.0f} minutes in all.{f' {note}' if note else ''}\n\n"
        + "\n".join([in_short(sections), *sections])
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--note", default="", help="what a reader must know of this machine while it ran")
    parser.add_argument("--page", action="store_true", help="only write the page of what is finished in --folder")
    arguments = parser.parse_args()
    given = arguments.folder
    model, data = os.environ.get(MODEL), Path(os.environ.get(DATA, REPOSITORY.parent / "shared" / "data"))
    if not model or not (data / "alpaca" / "alpaca_cleaned.json").is_file():
        print(f"skipped: {MODEL} names no folder" if not model else f"skipped: no alpaca/alpaca_cleaned.json in {DATA}")
        return 0
    with tempfile.TemporaryDirectory() as temporary, prepared(Path(model), data, given or Path(temporary)) as folder:
        sections, failed = record(folder, runs=not arguments.page)
        text = page(sections, str(date.today()), arguments.note).replace(str(folder.resolve()), ".")
    for place in (str(Path(model).resolve()), str(data.resolve()), str(REPOSITORY), str(Path.home())):
        text = text.replace(place, "...")
    target = RESULTS / f"{date.today()}-real-model.md"
    target.write_text(text, encoding="utf-8")
    print(f"wrote {target.relative_to(REPOSITORY)}" + (f"; failed: {'; '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
