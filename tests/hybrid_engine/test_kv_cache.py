import pytest
import torch

from training.hybrid_engine.kv_cache import KVCache


@pytest.mark.parametrize(
    ("slots", "capacity", "fits"),
    [(4, 64, True), (3, 64, True), (3, 65, False), (5, 8, False), (4, 63, True)],
)
def test_rows_fit_only_where_there_are_slots_and_columns_for_them(slots, capacity, fits):
    cache = KVCache(1, 4, 64, 2, 8, dtype=torch.float32, device=torch.device("meta"))
    assert cache.has_room(slots, capacity) == fits


def test_on_a_cpu_columns_come_as_they_are_needed():
    cache = KVCache(1, 4, 64, 2, 8, dtype=torch.float32, device=torch.device("cpu"))
    assert cache.has_room(4, 10**6)
    assert not cache.has_room(5, 1)
    assert cache.reserve(100) >= 100
