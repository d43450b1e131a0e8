"""The wheel: what it contains, and what its page says: URLs, versions, links that work outside of the repository."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tunelab.config.shipped_studies import shipped_studies

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import setup  # noqa: E402
from scripts import try_wheel  # noqa: E402

PROJECT = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def test_links_of_the_long_description_are_absolute() -> None:
    text = "![a picture](docs/a.png) [a page](docs/a.md#part) [there](https://x.y/z) [here](#below)"
    assert setup.absolute_links(text, "https://h/o/r", "1.2") == (
        "![a picture](https://h/o/r/raw/v1.2/docs/a.png) [a page](https://h/o/r/blob/v1.2/docs/a.md#part) "
        "[there](https://x.y/z) [here](#below)"
    )
    page = setup.long_description()
    targets = re.findall(r"\]\(([^)\s]+)\)", page)
    assert len(targets) > 20 and all(re.match(r"https://|#", target) for target in targets)


def test_the_extras_and_the_page_s_facts() -> None:
    for extra in ("trackers", "export", "ray", "slurm", "vllm"):
        assert re.search(rf"^{extra} = \[", PROJECT, re.MULTILINE), extra
    assert "Programming Language :: Python :: 3.10" in PROJECT and 'requires-python = ">=3.10"' in PROJECT


def test_the_studies_are_one_copy_inside_the_package() -> None:
    assert [one.path.resolve() for one in shipped_studies()] == sorted(
        path.resolve() for path in (REPOSITORY / "studies").glob("*.yaml")
    )
    assert 'tunelab = ["py.typed", "assets/**/*"]' in PROJECT


def test_every_file_of_the_package_goes_into_the_wheel() -> None:
    """setuptools takes the modules of folders with an __init__.py, and what `package-data` names: no hidden files."""
    left_out = []
    for name in own_files():
        path = Path(name)
        folders = [REPOSITORY / parent for parent in path.parents if len(parent.parts) > 1]
        is_module = path.suffix == ".py" and all((folder / "__init__.py").exists() for folder in folders)
        is_asset = path.parts[2] == "assets" and not any(part.startswith(".") for part in path.parts)
        if not (is_module or is_asset or name == "src/tunelab/py.typed"):
            left_out.append(name)
    assert left_out == []


def own_files() -> list[str]:
    return [name for name in try_wheel.tracked() if name.startswith("src/tunelab/")]


def test_what_is_tried_of_the_wheel() -> None:
    verbs = [words[0] for words in try_wheel.commands(Path("assets"), with_demo=True)]
    assert verbs == ["--version", "study", "keys", "train", "generate", "push", "demo"]
    assert "make wheel" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy of what git tracks, by the build backend that is installed."""
    return zipfile.ZipFile(try_wheel.build(tmp_path_factory.mktemp("wheel")))


@pytest.mark.slow
def test_the_wheel_has_studies_and_a_working_page(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name for name in names if ".dist-info/" not in name} == {name.removeprefix("src/") for name in own_files()}
    for study in shipped_studies():
        assert f"tunelab/assets/studies/{study.path.name}" in names
    assert "tunelab/py.typed" in names and not any(name.startswith(("tests/", "studies/", "setup")) for name in names)
    (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    page: Any = email.message_from_bytes(wheel.read(about))
    urls = dict(line.split(", ") for line in page.get_all("Project-URL"))
    assert {"Repository", "Documentation", "Changelog", "Issues"} <= set(urls)
    assert page["Description-Content-Type"] == "text/markdown"
    text = page.get_payload()
    assert f"]({urls['Repository']}/blob/v{page['Version']}/docs/guides/first-run.md)" in text
    assert f"]({urls['Repository']}/raw/v{page['Version']}/docs/pictures/report.png)" in text
    assert not re.search(r"\]\((?!https://|#)", text)
    assert {"vllm", "trackers", "export", "ray", "slurm"} <= set(page.get_all("Provides-Extra"))


@pytest.mark.slow
def test_studies_and_keys_of_the_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    wheel.extractall(installed)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import tunelab; from tunelab.cli.main import main\n"
    code += "print(tunelab.__file__); sys.exit(main(sys.argv[2:]))"
    for words in (
        ["study", "run", "tinystories656k-four-bits", "--dry-run"],
        ["study", "list"],
        ["keys", "save_steps"],
    ):
        command = [sys.executable, "-I", "-c", code, str(installed), *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        # Where there is no hub, --dry-run lists the jobs and what they lack.
        assert done.returncode == int("missing: " in done.stderr), done.stderr
        assert done.stdout.startswith(str(installed)), done.stderr
