"""The calls in a model's answer, whatever it has written."""

from __future__ import annotations

from tunelab.data.called_tools import called_tools

TOOLS = [{"type": "function", "function": {"name": "f"}}]


def test_names_that_are_no_strings_are_no_calls() -> None:
    for odd in ('{"name": ["f"]}', '{"name": {"a": 1}}', '{"name": null}', "{}"):
        assert called_tools(odd, TOOLS) == (odd, ())
        assert len(called_tools(f'{odd} {{"name": "f", "arguments": {{}}}}', TOOLS)[1]) == 1
