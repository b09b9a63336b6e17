"""What draws random numbers goes on where it stood, the device's own generator included."""

from __future__ import annotations

import pytest
import torch

from minimax_m1.train import randomness


def test_the_host_goes_on_where_it_stood() -> None:
    torch.manual_seed(3)
    told = randomness.state(torch.device("cpu"))
    drawn = torch.rand(4)
    randomness.restore(told, torch.device("cpu"))
    assert torch.equal(torch.rand(4), drawn)


def test_a_gpu_goes_on_where_it_stood_and_takes_over_a_run_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, kept = torch.device("cuda", 1), {torch.device("cuda", 1): torch.arange(16, dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", kept.__getitem__)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: kept.update({device: state}))
    of_cpu, of_gpu = randomness.state(torch.device("cpu")), randomness.state(gpu)
    kept[gpu] = torch.zeros(16, dtype=torch.uint8)
    randomness.restore(of_cpu, gpu)
    assert not kept[gpu].any()
    randomness.restore(of_gpu, gpu)
    assert torch.equal(kept[gpu], torch.arange(16, dtype=torch.uint8))


@pytest.mark.gpu
def test_a_gpu_draws_the_same_again() -> None:
    device = torch.device("cuda")
    told = randomness.state(device)
    drawn = torch.rand(4, device=device)
    randomness.restore(told, device)
    assert torch.equal(torch.rand(4, device=device), drawn)
