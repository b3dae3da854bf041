import json
import random

import pytest

from benchmarks.endurance import EnduranceArgs, Sample, build_command, fit_growth, watch_run


def run_of(steps: int, *, leak_mb: float = 0.0, files: float = 0.0) -> list[Sample]:
    """A second a step; memory fills in the first steps, then moves by chance."""
    draw = random.Random(0)
    return [
        Sample(
            step,
            float(step),
            rss_mb=500.0 - 200.0 / step + draw.uniform(-3, 3) + leak_mb * step,
            open_files=20.0 + (step * files) // 1,
            threads=5.0,
        )
        for step in range(1, steps + 1)
    ]


def test_a_run_that_fills_its_pools_and_stays_there_has_not_grown():
    result = fit_growth(run_of(400))
    assert result["grew"] == []
    assert abs(result["rss_mb"]["slope_per_hour"]) < 50  # of 3600 steps
    assert result["open_files"] == {
        "first": 20,
        "last": 20,
        "slope_per_hour": 0,
        "slope_per_step": 0,
    }


def test_a_leak_of_memory_or_of_a_file_is_found_with_its_slope():
    result = fit_growth(run_of(400, leak_mb=0.1))
    assert result["grew"] == ["rss_mb"]
    assert result["rss_mb"]["slope_per_step"] == pytest.approx(0.1, abs=0.01)
    assert fit_growth(run_of(400, files=0.01))["grew"] == ["open_files"]


def test_too_short_a_run_says_so():
    with pytest.raises(SystemExit, match="--minutes"):
        fit_growth(run_of(5))


@pytest.mark.slow
def test_a_real_run_is_sampled_at_its_steps(tmp_path):
    args = EnduranceArgs(rollout_batch_size=4, max_new_tokens=4)
    samples = watch_run(build_command(args, tmp_path), tmp_path / "output", 25.0)
    assert len(samples) >= 5
    assert samples == sorted(samples, key=lambda sample: sample.step)
    assert all(sample.rss_mb > 50 and sample.threads >= 1 for sample in samples)
    assert json.loads((tmp_path / "output/args.json").read_text())["rollout_batch_size"] == 4
    assert not (tmp_path / "output/complete.json").exists()
