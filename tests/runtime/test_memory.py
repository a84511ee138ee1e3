import pytest
import torch

from robustcls.runtime.memory import OomSafeBatches, is_out_of_memory


class SmallMemory:
    """A model that has memory for at most `rows` rows at a time."""

    def __init__(self, rows: int, error: Exception) -> None:
        self.rows, self.error, self.seen = rows, error, []

    def __call__(self, part: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(part))
        if len(part) > self.rows:
            raise self.error
        return part * 2


NO_MEMORY = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_a_part_that_does_not_fit_is_halved_for_good(error):
    parts, memory, rows = OomSafeBatches(16), SmallMemory(5, error), torch.arange(40)
    assert torch.equal(torch.cat(list(parts.map(memory, rows))), rows * 2)
    assert parts.size == 4
    assert memory.seen[:3] == [16, 8, 4]
    assert set(memory.seen[3:]) == {4}
    memory.seen.clear()
    assert torch.equal(torch.cat(list(parts.map(memory, rows))), rows * 2)
    assert set(memory.seen) == {4}, "it does not try the larger size again"


@pytest.mark.parametrize("error", NO_MEMORY)
def test_one_row_that_does_not_fit_is_an_error(error):
    with pytest.raises(type(error)):
        list(OomSafeBatches(4).map(SmallMemory(0, error), torch.arange(4)))


def test_other_errors_pass_at_once():
    memory = SmallMemory(1, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(OomSafeBatches(4).map(memory, torch.arange(8)))
    assert memory.seen == [4]


def test_the_allocator_of_the_cpu_says_it_in_words_we_know():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
