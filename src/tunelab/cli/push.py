"""Push a finished run to the Hugging Face hub, with its model card.

Examples:
  tunelab push runs/alpaca me/alpaca-lora --dry-run
  tunelab push runs/alpaca me/alpaca-lora --private
  tunelab push runs/alpaca me/alpaca --merged
  tunelab push runs/own me/own-lora --base owner/the-base
  tunelab push my-study/runs/train-0123456789 me/best-arm

The adapter alone, or with --merged one model; a run of full fine-tuning is one model already. The card says what the
model was made of, how it scored, and what was not measured. One commit; a push that broke off is run again.
Log in first: hf auth login.
"""

from __future__ import annotations

import argparse

from tunelab.cli._console import print_data, print_table, progress_bar, say
from tunelab.cli._json import add_json_flag, print_json, pushed_document
from tunelab.records.runs import open_run
from tunelab.units import format_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, OWNER/NAME, --merged, --format, --base, --private, --revision, --message, --dry-run, --json."""
    parser.add_argument("run", metavar="RUN", help="directory of a finished run")
    parser.add_argument("repository", metavar="OWNER/NAME", help="a model repository; created if there is none")
    parser.add_argument("--merged", action="store_true", help="the adapter merged into its base, as one model")
    parser.add_argument("--format", default="auto", metavar="FORMAT", help="of a merged model, as for `tunelab merge`")
    parser.add_argument("--base", metavar="OWNER/NAME", help="the base on the hub, if the run was trained on a folder")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch; created if there is none")
    parser.add_argument("--message", metavar="TEXT", help="message of the commit")
    parser.add_argument("--dry-run", action="store_true", help="show every file and the card, send nothing")
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Push, and show what was pushed."""
    open_run(arguments.run)  # a missing run is reported before torch is imported
    from tunelab.publishing.push import push

    names = ("merged", "format", "base", "private", "revision", "message", "dry_run")
    with progress_bar() as progress:
        done = push(
            arguments.run,
            arguments.repository,
            **{name: getattr(arguments, name) for name in names},
            progress=progress,
        )
    if arguments.json:
        return print_json(pushed_document(done))
    rows = [(name, format_bytes(size)) for name, size in done.files.items()]
    print_table(("file", "size"), [*rows, ("total", format_bytes(sum(done.files.values())))])
    if arguments.dry_run:
        print_data(f"\n{done.card}")
    for notice in done.notices:
        say(f"warning: {notice}")
    say("nothing was sent (--dry-run)" if arguments.dry_run else f"{done.url} (commit {done.commit[:8]})")
    return 0
