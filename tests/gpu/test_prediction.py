"""Prediction on a GPU: folders, CUDA graphs, memory that runs out, copies that nobody waits for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from saicinpainting.data.pairs import InpaintingDataset
from saicinpainting.inference.backends import load_backend
from saicinpainting.inference.folders import predict_folder
from saicinpainting.inference.footprint import count_memory
from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.inference.overlap import Download
from saicinpainting.networks import dft
from tests.helpers import photo, rand, write_run
from tests.samples import generator


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    if device.type != "cuda":
        pytest.skip("of CUDA alone")
    return device


def image_and_mask(height: int, width: int, *, seed: int = 1, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    image, mask = rand(seed, batch, 3, height, width), torch.zeros(batch, 1, height, width)
    mask[:, :, height // 4 : height // 2, width // 3 : 2 * width // 3] = 1
    return image, mask


# ---- folders -------------------------------------------------------------------------------------------------------


def write_images(folder: Path) -> Path:
    """Eleven images, of which seven have one size and one is no multiple of anything."""
    folder.mkdir()
    for i, (height, width) in enumerate([(96, 128)] * 7 + [(64, 64)] * 3 + [(61, 75)]):
        mask = np.zeros((height, width), np.uint8)
        mask[10:40, 15 : 30 + i] = 255
        Image.fromarray(photo("coffee.png", 160, 9 * i)[:height, :width]).save(folder / f"{i:03}.png")
        Image.fromarray(mask).save(folder / f"{i:03}_mask000.png")
    return folder


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_folder_is_filled_as_on_the_cpu(device: torch.device, tmp_path: Path, batch_size: int) -> None:
    model = {"path": write_run(tmp_path), "checkpoint": "best.ckpt"}
    images = write_images(tmp_path / "in")
    dataset = InpaintingDataset(images, img_suffix=".png", pad_out_to_modulo=8)
    for where in (torch.device("cpu"), device):
        fill = load_backend(model, where)
        summary = predict_folder(fill, dataset, images, tmp_path / where.type, batch_size=batch_size, num_workers=1)
        assert not summary.skipped
        for file in (tmp_path / where.type).glob("*.png"):
            found, expected = (np.asarray(Image.open(one)) for one in (file, tmp_path / "cpu" / file.name))
            original = np.asarray(Image.open(images / file.name.replace("_mask000", "")))
            known = np.asarray(Image.open(images / file.name)) == 0
            assert np.array_equal(found[known], original[known])
            assert np.abs(found.astype(int) - expected).max() <= 1  # a half may be rounded either way


def test_nothing_waits_for_the_gpu_before_the_pixels_are_asked_for(cuda: torch.device) -> None:
    inpainter = Inpainter(generator("lama-fourier"), device=cuda)
    image, mask = image_and_mask(96, 128, batch=2)
    batch = {"image": image, "mask": mask}
    for _ in range(4):
        expected = Download(inpainter.fill_batch(batch)).pixels()
    try:
        torch.cuda.set_sync_debug_mode("error")
        download = Download(inpainter.fill_batch(batch))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert download.is_under_way
    assert np.array_equal(download.pixels(), expected)


# ---- CUDA graphs ---------------------------------------------------------------------------------------------------


def graphs_of(inpainter: Inpainter) -> int:
    assert inpainter._graphs is not None
    return len(inpainter._graphs._graphs)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("config", ["lama-fourier", "lama-regular"])
def test_graphs_give_what_single_launches_give(cuda: torch.device, config: str, precision: str) -> None:
    plain, graphed = (
        Inpainter(generator(config), device=cuda, precision=precision, cuda_graphs=graphs) for graphs in (False, True)
    )
    for number in range(5):
        for size in ((96, 128), (64, 64), (99, 131)):
            image, mask = (x.to(cuda) for x in image_and_mask(*size, seed=number))
            torch.testing.assert_close(graphed(image, mask), plain(image, mask), atol=1e-4, rtol=0)
        # What was kept for the sizes goes, and something else comes to its place.
        dft._CACHE.clear()
        junk = [torch.full((1 << k,), torch.nan, device=cuda) for k in range(8, 20)]
        del junk
    assert graphs_of(graphed) == 3


def test_graphs_take_little_more_memory(cuda: torch.device) -> None:
    network = generator("lama-fourier", "generator.ngf=64")
    peaks = {}
    for graphs in (False, True):
        inpainter = Inpainter(network, device=cuda, cuda_graphs=graphs)
        batches = [image_and_mask(side, 768) for side in (640, 896, 768)]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(cuda)
        for _ in range(4):
            for image, mask in batches:
                inpainter(image, mask)
        peaks[graphs] = torch.cuda.max_memory_allocated(cuda), torch.cuda.max_memory_reserved(cuda)
        if graphs:
            assert graphs_of(inpainter) == 3
        del inpainter
    print("peak allocated and reserved, without and with graphs:", peaks)
    assert peaks[True][0] <= 1.15 * peaks[False][0]
    assert peaks[True][1] <= 2.3 * peaks[False][1]  # the graphs' own pool, and that of calls before there are graphs


def test_graphs_go_where_memory_runs_out(cuda: torch.device) -> None:
    inpainter = Inpainter(generator("lama-fourier"), device=cuda)
    image, mask = image_and_mask(96, 128)
    for _ in range(3):
        expected = inpainter(image, mask)
    assert graphs_of(inpainter) == 1
    calls = []

    def fail_once(*_: Any) -> None:
        calls.append(graphs_of(inpainter))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    inpainter.network.register_forward_pre_hook(fail_once)
    wide = image_and_mask(96, 136)
    assert inpainter(*wide).isfinite().all()
    assert calls == [1, 0]
    torch.testing.assert_close(inpainter(image, mask), expected, atol=1e-5, rtol=0)


# ---- memory --------------------------------------------------------------------------------------------------------


@pytest.fixture
def crowded(cuda: torch.device) -> Iterator[None]:
    """400 MB are left on the GPU."""
    torch.cuda.empty_cache()
    taken = torch.cuda.memory_reserved(cuda)
    torch.cuda.set_per_process_memory_fraction((taken + 400e6) / torch.cuda.mem_get_info(cuda)[1], cuda)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, cuda)


@pytest.mark.usefixtures("crowded")
def test_images_are_filled_in_parts_where_memory_runs_out(cuda: torch.device) -> None:
    network = generator("lama-fourier", "generator.ngf=32")
    image, mask = rand(1, 1, 3, 1600, 1600), torch.zeros(1, 1, 1600, 1600)
    mask[:, :, 100:130, 100:140] = 1
    inpainter = Inpainter(network, device=cuda, fold=False, memory_gb=1000)
    held = torch.cuda.memory_allocated(cuda) + (64 << 20)  # what libraries and transforms keep
    filled = inpainter(image, mask)  # 0.32 GB a megapixel
    assert torch.cuda.memory_allocated(cuda) <= held
    expected = Inpainter(network, device=cuda, fold=False, strategy="crop")(image, mask)
    torch.testing.assert_close(filled, expected, atol=1e-4, rtol=0)
    batch = {"image": image[:, :, :800, :800].repeat(4, 1, 1, 1), "mask": mask[:, :, :800, :800].repeat(4, 1, 1, 1)}
    halved = Download(inpainter.fill_batch(batch)).pixels()
    assert np.array_equal(halved[0], halved[3])
    assert torch.cuda.memory_allocated(cuda) <= held


@pytest.mark.parametrize("folded", [True, False])
def test_a_network_takes_about_what_was_counted(cuda: torch.device, folded: bool) -> None:
    inpainter = Inpainter(generator("lama-fourier", "generator.ngf=32"), device=cuda, fold=folded, strategy="whole")
    image, mask = (x.to(cuda) for x in image_and_mask(2304, 2304))
    inpainter(image, mask)
    held = torch.cuda.memory_allocated(cuda)
    torch.cuda.reset_peak_memory_stats(cuda)
    inpainter(image, mask)
    taken = (torch.cuda.max_memory_allocated(cuda) - held) / 1e9
    counted = count_memory(inpainter.network, 4, torch.float32)
    expected = counted.fixed_gb + counted.gb_per_megapixel * 2304**2 / 1e6
    print(f"folded={folded}: {taken:.2f} GB taken, {expected:.2f} GB counted")
    assert 0.5 * expected < taken < 2 * expected  # half of what is free may be used


def test_reflected_padding_counts_in_32_bits(cuda: torch.device) -> None:
    """Why images of more than 33.5 megapixels do not go through 64 channels at once."""
    if torch.cuda.mem_get_info(cuda)[0] < 8e9:
        pytest.skip("needs 8 GB")
    fits = torch.empty(1, 64, 5792, 5792, dtype=torch.uint8, device=cuda)
    assert F.pad(fits, (3, 3, 3, 3), mode="reflect").shape[2] == 5798
    del fits
    with pytest.raises(RuntimeError, match="32-bit index math"):
        F.pad(torch.empty(1, 64, 5793, 5793, dtype=torch.uint8, device=cuda), (3, 3, 3, 3), mode="reflect")


def test_images_of_more_than_33_megapixels_are_filled(cuda: torch.device) -> None:
    if torch.cuda.mem_get_info(cuda)[0] < 24e9:
        pytest.skip("needs 24 GB")
    network = generator("lama-fourier", "generator.ngf=64", "generator.n_blocks=1")
    image, mask = torch.rand(1, 3, 5800, 5800), torch.zeros(1, 1, 5800, 5800)
    mask[:, :, 100:130, 100:140] = 1
    filled = Inpainter(network, device=cuda, precision="fp16", fold=False)(image, mask)
    known = mask.expand_as(image) == 0
    assert torch.equal(filled[known], image[known])
    assert (filled[~known] != image[~known]).float().mean() > 0.9
