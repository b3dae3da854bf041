"""A wrong flag of an example's program is one line."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("example", ["movie_reviews", "chinese_reviews"])
@pytest.mark.parametrize("name", ["prepare.py", "judge.py"])
def test_a_wrong_flag_ends_in_one_line_and_status_2(example, name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example / name), "--sede", "1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name}: error: unknown flags: --sede")
    assert len(done.stderr.splitlines()) == 1
