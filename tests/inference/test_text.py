"""Text that grows token by token is the text of all tokens at once, whatever the tokenizer, wherever it is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from real_tokenizers import NAMES, load_real_tokenizer

from tunelab.inference.text import GrowingText, decoded

TEXTS = (
    "Hello world, how are you?",
    " leading and  double  spaces, trailing ",
    "naïve café – 日本語 🙂👩‍👩‍👧 é",
    "line\nline\n\n\ttab",
    "don't I'm we 've . , !",
)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name == "llama3" else ()) for name in NAMES]
)
def tokenizer(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_real_tokenizer(request.param, shared_data, tmp_path_factory.mktemp("tokenizer"))


def test_pieces_together_are_the_whole(tokenizer: Any) -> None:
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = decoded(tokenizer, ids)
        growing = GrowingText(tokenizer)
        pieces = []
        for token in ids:
            assert not growing.add(token)
            pieces.append(growing.new_piece())
        growing.finish()
        pieces.append(growing.new_piece(last=True))
        assert "".join(pieces) == growing.text == whole
        assert sum(bool(piece) for piece in pieces) > 3
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces), "characters are never shown in parts"


def test_a_stop_string_is_found_across_tokens_and_never_shown(tokenizer: Any) -> None:
    text = "The first answer.\n\n### Instruction:\nand more \N{SLIGHTLY SMILING FACE} after it"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for stop in ("### Instruction:", "wer.\n\n#", "\N{SLIGHTLY SMILING FACE}", "T", "nowhere to be found"):
        growing, pieces, used = GrowingText(tokenizer, ("absent", stop)), [], 0
        for token in ids:
            used += 1
            ended = growing.add(token)
            pieces.append(growing.new_piece())
            if ended:
                break
        growing.finish()
        pieces.append(growing.new_piece(last=True))
        whole = decoded(tokenizer, ids)
        assert "".join(pieces) == growing.text == whole.partition(stop)[0]
        assert growing.stopped == (stop in whole)
        if growing.stopped:
            assert stop not in decoded(tokenizer, ids[: used - 1]), "it ends with the token that completes the string"


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    class Letters:
        def decode(self, ids: list[int], **named: bool) -> str:
            return "".join(chr(token) for token in ids)

    growing = GrowingText(Letters(), ("<end>",))  # type: ignore[arg-type]
    shown = []
    for letter in "ab<en<endc":
        growing.add(ord(letter))
        shown.append(growing.new_piece())
    assert shown == ["a", "b", "", "", "", "<en", "", "", "", "<endc"]
    growing.finish()
    assert growing.new_piece(last=True) == ""
