"""Export a finished run's model for another program.

Examples:
  tunelab export runs/alpaca --to hf --out exported
  tunelab export runs/alpaca --to peft --out adapter
  tunelab export runs/alpaca --to compressed-tensors --out for-vllm
  tunelab export runs/alpaca --to gguf --kind Q8_0 --out gguf
  tunelab export runs/alpaca --to ollama --out ollama

hf: a merged transformers checkpoint. compressed-tensors: MXFP4, for transformers and vLLM. gguf: for llama.cpp; every
tensor is read back and compared. ollama: GGUF and a Modelfile with the prompt template and stop tokens of training,
for `ollama create NAME` in that directory.
"""

from __future__ import annotations

import argparse

from tunelab.cli._console import print_table, progress_bar, quick_imports
from tunelab.cli._json import add_json_flag, exported_document, print_json
from tunelab.cli._recipe_arguments import add_base_argument
from tunelab.errors import UsageError
from tunelab.records.runs import open_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --to, --out, --kind, --base, --force, --json."""
    parser.add_argument("run", metavar="RUN", help="directory of a finished run")
    parser.add_argument("--to", required=True, choices=("hf", "peft", "compressed-tensors", "gguf", "ollama"))
    parser.add_argument("--out", metavar="DIR", required=True, help="a new directory")
    kinds = ("F16", "BF16", "Q8_0")
    parser.add_argument("--kind", choices=kinds, help="dtype of matrices in a GGUF file (default F16)")
    add_base_argument(parser)
    parser.add_argument("--force", action="store_true", help="write even if rounding or the format costs too much")
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export, and show what was written."""
    _check(arguments)
    open_run(arguments.run)  # a missing run is reported before torch is imported
    with quick_imports():
        from tunelab.publishing.export import export

    with progress_bar() as progress:
        done = export(
            arguments.run,
            arguments.out,
            to=arguments.to,
            kind=arguments.kind or "F16",
            base=arguments.base,
            force=arguments.force,
            progress=progress,
        )
    if arguments.json:
        return print_json(exported_document(done))
    files = ", ".join(done.files)
    print_table(("what", "value"), [("written", str(done.path)), ("files", files), ("checked", done.checked)])
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raises UsageError if a flag is given that the target has no use for."""
    is_gguf = arguments.to in ("gguf", "ollama")
    refused = {
        "--kind": (not is_gguf and arguments.kind is not None, "it is for --to gguf and ollama"),
        "--force": (arguments.force and (is_gguf or arguments.to == "peft"), "nothing is rounded that would be judged"),
        "--base": (arguments.to == "peft" and arguments.base is not None, "the adapter is exported without its base"),
    }
    for flag, (is_wrong, why) in refused.items():
        if is_wrong:
            raise UsageError(f"{flag} has no effect with --to {arguments.to}: {why}", "omit it")
