"""Properties of a whole text: the instructions combination:*, startend:* and punctuation:*."""

from __future__ import annotations


def two_responses(text: str) -> bool:
    """Two different responses separated by ******; a separator may also come before and after."""
    parts = [part.strip() for part in text.split("******")]
    if not all(parts[1:-1]):
        return False
    responses = [part for part in parts if part]
    return len(responses) == 2 and responses[0] != responses[1]


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    """The text starts with the prompt, case-insensitive."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, *, end_phrase: str) -> bool:
    """The text ends with the phrase, ignoring case and closing double quotation marks."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    """The whole text is in double quotation marks."""
    text = text.strip()
    return len(text) > 1 and text.startswith('"') and text.endswith('"')


def no_comma(text: str) -> bool:
    """There is no ASCII comma; others, such as the Arabic comma, are allowed."""
    return "," not in text
