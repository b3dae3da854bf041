import torch

from training.estimates.roofline import Machine, measure_machine


def test_the_slower_of_reading_and_multiplying_limits_the_time():
    machine = Machine(read_bandwidth=10.0, matrix_rate=100.0)
    assert machine.seconds(bytes_read=50.0, flops=100.0) == 5.0
    assert machine.seconds(bytes_read=5.0, flops=100.0) == 1.0


def test_this_machine_has_plausible_rates():
    machine = measure_machine(torch.device("cpu"), torch.float32)
    assert 1e8 < machine.read_bandwidth < 1e13
    assert 1e8 < machine.matrix_rate < 1e15
