"""The date that a chat template writes, fixed: a run's rows, prompts and published template all have the same one.

Templates ask for it with `strftime_now(format)` (Llama 3.2's and others), a function of transformers and of other
programs that returns today. A macro of that name in front of the template takes its place and is stored with it. The
jobs of a study, which may run on several days, all take the day on which the study began.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

FUNCTION = "strftime_now"
_CALL = re.compile(FUNCTION + r"\s*\(\s*(['\"])(.*?)\1\s*\)")
_FIXED = re.compile(r"\{#- date: (\d{4}-\d\d-\d\d) -#\}")

_day: ContextVar[datetime.date | None] = ContextVar("day", default=None)


@contextmanager
def rendered_on(day: datetime.date) -> Iterator[None]:
    """Within the block, templates that ask for today's date are fixed to this one, on whatever day they are loaded."""
    token = _day.set(day)
    try:
        yield
    finally:
        _day.reset(token)


def day_of_rendering() -> datetime.date:
    """The date that a template is fixed to where its recipe names none."""
    return _day.get() or datetime.date.today()


def writes_date(template: str | None) -> bool:
    """Whether the template asks for today's date."""
    return isinstance(template, str) and FUNCTION in template


def fixed_date(template: str | None) -> datetime.date | None:
    """The date that a template was fixed to; None for one that was not."""
    found = _FIXED.match(template) if isinstance(template, str) else None
    return datetime.date.fromisoformat(found[1]) if found else None


def with_fixed_date(template: str, day: datetime.date) -> str:
    """The template with its date fixed, at midnight; unchanged if it asks for none, or is fixed already.

    A format that is not written out in a call raises when it is asked for, as there is no text for it.
    """
    if not writes_date(template) or fixed_date(template) is not None:
        return template
    midnight = datetime.datetime.combine(day, datetime.time())
    texts = json.dumps({call[2]: midnight.strftime(call[2]) for call in _CALL.finditer(template)}, ensure_ascii=False)
    unknown = f"raise_exception('the date is fixed to {day}, and has no text for this format')"
    macro = (
        f"{{%- macro {FUNCTION}(format) -%}}{{%- set texts = {texts} -%}}"
        f"{{{{- texts[format] if format in texts else {unknown} -}}}}{{%- endmacro -%}}"
    )
    return f"{{#- date: {day} -#}}{macro}{template.lstrip()}"
