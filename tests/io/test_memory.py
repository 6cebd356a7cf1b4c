"""Running out of memory: what counts as it, what is freed, what is tried next."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from saicinpainting.io import memory
from saicinpainting.io.memory import FEWEST_PIXELS, Attempts, is_out_of_memory
from saicinpainting.utils import InputError


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def test_the_processors_own_error_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("input tensor must fit into 32-bit index math"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)"), True),
        (MemoryError(), True),
        # Not of memory: Turing has no bfloat16 convolutions.
        (RuntimeError("GET was unable to find an engine to execute this computation"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (InputError("out of memory.png: it is no image"), False),
        (KeyboardInterrupt("out of memory"), False),
    ],
)
def test_errors_of_other_libraries_are_told_apart(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_nothing_keeps_the_tensors_when_memory_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the error's traceback, nor a cycle."""
    made, alive = [], []

    def deep(n: int) -> None:
        tensor = torch.zeros(4)
        cycle = [tensor]
        cycle.append(cycle)  # type: ignore[arg-type]
        made.append(weakref.ref(tensor))
        if n:
            deep(n - 1)
        out_of_memory()

    def collect() -> None:
        gc.collect()
        alive.extend(one() is not None for one in made)

    monkeypatch.setattr(memory, "free_memory", collect)
    assert Attempts().attempt(2, 10, lambda: deep(3)) is None
    assert alive == [False] * 4


def test_blocks_go_back_to_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    Attempts().attempt(1, 10, out_of_memory)
    assert emptied == [True]


def test_too_large_batches_are_not_tried_again_but_images_are(caplog: pytest.LogCaptureFixture) -> None:
    attempts, tried = Attempts(), []

    def attempt(images: int, pixels: int, most: int = 20) -> bool | None:
        def compute() -> bool:
            tried.append(images * pixels)
            return out_of_memory() if images * pixels > most else True  # type: ignore[func-returns-value]

        return attempts.attempt(images, pixels, compute)

    assert [attempt(3, 10), attempt(3, 10), attempt(4, 8), attempt(2, 10)] == [None, None, None, True]
    assert tried == [30, 20]
    assert caplog.messages == [
        "3 x 0.00 megapixels at once do not fit (CUDA out of memory. Tried to allocate 20.00 MiB)"
    ]
    assert [attempt(1, 40), attempt(1, 40, most=50), attempt(2, 10)] == [None, True, True]
    with pytest.raises(RuntimeError, match="another error"):
        attempts.attempt(1, 1, lambda: (_ for _ in ()).throw(RuntimeError("another error")))


def test_what_can_be_done_without_goes_first() -> None:
    kept, tried = [True], []

    def give_up() -> bool:
        return bool(kept) and kept.pop()

    def compute() -> str:
        tried.append(bool(kept))
        return out_of_memory() if kept else "done"  # type: ignore[func-returns-value]

    assert Attempts(give_up).attempt(4, 10, compute) == "done"
    assert tried == [True, False]


@pytest.mark.slow
def test_a_part_is_halved_but_not_without_end() -> None:
    tried: list[int] = []

    def compute(pixels: int, most: int) -> int:
        tried.append(pixels)
        return out_of_memory() if pixels > most else pixels  # type: ignore[func-returns-value]

    assert Attempts().shrink(8 * FEWEST_PIXELS, lambda n: compute(n, 3 * FEWEST_PIXELS)) == 2 * FEWEST_PIXELS
    assert [n // FEWEST_PIXELS for n in tried] == [8, 4, 2]
    for first, least in ((3 * FEWEST_PIXELS, FEWEST_PIXELS), (1000, 1000)):
        with pytest.raises(InputError, match=f"out of memory: not even {least} pixels at once fit"):
            Attempts().shrink(first, lambda n: compute(n, 0))
    assert tried[3:] == [3 * FEWEST_PIXELS, 3 * FEWEST_PIXELS // 2, 1000]
