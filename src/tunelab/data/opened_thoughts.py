"""Chat templates whose generation prompt opens an answer's thoughts and which show none: DeepSeek-R1's, QwQ's."""

from __future__ import annotations

import re

#: Between an answer's thoughts and its text, where the template itself does not write them.
END_OF_THOUGHTS = "\n</think>\n\n"


def open_thoughts(pieces: list[str], last: int, header: str) -> bool:
    """Let the last answer begin where the generation prompt ends, if that opens its thoughts and the template does not.

    DeepSeek-R1 and QwQ prompt with "<think>" and show no thoughts of answers that were given. What the model is to
    continue there is the rest of its thoughts, or nothing, then their end, then the answer (as LLaMA-Factory has it).

    Args:
        pieces: the template's own text and the marks in turn; changed in place.
        header: what the generation prompt adds.
    """
    opened = re.search(r"<think>\s*$", header)
    place = pieces.index(f"\ue000{last}\ue001")
    thought = f"\ue000{last}\ue002"
    before = pieces[place - 1]
    if opened is None or thought in pieces or header in before or not before.endswith(header[: opened.start()]):
        return False
    pieces[place - 1 : place] = [before + opened.group(), thought, END_OF_THOUGHTS]
    return True
