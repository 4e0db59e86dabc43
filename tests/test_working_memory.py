"""The working memory: equal shares, outputs as they were, and what it costs."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hilbertlib.working_memory import (
    Storage,
    WorkingMemory,
    diagonal_storage,
    example_storage,
    mlp_parameters,
)


def task(number: int, n: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Examples that know their task and their place: x = (task, place), y = place."""
    place = torch.arange(n)
    return torch.stack([torch.full((n,), float(number)), place.float()], dim=1), place


def remember(memory: WorkingMemory, number: int, n: int = 20) -> None:
    # The "network" of task t returns t + 10 times the input's place.
    memory.add(*task(number, n), lambda x: (number + 10 * x[:, 1:]).repeat(1, 3))


@given(
    st.integers(1, 12),
    st.lists(st.integers(1, 15), min_size=1, max_size=6),
    st.integers(0, 100),
)
def test_shares_are_equal_fill_the_memory_and_only_shrink(capacity, sizes, seed):
    memory = WorkingMemory(capacity, seed)
    held: list[set[int]] = []
    for number, n in enumerate(sizes[:capacity]):
        remember(memory, number, n)
        assert memory.tasks == number + 1
        assert memory.share == min(capacity // (number + 1), *sizes[: number + 1])
        assert len(memory) == len(memory.x) == memory.tasks * memory.share <= capacity
        numbers = memory.x[:, 0].view(memory.tasks, memory.share)
        assert torch.equal(numbers, torch.arange(memory.tasks)[:, None].expand_as(numbers).float())
        places = memory.y.view(memory.tasks, memory.share)
        assert torch.equal(memory.x[:, 1].long(), memory.y)
        now = [set(row.tolist()) for row in places]
        assert all(len(row) == memory.share for row in now)  # no example twice
        assert all(after <= before for after, before in zip(now, held, strict=False))
        held = now
        # Outputs are those of the example's own task, not of the latest.
        assert torch.equal(memory.outputs[:, 0], memory.x[:, 0] + 10 * memory.x[:, 1])
        assert memory.outputs.shape == (len(memory), 3)


def test_what_is_kept_is_a_random_sample():
    counts = torch.zeros(20)
    for seed in range(2000):
        memory = WorkingMemory(6, seed)
        for number in range(2):
            remember(memory, number)
        counts[memory.y[:3]] += 1  # what is left of the first task, after it shrank
    assert counts.sum() == 6000
    assert float(((counts - 300) / math.sqrt(300 * 17 / 20)).abs().max()) < 4


def test_the_seed_decides():
    def kept(seed):
        memory = WorkingMemory(8, seed)
        for number in range(3):
            remember(memory, number)
        return memory.y

    assert torch.equal(kept(0), kept(0))
    assert not torch.equal(kept(0), kept(1))
    default = WorkingMemory(8)
    remember(default, 0)
    first = WorkingMemory(8, 0)
    remember(first, 0)
    assert torch.equal(default.y, first.y)
    # One permutation for every version of NumPy and torch.
    assert WorkingMemory(4, 0)._random.permutation(10).tolist()[:4] == [2, 8, 4, 9]


def test_it_holds_copies():
    memory = WorkingMemory(4)
    x, y = task(0)
    returned = torch.zeros(4, 1)
    memory.add(x, y, lambda _: returned)
    kept = memory.x.clone()
    x.zero_()
    returned.fill_(7)
    assert torch.equal(memory.x, kept)
    assert not memory.outputs.any()


def test_the_function_is_called_once_on_the_share_without_gradients():
    memory = WorkingMemory(7)
    seen = []

    def function(x):
        seen.append((len(x), torch.is_grad_enabled()))
        return x

    for number in range(3):
        memory.add(*task(number), function)
    assert seen == [(7, False), (3, False), (2, False)]


def test_bytes():
    memory = WorkingMemory(8)
    assert memory.nbytes == 0
    assert len(memory) == 0
    remember(memory, 0)
    remember(memory, 1)
    assert memory.nbytes == 8 * (2 * 4 + 8 + 3 * 4)  # x, label, three outputs


def test_there_must_be_room_for_one_example_a_task():
    memory = WorkingMemory(2)
    memory.check(2)
    message = r"a memory of 2 examples cannot hold one of each of 3 tasks: .* at least 3"
    with pytest.raises(ValueError, match=message):
        memory.check(3)
    remember(memory, 0)
    remember(memory, 1)
    assert memory.share == 1
    before = memory.x
    with pytest.raises(ValueError, match=message):
        remember(memory, 2)
    assert memory.tasks == 2
    assert memory.x is before


@pytest.mark.parametrize(
    ("x", "y", "function", "message"),
    [
        (
            torch.zeros(0, 2),
            torch.zeros(0),
            lambda x: x,
            r"one or more examples, got shapes \(0, 2\) and \(0,\)$",
        ),
        (torch.zeros(5, 2), torch.zeros(4), lambda x: x, r"got shapes \(5, 2\) and \(4,\)$"),
        (torch.zeros(5, 2), torch.tensor(5), lambda x: x, r"got shapes \(5, 2\) and \(\)$"),
        (torch.zeros(5, 2), torch.zeros(5, 1), lambda x: x, r"got shapes \(5, 2\) and \(5, 1\)$"),
        (*task(1), lambda x: x[1:], r"finite outputs on 2 examples, got shape \(1, 2\)"),
        (*task(1), lambda x: x * math.nan, "finite outputs on 2 examples, got shape"),
        (*task(1), lambda x: x[0, 5], "out of bounds"),
        (*task(1), lambda x: torch.zeros(2, 9), "Sizes of tensors must match"),
    ],
)
def test_a_refused_task_changes_nothing(x, y, function, message):
    memory = WorkingMemory(4)
    remember(memory, 0)
    twin = copy.deepcopy(memory)
    with pytest.raises((ValueError, IndexError, RuntimeError), match=message):
        memory.add(x, y, function)
    assert (memory.tasks, memory.share, len(memory)) == (1, 4, 4)
    assert torch.equal(memory.x, twin.x)
    for each in (memory, twin):
        remember(each, 1)
    assert torch.equal(memory.y, twin.y)  # the random stream, too, is where it was


def test_an_empty_memory_says_so():
    memory = WorkingMemory(4)
    for name in ("x", "y", "outputs"):
        with pytest.raises(ValueError, match=r"^the memory is empty: add a task first$"):
            getattr(memory, name)
    with pytest.raises(ValueError, match="capacity of at least 1, got 0"):
        WorkingMemory(0)
    assert WorkingMemory(1).capacity == 1
    assert WorkingMemory().capacity == 1024


# --- the paper's comparison ------------------------------------------------------------------


def test_parameters_are_counted():
    sizes = (7, 5, 3)
    layers = [torch.nn.Linear(a, b) for a, b in ((7, 5), (5, 3))]
    assert mlp_parameters(sizes) == sum(p.numel() for m in layers for p in m.parameters()) == 58


def test_the_papers_numbers_are_for_1024_pixels_and_are_fewer_for_784():
    def numbers(pixels, hidden):
        return diagonal_storage(mlp_parameters((pixels, hidden, hidden, 10)))

    assert numbers(1024, 400).numbers == 1_148_820
    assert math.floor(numbers(1024, 400).images()) == 1465
    assert math.floor(numbers(1024, 2000).images()) == 15489
    assert numbers(784, 400) == Storage(956_820, 3_827_280)
    assert round(numbers(784, 400).images()) == 1220
    assert round(numbers(784, 2000).images()) == 14265


def test_the_memory_of_1024_examples_is_smaller():
    assert example_storage() == Storage(1024 * 794, 843_776)
    floats = example_storage(input_bytes=4)
    assert floats.bytes == 1024 * 794 * 4 < diagonal_storage(478_410).bytes
    assert example_storage(2, 3, 5, 7, 11) == Storage(16, 2 * (21 + 55))
    assert diagonal_storage(3, 8) == Storage(6, 48)
    assert Storage(100, 0).images(25) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mlp_parameters((784,)), r"of inputs and outputs at least, got \(784,\)$"),
        (lambda: mlp_parameters((784, 0, 10)), "an integer size of at least 1, got 0"),
        (lambda: diagonal_storage(0), "parameters of at least 1, got 0"),
        (lambda: diagonal_storage(1, 0), "number_bytes of at least 1, got 0"),
        (lambda: example_storage(0), "examples of at least 1, got 0"),
        (lambda: example_storage(inputs=-1), "inputs of at least 1, got -1"),
        (lambda: example_storage(outputs=0), "outputs of at least 1, got 0"),
        (lambda: example_storage(input_bytes=0), "input_bytes of at least 1, got 0"),
        (lambda: example_storage(output_bytes=0.5), "output_bytes of at least 1, got 0.5"),
    ],
)
def test_sizes_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert mlp_parameters((1, 1)) == 2
