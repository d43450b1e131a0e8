"""What a key of a recipe may hold, with words for people. Strict: 3.0 is no whole number, "yes" is not true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr


@dataclass(frozen=True, slots=True)
class Words:
    """A type in plain words, for error messages and the reference page."""

    text: str


def shown(value: Any) -> str:
    """A value as YAML has it, for messages: null, true, 'text'; cut after 80 characters."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number(value: Any) -> Any:
    """A number as it is, or from its text ("1e-5", "1_000"); true and false are no numbers."""
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return float(value) if isinstance(value, str) else value


Text = Annotated[StrictStr, Field(min_length=1), Words("text")]
Flag = Annotated[StrictBool, Words("true or false")]
Count = Annotated[StrictInt, Field(ge=1), Words("a whole number, at least 1")]
CountOrZero = Annotated[StrictInt, Field(ge=0), Words("a whole number, at least 0")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number), Words("a number above 0")]
NotNegative = Annotated[
    float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number), Words("a number, at least 0")
]
Share = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_number), Words("a number from 0 to below 1")]
ShareOrCount = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, allow_inf_nan=False)],
    BeforeValidator(_number),
    Words("a share below 1, or a whole number"),
]
