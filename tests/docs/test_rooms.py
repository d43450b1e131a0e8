"""Promise: scripts/rooms.py measures the rooms of ARCHITECTURE.md: files, lines, depth of imports inside each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from scripts import rooms  # noqa: E402


def made(folder: Path, sources: dict[str, str]) -> Path:
    for name, source in sources.items():
        path = folder / "tunelab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return folder / "tunelab"


def test_depth_is_the_longest_chain_of_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {
        "kitchen/__init__.py": "",
        "kitchen/cook.py": "from tunelab.kitchen import pan\n",
        "kitchen/pan.py": "def f():\n    from tunelab.kitchen.parts.handle import grip\n",
        "kitchen/parts/handle.py": "import tunelab.hall\n",
        "kitchen/spoon.py": "x = 1\n",
    }
    monkeypatch.setattr(rooms, "PACKAGE", made(tmp_path, sources))
    files = rooms.modules(rooms.PACKAGE / "kitchen")
    assert sorted(files) == [f"tunelab.kitchen.{name}" for name in ("cook", "pan", "parts.handle", "spoon")]
    assert rooms.depth(files) == 3
    assert rooms.depth({name: path for name, path in files.items() if name.endswith(("cook", "spoon"))}) == 1


def test_every_room_of_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rooms.main()
    printed = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    table = rooms.floors((REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    assert {row[1]: int(row[0]) for row in printed} == table
    assert all(int(row[2]) > 0 and int(row[3].replace(",", "")) > 0 and int(row[4]) > 0 for row in printed)
