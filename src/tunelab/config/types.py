"""Types of recipe values, with their descriptions. Strict: 3.0 is not an integer, "yes" is not true."""

from __future__ import annotations

import datetime
import os
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, StrictStr


@dataclass(frozen=True, slots=True)
class Words:
    """A type's description, for error messages and the reference page."""

    text: str


def shown(value: Any) -> str:
    """A value in YAML notation for messages: null, true, 'text'; at most 80 characters."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number(value: Any) -> Any:
    """A number as it is, or parsed from a string ("1e-5", "1_000"); true and false are not numbers."""
    if isinstance(value, bool):
        raise ValueError("true and false are not numbers")
    return float(value) if isinstance(value, str) else value


# The largest numbers that torch can compute with: a 64-bit integer, and a float32.
LARGEST_COUNT, LARGEST = 2**63 - 1, 3.4e38


def _encodable(value: str) -> str:
    """Text that can be a path or a name: the system's own strings are bytes that end at a null character."""
    if "\0" in value:
        raise ValueError("has a null character")
    os.fsencode(value)  # a lone surrogate: UnicodeEncodeError, which is a ValueError
    return value


def _pattern(value: str) -> str:
    """A regular expression that whole names can match: a word alone matches none, and is a name or a slip."""
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(str(error)) from error
    if re.fullmatch(r"[\w-]+", value):
        raise ValueError("a word")
    return value


def _date(value: str) -> str:
    if datetime.date.fromisoformat(value).isoformat() != value:
        raise ValueError("expected YYYY-MM-DD")
    return value


Text = Annotated[StrictStr, Field(min_length=1), AfterValidator(_encodable), Words("a string")]
Date = Annotated[StrictStr, AfterValidator(_date), Words("a date such as 2026-01-31")]
Pattern = Annotated[
    StrictStr, AfterValidator(_encodable), AfterValidator(_pattern), Words("a regular expression for whole names")
]
PissaIterations = Annotated[StrictStr, Field(pattern=r"^pissa_niter_[0-9]+$"), Words("pissa_niter_N")]
#: `adapter.targets` in place of names or an expression.
TargetWord = Literal["all-linear", "attention"]
TARGET_WORDS: tuple[str, ...] = get_args(TargetWord)
Flag = Annotated[StrictBool, Words("true or false")]
FlagOrAuto = Annotated[Literal["auto"] | StrictBool, Words("auto, true or false")]
Count = Annotated[StrictInt, Field(ge=1, le=LARGEST_COUNT), Words("a positive integer")]
CountOrZero = Annotated[StrictInt, Field(ge=0, le=LARGEST_COUNT), Words("a non-negative integer")]
CountOrAuto = Annotated[
    Literal["auto"] | Annotated[StrictInt, Field(ge=1, le=LARGEST_COUNT)], Words("auto, or a positive integer")
]
Positive = Annotated[
    float, Field(gt=0, le=LARGEST, allow_inf_nan=False), BeforeValidator(_number), Words("a positive number")
]
NotNegative = Annotated[
    float, Field(ge=0, le=LARGEST, allow_inf_nan=False), BeforeValidator(_number), Words("a non-negative number")
]
Share = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_number), Words("a number in [0, 1)")]
Kept = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_number), Words("a number between 0 and 1, without these")]
ShareOrCount = Annotated[
    Annotated[int, Field(ge=0, le=LARGEST_COUNT)] | Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)],
    BeforeValidator(_number),
    Words("a fraction below 1, or an integer"),
]
