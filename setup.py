"""Build hook: the README as the package's long description, its relative links made absolute.

Everything else is in pyproject.toml. Links are relative to the repository that `[project.urls]` names, at the tag of
the version.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

FOLDER = Path(__file__).parent
REPOSITORY = re.compile(r'^Repository = "(.+)"$', re.MULTILINE)
VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def absolute_links(text: str, repository: str, version: str) -> str:
    """The text with links to files as links into the repository, and pictures as raw files."""

    def absolute(found: re.Match[str]) -> str:
        picture, words, path = found.groups()
        return f"{picture}[{words}]({repository}/{'raw' if picture else 'blob'}/v{version}/{path})"

    return LINK.sub(absolute, text)


def long_description() -> str:
    """README.md for a page outside of the repository."""
    project = (FOLDER / "pyproject.toml").read_text(encoding="utf-8")
    version = (FOLDER / "src" / "tunelab" / "version.py").read_text(encoding="utf-8")
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    return absolute_links(readme, REPOSITORY.findall(project)[0], VERSION.findall(version)[0])


if __name__ == "__main__":
    setup(long_description=long_description(), long_description_content_type="text/markdown")
