import pytest
import torch

from training.hybrid_engine.kv_cache import KVCache


@pytest.mark.parametrize(
    ("slots", "capacity", "fits"),
    [(4, 64, True), (3, 64, True), (3, 65, False), (5, 8, False), (4, 63, True)],
)
def test_there_is_room_only_with_enough_slots_and_columns(slots, capacity, fits):
    cache = KVCache(1, 4, 64, 2, 8, dtype=torch.float32, device=torch.device("meta"))
    assert cache.has_room(slots, capacity) == fits


def test_on_a_cpu_the_cache_grows_on_demand():
    cache = KVCache(1, 4, 64, 2, 8, dtype=torch.float32, device=torch.device("cpu"))
    assert cache.has_room(4, 10**6)
    assert not cache.has_room(5, 1)
    assert cache.reserve(100) >= 100
