"""No test run leaves a cache behind: its own is removed at its end, those of killed runs when the next begins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import run_cache

BEGIN = "import sys; from pathlib import Path; from run_cache import new_cache; print(new_cache(Path(sys.argv[1])));"


@pytest.mark.parametrize("end", ["", "raise KeyboardInterrupt", "import os; os.fork() or sys.exit(); os.wait()"])
def test_a_cache_goes_with_its_run(end: str, tmp_path: Path) -> None:
    ask = "import pathlib; assert pathlib.Path(sys.argv[1]).is_dir();"
    command = [sys.executable, "-S", "-c", f"{BEGIN} {ask} {end}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(run_cache.__file__).parent)
    assert done.stdout.startswith(f"{tmp_path}/{run_cache.PREFIX}"), done.stderr
    assert not list(tmp_path.iterdir())


def test_caches_of_dead_runs_alone_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{run_cache.PREFIX}{name}" for name in ("dead", "unlocked", "living", "young")] + ["another"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").touch()
    os.close(run_cache.hold(tmp_path / names[0]))
    living = run_cache.hold(tmp_path / names[2])
    for name in (*names[:3], names[4]):
        os.utime(tmp_path / name, (0, 0))
    run_cache.remove_caches_of_dead_runs(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])
    os.close(living)
