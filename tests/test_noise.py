"""The counter-based noise: the published generator's words, standard normal, and the same however it is divided."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from ddpm.sampling.noise import NoiseStreams, philox

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
MOST = 0xFFFFFFFF


# philox4x32 with 10 rounds, from the known answers that Random123 publishes (kat_vectors).
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([MOST] * 4, (MOST, MOST), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_the_published_words(counter: list[int], key: tuple[int, int], words: list[int], device: str) -> None:
    assert [int(word) for word in philox([torch.tensor(number, device=device) for number in counter], key)] == words


def test_shapes_broadcast_and_every_counter_is_by_itself() -> None:
    counter = [torch.arange(5)[None], torch.arange(3)[:, None], torch.tensor(7), torch.tensor(MOST)]
    words = torch.stack(philox(counter, (1, 2)), -1)
    assert words.shape == (3, 5, 4)
    for row, column in product(range(3), range(5)):
        one = philox([torch.tensor(number) for number in (column, row, 7, MOST)], (1, 2))
        assert [int(word) for word in one] == words[row, column].tolist()


def test_the_words_become_normal_numbers_as_box_and_muller_say() -> None:
    """In double precision, from the words of the definition: image 9's third draw, whose 7 numbers cut the last word off."""
    streams = NoiseStreams(5, [4, 9], (1, 1, 7))
    for _ in range(2):
        streams.draw()
    expected = []
    for block in range(2):
        words = [int(word) for word in philox([torch.tensor(number) for number in (block, 9, 2, 0)], (5, 0))]
        for first, second in (words[:2], words[2:]):
            radius = math.sqrt(-2 * math.log((first + 1) / 2**32))
            expected += [radius * math.cos(2 * math.pi * second / 2**32), radius * math.sin(2 * math.pi * second / 2**32)]
    assert streams.draw()[1].flatten().tolist() == pytest.approx(expected[:7], abs=2e-6)


def normals(count: int = 64) -> Tensor:
    """(2 draws, images, numbers) in double precision."""
    streams = NoiseStreams(11, range(count), (3, 32, 32))
    return torch.stack([streams.draw(), streams.draw()]).flatten(2).double()


def test_the_distribution_function_is_the_normal_one() -> None:
    """Kolmogorov and Smirnov: the largest distance of 400,000 numbers' distribution function stays below its 0.1 % point."""
    values = normals().flatten().sort().values
    expected = torch.special.ndtr(values)
    places = torch.arange(len(values) + 1, dtype=torch.float64) / len(values)
    distance = torch.maximum((expected - places[:-1]).abs().max(), (expected - places[1:]).abs().max())
    assert float(distance) < 1.95 / len(values) ** 0.5
    assert float(values.abs().max()) > 4.2, "the tails are there"


def test_neighbours_in_an_image_do_not_know_each_other() -> None:
    """Lags up to 8, as pairs and fours are made together, in the numbers and in their squares."""
    values = normals().flatten(0, 1)
    for series in (values, (values**2 - 1) / 2**0.5):
        for lag in range(1, 9):
            correlation = (series[:, lag:] * series[:, :-lag]).mean()
            assert float(correlation.abs()) < 4.5 / (series.shape[0] * (series.shape[1] - lag)) ** 0.5, lag


def test_uniform_numbers_are_even_and_apart_from_the_normal_ones() -> None:
    streams = NoiseStreams(0, range(1000), (3, 4, 4))
    first = streams.draw()
    values = streams.uniform(50)
    assert values.shape == (1000, 50)
    assert values.dtype == torch.float64
    assert 0 <= float(values.min()) < float(values.max()) < 1
    counts = torch.bincount((values.flatten() * 20).long(), minlength=20).double()
    assert float(((counts - 2500) ** 2 / 2500).sum()) < 43.8, "chi-square of 19 degrees, its 0.1 % point"
    assert torch.equal(streams.uniform(50), values), "the same at every call"
    fresh = NoiseStreams(0, range(1000), (3, 4, 4))
    assert torch.equal(fresh.draw(), first), "and no draw is moved by it"
    correlation = (first.flatten(1)[:, :48].double() * (values[:, :48] - 0.5) * 12**0.5).mean()
    assert float(correlation.abs()) < 4.5 / (1000 * 48) ** 0.5


@CUDA
def test_a_gpu_draws_the_noise_of_a_cpu() -> None:
    here, there = (NoiseStreams(2**32 - 1, [0, 5, 2**31], (3, 9, 7), device) for device in ("cpu", "cuda"))
    for _ in range(4):  # the first is drawn as it is, the others from a recorded graph
        ours, theirs = here.draw(), there.draw()
        assert theirs.device.type == "cuda"
        torch.testing.assert_close(theirs.cpu(), ours, rtol=0, atol=1e-5)
    assert torch.equal(there.uniform(9).cpu(), here.uniform(9))
