"""The inpainter: arrays and tensors, known pixels, parts of large images, precision."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from saicinpainting.inference.footprint import MEASURED
from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.inference.tiling import Box, boxes_around_holes, resize_to_fit, without_seam
from saicinpainting.io.device import available_memory, warn_of_emulation
from saicinpainting.io.images import mirrored, pad_img_to_modulo
from saicinpainting.networks import dft
from saicinpainting.networks.inputs import GeneratorInput
from saicinpainting.training.factory import make_training_model
from saicinpainting.utils import InputError
from tests.golden_steps import golden_config
from tests.helpers import fill, photo, rand
from tests.samples import generator, pretend_to


@pytest.fixture(scope="module")
def network() -> Any:
    return generator("lama-fourier")


def soft_mask(height: int, width: int) -> np.ndarray:
    """A box with a soft edge, uint8."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.maximum(abs(rows - height // 2), abs(columns - width // 2)).astype(float)
    return (np.clip(14 - distance, 0, 4) * 63).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (61, 75), (5, 90), (3, 3)])
@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"strategy": "crop"}, {"fold": False}])
def test_known_pixels_stay_in_every_bit(network: Any, size: tuple[int, int], options: dict[str, Any]) -> None:
    height, width = size
    image = np.random.RandomState(0).randint(0, 256, (height, width, 3), np.uint8)
    mask = soft_mask(height, width)
    filled = Inpainter(network, device="cpu", **options)(image, mask)
    assert filled.shape == image.shape
    assert filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[mask == 0], image[mask == 0])
    assert (filled[mask > 0] != image[mask > 0]).mean() > 0.5


def test_tensors_and_arrays_agree_and_are_the_networks(network: Any) -> None:
    image, mask = photo("coffee.png", 64), soft_mask(64, 64)
    inpainter = Inpainter(network, device="cpu")
    pixels, hole = torch.tensor(image).permute(2, 0, 1)[None] / 255, torch.tensor(mask > 0).float()[None, None]
    as_tensor = inpainter(pixels, hole)
    with torch.no_grad():
        painted = network(torch.cat([pixels * (1 - hole), hole], dim=1))
    torch.testing.assert_close(as_tensor, torch.where(hole > 0, painted, pixels), atol=1e-5, rtol=0)
    as_array = inpainter(image, mask).astype(float)
    assert np.abs(as_array - as_tensor[0].permute(1, 2, 0).numpy() * 255).max() <= 0.51
    torch.testing.assert_close(
        inpainter(pixels.repeat(3, 1, 1, 1), hole.repeat(3, 1, 1, 1))[2:], as_tensor, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("size", [(69, 75), (5, 50)])  # an odd number of features, if padded to multiples of 8
def test_local_fourier_units_take_images_of_any_size(size: tuple[int, int]) -> None:
    network = generator("lama-fourier", "generator.ngf=16", "generator.resnet_conv_kwargs.enable_lfu=true")
    pixels, hole = rand(1, 1, 3, *size), torch.from_numpy(soft_mask(*size))[None, None]
    x = torch.cat([pixels * (hole == 0), hole > 0], dim=1)[0].numpy()
    with torch.no_grad():
        painted = network(torch.from_numpy(pad_img_to_modulo(x, 16))[None])[:, :, : size[0], : size[1]]
    expected = torch.where(hole > 0, painted, pixels)
    torch.testing.assert_close(Inpainter(network, device="cpu")(pixels, hole), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_of_numbers_that_are_not_finite_is_an_error_and_no_black_hole(network: Any, precision: str) -> None:
    broken = copy.deepcopy(network)
    broken.model[1].ffc.convl2l.weight.data.fill_(float("nan"))
    inpainter, image, mask = (
        Inpainter(broken, device="cpu", precision=precision),
        photo("coffee.png", 64),
        soft_mask(64, 64),
    )
    for pixels, hole in ((image, mask), (rand(1, 1, 3, 64, 64), torch.from_numpy(mask)[None, None])):
        with pytest.raises(InputError, match="not finite"):
            inpainter(pixels, hole)
    assert np.array_equal(inpainter(image, np.zeros_like(mask)), image)  # nothing to paint


def test_numbers_of_numpy_and_of_the_other_byte_order_are_taken(network: Any) -> None:
    image, mask, inpainter = photo("coffee.png", 64).astype(np.uint16) * 257, soft_mask(64, 64), Inpainter(network)
    expected = inpainter(image, mask, grow=2)
    swapped = inpainter(image.astype(">u2"), mask, grow=np.int64(2))
    assert swapped.dtype == ">u2"
    np.testing.assert_array_equal(swapped, expected)
    grey = Image.fromarray(image[..., 0])
    other = Image.frombytes("I;16B", grey.size, image[..., 0].astype(">u2").tobytes())  # as big-endian TIFF files open
    np.testing.assert_array_equal(np.asarray(inpainter(other, mask)), np.asarray(inpainter(grey, mask)))


def test_padding_is_that_of_the_data_sets() -> None:
    image = rand(1, 1, 3, 13, 21)
    expected = pad_img_to_modulo(image[0].numpy(), 8)
    np.testing.assert_array_equal(mirrored(image, 16, 24)[0].numpy(), expected)
    assert mirrored(image[:, :, :2, :3], 16, 8).shape == (1, 3, 16, 8)


def test_half_precision_is_near(network: Any) -> None:
    image, mask = photo("coffee.png", 64), soft_mask(64, 64)
    exact, rough = (Inpainter(network, device="cpu", precision=p)(image, mask).astype(float) for p in ("fp32", "bf16"))
    error = np.square(exact - rough)[mask > 0].mean()
    assert 0 < error < 255**2 * 10**-3.0


def test_noise_is_an_input_as_in_training() -> None:
    """A generator with noise channels, against the training module's own way to fill."""
    config = golden_config()
    config["training_model"] |= {"predict_only": True, "add_noise_kwargs": {"scales": 3}, "noise_fill_hole": True}
    config["generator"]["input_nc"] = 7
    model = make_training_model(config).eval()
    fill(model.generator)
    image, hole = rand(1, 1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    hole[:, :, 10:30, 20:50] = 1
    with torch.no_grad():
        expected = model({"image": image, "mask": hole})["inpainted"]
    inpainter = Inpainter(model.generator, generator_input=model.generator_input, device="cpu")
    torch.testing.assert_close(inpainter(image, hole), expected, atol=1e-5, rtol=0)
    both = inpainter(torch.cat([rand(2, 1, 3, 64, 64), image]), hole.repeat(2, 1, 1, 1))
    torch.testing.assert_close(both[1:], expected, atol=1e-5, rtol=0)


# ---- large images --------------------------------------------------------------------------------------------------


def test_boxes_cover_holes_with_context_and_do_not_meet() -> None:
    hole = np.zeros((1000, 1500), bool)
    hole[100:120, 100:130] = hole[700:900, 900:1000] = hole[130:140, 300:310] = True
    boxes = boxes_around_holes(hole)
    assert boxes == [Box(0, 0, 268, 438), Box(500, 700, 1000, 1200)]
    assert boxes_around_holes(np.zeros((10, 10), bool)) == []


def test_parts_are_what_the_network_makes_of_them(network: Any) -> None:
    image, hole = rand(1, 1, 3, 640, 704), torch.zeros(1, 1, 640, 704)
    hole[:, :, 40:60, 40:60] = hole[:, :, 600:610, 650:660] = 1
    filled = Inpainter(network, device="cpu", strategy="crop")(image, hole)
    whole = Inpainter(network, device="cpu", strategy="whole")
    # Boxes: 128 pixels around each hole.
    for rows, columns in ((slice(0, 188), slice(0, 188)), (slice(472, 640), slice(522, 704))):
        part = (slice(None), slice(None), rows, columns)
        torch.testing.assert_close(filled[part], whole(image[part], hole[part]), atol=1e-5, rtol=0)
    assert torch.equal(filled[hole.expand_as(image) == 0], image[hole.expand_as(image) == 0])


def test_the_memory_decides(network: Any) -> None:
    calls: list[tuple[int, int]] = []
    memory = MEASURED["strips"]
    inpainter = Inpainter(network, device="cpu", memory_gb=memory.fixed_gb + 0.1 * memory.gb_per_megapixel)
    assert inpainter.largest_pixels() == pytest.approx(100_000, abs=1)
    # Not by parts of fewer pixels than networks were trained on, however little there is.
    assert Inpainter(network, device="cpu", memory_gb=1e-3).largest_pixels() == 256 * 256
    assert Inpainter(network, device="cpu", fold=False, memory_gb=1).largest_pixels() == pytest.approx(1_000_000, abs=1)
    inpainter.network.register_forward_hook(lambda _, args, __: calls.append(tuple(args[0].shape[-2:])))
    image, hole = rand(1, 1, 3, 400, 600), torch.zeros(1, 1, 400, 600)
    hole[:, :, 10:20, 10:20] = 1
    inpainter(image[:, :, :304, :304], hole[:, :, :304, :304])
    assert calls == [(304, 304)]
    calls.clear()
    two = (x[:, :, :304, :304].repeat(2, 1, 1, 1) for x in (image, hole))
    inpainter(*two)  # each fits, both together do not: one after the other
    assert calls == [(304, 304)] * 2
    inpainter(image, hole)
    assert calls[2:] == [(152, 152)]  # 148 pixels around the hole
    hole[:, :, 100:300, 100:400] = 1
    calls.clear()
    filled = inpainter(image, hole)  # one part that is too large, so smaller
    assert len(calls) == 1
    assert calls[0][0] * calls[0][1] < 110_000
    assert torch.equal(filled[hole.expand_as(image) == 0], image[hole.expand_as(image) == 0])
    assert torch.isfinite(filled).all()


# ---- too large for the memory --------------------------------------------------------------------------------------


class Small:
    """Memory for so many pixels of the network's input; `pixels` were tried."""

    def __init__(self, inpainter: Inpainter, most: int) -> None:
        self.most, self.tried = most, []
        inpainter.network.register_forward_pre_hook(self._check)

    def _check(self, _: Any, args: tuple[torch.Tensor]) -> None:
        self.tried.append((len(args[0]), args[0].shape[2] * args[0].shape[3]))
        if args[0][:, 0].numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_batches_that_do_not_fit_are_halved(network: Any) -> None:
    image, hole = rand(1, 6, 3, 64, 64), torch.zeros(6, 1, 64, 64)
    hole[:, :, 20:40, 20:50] = 1
    inpainter = Inpainter(network, device="cpu", strategy="whole")
    expected = inpainter(image, hole)
    memory = Small(inpainter, 2 * 64 * 64)
    torch.testing.assert_close(inpainter(image, hole), expected, atol=1e-5, rtol=0)
    assert [number for number, _ in memory.tried] == [6, 3, 2, 1, 2, 1]
    memory.tried.clear()
    inpainter(image, hole)  # what did not fit is not tried again
    assert [number for number, _ in memory.tried] == [2, 1, 2, 1]


def test_images_that_do_not_fit_are_filled_in_parts_and_parts_smaller(
    network: Any, caplog: pytest.LogCaptureFixture
) -> None:
    image, hole = rand(1, 1, 3, 640, 704), torch.zeros(1, 1, 640, 704)
    hole[:, :, 40:60, 40:60] = 1  # 188 x 188 pixels with what is around it
    inpainter = Inpainter(network, device="cpu")
    in_parts = Inpainter(network, device="cpu", strategy="crop")(image, hole)
    memory = Small(inpainter, 640 * 704 - 1)
    assert torch.equal(inpainter(image, hole), in_parts)
    assert memory.tried == [(1, 640 * 704), (1, 192 * 192)]
    hole[:, :, 300:500, 100:300] = 1  # 500 x 640 pixels with what is around it
    memory.most, memory.tried = 100_000, []
    filled = inpainter(image, hole)
    assert [pixels // 1000 for _, pixels in memory.tried] == [450, 322, 164, 81]
    assert "a part of 500 x 640 pixels is too large" in caplog.text
    known = hole.expand_as(image) == 0
    assert torch.equal(filled[known], image[known])
    assert filled.isfinite().all()
    memory.most = 1000
    with pytest.raises(InputError, match="out of memory: not even 65536 pixels at once fit"):
        inpainter(image, hole)
    memory.most = 10**6  # others have given it back
    memory.tried.clear()
    inpainter(image, hole)
    assert memory.tried == [(1, 640 * 704)]


@pytest.mark.parametrize("out_key", ["inpainted", "predicted_image"])
def test_what_has_to_go_whole_is_named(network: Any, out_key: str) -> None:
    strategy = "auto" if out_key == "predicted_image" else "whole"
    inpainter = Inpainter(network, device="cpu", strategy=strategy)
    Small(inpainter, 64 * 64)
    batch = {"image": rand(1, 2, 3, 64, 64), "mask": torch.ones(2, 1, 64, 64)}
    assert inpainter.fill_batch(batch, out_key).shape == (2, 3, 64, 64)
    batch = {"image": rand(1, 1, 3, 64, 72), "mask": torch.ones(1, 1, 64, 72)}
    with pytest.raises(InputError, match=r"72 x 64 pixels are too many for cpu at once; strategy=auto with"):
        inpainter.fill_batch(batch, out_key)


class CountsIn32Bits(TorchDispatchMode):
    """Refuses what reflected padding refuses on CUDA, which fake tensors do not know."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "reflection_pad" in function.__name__ and args[0].numel() >= 2**31 - 1:
            raise RuntimeError("input tensor must fit into 32-bit index math")
        return function(*args, **(kwargs or {}))


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Inpainter]]:
    """Makes inpainters on PyTorch's fake GPU, where tensors have no numbers."""
    monkeypatch.setattr(torch._C, "_cuda_init", lambda: None)
    monkeypatch.setattr(dft, "_CACHE", {})  # matrices without numbers are for nobody else
    with contextlib.ExitStack() as stack:

        def make(network: Any, *, fold: bool = True, **options: Any) -> Inpainter:
            inpainter = Inpainter(network, device="cpu", fold=fold, memory_gb=1e6, **options)
            inpainter.device = torch.device("cuda")
            inpainter._memory = inpainter._memory_of(inpainter.network, in_strips=fold)
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            pretend_to(inpainter.network, inpainter.device)
            return inpainter

        yield make


@pytest.mark.parametrize("strategy", ["auto", "whole"])
@pytest.mark.parametrize("folded", [False, True])
def test_images_of_more_than_33_megapixels_are_kept_from_32_bit_kernels(
    on_cuda: Callable[..., Inpainter], monkeypatch: pytest.MonkeyPatch, folded: bool, strategy: str
) -> None:
    wide = generator("lama-fourier", "generator.ngf=64")
    inpainter = on_cuda(wide, fold=folded, strategy=strategy)
    monkeypatch.setattr(
        "saicinpainting.inference.inpainter.fill_parts", lambda image, mask, paint, **_: paint(image, mask)
    )
    tried: list[torch.Size] = []
    inpainter.network.register_forward_pre_hook(lambda _, args: tried.append(args[0].shape))
    with CountsIn32Bits():
        for side in (5760, 5800):
            image, hole = torch.empty(1, 3, side, side, device="cuda"), torch.empty(1, 1, side, side, device="cuda")
            if strategy == "whole" and not folded and side == 5800:
                with pytest.raises(InputError, match="5800 x 5800 pixels are too many for cuda at once"):
                    inpainter.predict(image, hole)
            else:
                inpainter.predict(image, hole)
        # Two that fit alone.
        inpainter.predict(*(x[:, :, :4800, :4800].expand(2, -1, -1, -1) for x in (image, hole)))
    if folded:
        assert [shape[2] for shape in tried] == [5760, 5800, 4800]
    elif strategy == "whole":
        assert [shape[2] for shape in tried] == [5760, 4800, 4800]
    else:
        assert [shape[2] for shape in tried] == [5760, 5784, 4800, 4800]


def test_a_gpu_keeps_the_networks_layout_and_gives_what_is_not_yet_computed(
    on_cuda: Callable[..., Inpainter], network: Any
) -> None:
    inpainter = on_cuda(network)
    given: list[torch.Tensor] = []
    inpainter.network.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    batch = {"image": torch.empty(2, 3, 64, 72, device="cuda"), "mask": torch.empty(2, 1, 64, 72, device="cuda")}
    filled = inpainter.fill_batch(batch)  # a read of a fake tensor's numbers would be an error
    assert filled.device.type == "cuda"
    assert given[0].is_contiguous(memory_format=torch.channels_last)
    kernels = [p for p in inpainter.network.parameters() if p.dim() == 4 and p.shape[2:] != (1, 1)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


class LayoutsOfConvolutions(TorchDispatchMode):
    """read: for each convolution whose kernel is larger than a pixel, whether it reads a channels_last map."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[bool] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.__name__.startswith("convolution") and args[1].shape[2:] != (1, 1):
            self.read.append(args[0].is_contiguous(memory_format=torch.channels_last))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", ["lama-fourier", "lama-regular"])
def test_a_gpu_never_converts_the_layout_of_maps(on_cuda: Callable[..., Inpainter], config: str) -> None:
    inpainter = on_cuda(generator(config))
    image, hole = torch.empty(1, 3, 128, 96, device="cuda"), torch.empty(1, 1, 128, 96, device="cuda")
    for strips in (1, 4):
        inpainter.network.strip_pixels = 128 * 96 // strips
        with LayoutsOfConvolutions() as layouts:
            inpainter.predict(image, hole)
        assert len(layouts.read) >= 10 + 8 * (strips > 1)
        assert all(layouts.read)


class AsksForNumbers(torch.nn.Module):
    """A generator of somebody's, which looks at what it is given."""

    size_multiple, min_size = 1, 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] if x[:, 3:].any() else x[:, :3] + 1


def test_a_network_whose_memory_cannot_be_counted_fills_on_a_gpu(on_cuda: Callable[..., Inpainter]) -> None:
    assert on_cuda(AsksForNumbers(), fold=False)._memory == MEASURED["whole"]


def test_other_errors_are_no_lack_of_memory(network: Any) -> None:
    inpainter = Inpainter(network, device="cpu")

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    inpainter.network.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        inpainter(rand(1, 2, 3, 64, 64), torch.ones(2, 1, 64, 64))


def test_a_smaller_image_has_nothing_of_the_hole_in_it() -> None:
    image, hole = torch.full((1, 3, 40, 60), 0.25), torch.zeros(1, 1, 40, 60)
    hole[:, :, 11:20, 13:31] = 1
    image[hole.expand_as(image) > 0] = 100.0
    small, small_hole = resize_to_fit(image, hole, 600)
    assert small.shape[2] * small.shape[3] <= 600
    known = small_hole.expand_as(small) == 0
    torch.testing.assert_close(small[known], torch.full_like(small[known], 0.25))


def test_an_enlarged_filling_goes_on_from_what_is_around_it() -> None:
    """A slope, painted too bright: no step is left at the edge, and the middle stays as painted."""
    image = torch.linspace(0.2, 0.6, 200).expand(1, 3, 120, 200).contiguous()
    hole = torch.zeros(1, 1, 120, 200)
    hole[:, :, :, 60:140] = 1
    painted = image + 0.1
    blended = without_seam(painted, image, hole)
    off = (blended - image)[0, :, :, 60:140].mean(dim=(0, 1))
    assert off[[0, -1]].abs().max() < 0.01
    assert (off[:24].diff() > -1e-6).all()  # ever less is taken off
    torch.testing.assert_close(off[20:60], torch.full((40,), 0.1), atol=1e-5, rtol=0)
    torch.testing.assert_close(without_seam(image, image, hole), image)


def test_what_is_idle_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of files that a container has read; what PyTorch keeps of a GPU."""
    for name, content in {"max": "16000", "current": "15000", "stat": "anon 900\ninactive_file 14000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(content)
    monkeypatch.setattr("saicinpainting.io.device.CGROUP", tmp_path)
    assert available_memory(torch.device("cpu")) == 15000
    for name, value in {"mem_get_info": (8, 80), "memory_reserved": 62, "memory_allocated": 2}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert available_memory(torch.device("cuda")) == 68


@pytest.mark.parametrize(("supported", "lines"), [(False, 1), (True, 0)])
def test_cards_without_units_for_bfloat16_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, supported: bool, lines: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or supported)
    for dtype, device in ((torch.float16, "cuda"), (torch.bfloat16, "cpu"), (torch.bfloat16, "cuda")):
        warn_of_emulation(dtype, torch.device(device))
    assert len(caplog.messages) == lines
    if lines:
        assert re.match("precision=bf16: Tesla V100 .* set precision=fp16", caplog.messages[0])


def test_the_callers_network_stays_as_it_is(network: Any) -> None:
    before = copy.deepcopy(network).train()
    after = copy.deepcopy(network).train()
    Inpainter(after, device="cpu", fold=False, precision="bf16")
    assert after.training
    for key, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[key])
        assert value.dtype == after.state_dict()[key].dtype
    assert all(parameter.requires_grad for parameter in after.parameters())


def test_numbers_too_large_for_float16_are_no_black_hole(network: Any) -> None:
    loud = copy.deepcopy(network)
    loud.model[1].ffc.convl2l.weight.data *= 1e6
    image, hole = rand(1, 1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    with pytest.raises(InputError, match=r"precision=fp16: .* too large for it; set bf16 or fp32"):
        Inpainter(loud, device="cpu", precision="fp16")(image, hole)


def test_a_painted_picture_is_whole(network: Any) -> None:
    batch = {"image": rand(1, 1, 3, 320, 320), "mask": torch.zeros(1, 1, 320, 320)}
    batch["mask"][:, :, :20, :20] = 1
    whole = Inpainter(network, device="cpu", strategy="whole").fill_batch(batch, "predicted_image")
    little = Inpainter(network, device="cpu", memory_gb=1e-3).fill_batch(batch, "predicted_image")
    torch.testing.assert_close(little, whole)
    assert (little != batch["image"]).float().mean() > 0.9
    with pytest.raises(InputError, match=r"predicted_image: .* set strategy=whole"):
        Inpainter(network, device="cpu", strategy="crop").fill_batch(batch, "predicted_image")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf61"}, r"precision: unknown value 'bf61'.*did you mean 'bf16'"),
        ({"strategy": "corp"}, r"strategy: unknown value 'corp'.*did you mean 'crop'"),
        ({"memory_gb": 0}, "memory_gb: expected gigabytes above 0"),
        ({"memory_gb": "a"}, "memory_gb: expected gigabytes above 0, got a"),
        ({"cuda_graphs": True}, "cuda_graphs=true: there are none on cpu; leave cuda_graphs out"),
        ({"cuda_graphs": "on"}, "cuda_graphs: expected auto, true or false, got 'on'"),
    ],
)
def test_wrong_options_are_named(network: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Inpainter(network, device="cpu", **options)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(40, 48), (40, 48, 1), (40, 48, 2), (40, 48, 3), (40, 48, 4)])
def test_arrays_come_back_in_their_own_shape_and_depth(network: Any, dtype: type, shape: tuple[int, ...]) -> None:
    image = np.random.RandomState(0).randint(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    hole = soft_mask(40, 48) > 0
    filled = Inpainter(network, device="cpu")(image, hole)
    assert (filled.shape, filled.dtype) == (shape, dtype)
    np.testing.assert_array_equal(filled[~hole], image[~hole])
    with_alpha = len(shape) == 3 and shape[2] in (2, 4)
    if with_alpha:
        np.testing.assert_array_equal(filled[..., -1], image[..., -1])
    colours = filled[..., :-1] if with_alpha else filled
    assert (colours[hole] != (image[..., :-1] if with_alpha else image)[hole]).mean() > 0.5


def test_masks_are_taken_as_people_have_them(network: Any) -> None:
    inpainter, image, mask = Inpainter(network, device="cpu"), photo("coffee.png", 64), soft_mask(64, 64)
    expected, hole = inpainter(image, mask), mask > 0
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[hole] = (0, 0, 1)
    drawn = np.dstack([np.full((64, 64, 3), 255, np.uint8), mask])
    masks = (
        mask[..., None], hole, hole * 0.01, hole * np.uint16(3), colours, drawn, Image.fromarray(mask),
        Image.fromarray(hole), Image.fromarray(colours), Image.fromarray(drawn), Image.fromarray(mask).convert("P"),
    )  # fmt: skip
    for one in masks:
        np.testing.assert_array_equal(inpainter(image, one), expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK"])
def test_an_image_of_pillow_comes_back_as_one(network: Any, mode: str) -> None:
    image = Image.fromarray(photo("coffee.png", 64)).convert(mode)
    image.info["icc_profile"] = b"profile"
    mask = soft_mask(64, 64)
    filled = Inpainter(network, device="cpu")(image, Image.fromarray(mask))
    assert filled.mode == (mode if mode in ("RGB", "RGBA", "L", "LA") else "RGB")
    assert ("icc_profile" in filled.info) == (mode != "CMYK")
    known = np.asarray(image.convert(filled.mode))[mask == 0]
    np.testing.assert_array_equal(np.asarray(filled)[mask == 0], known)


def test_numbers_of_another_range_are_refused(network: Any) -> None:
    inpainter, mask = Inpainter(network, device="cpu"), torch.zeros(1, 1, 16, 16)
    with pytest.raises(InputError, match=r"expected an image in \[0, 1\], got values from 0 to 255; scale it"):
        inpainter(torch.linspace(0, 255, 768).view(1, 3, 16, 16), mask)
    with pytest.raises(InputError, match=r"got values from -1 to 1"):
        inpainter(torch.linspace(-1, 1, 768).view(1, 3, 16, 16), mask)
    image = Image.new("RGB", (16, 8))
    image.getexif()[0x0112] = 6
    with pytest.raises(InputError, match=r"size \(8, 16\), got one of \(16, 8\); the image has an EXIF orientation"):
        inpainter(image, np.ones((16, 8)))


def test_wrong_images_are_named(network: Any) -> None:
    inpainter = Inpainter(network, device="cpu")
    with pytest.raises(InputError, match=r"expected pixels of uint8 or uint16, .*float64 \(8, 8, 3\)"):
        inpainter(np.zeros((8, 8, 3)), np.zeros((8, 8)))
    with pytest.raises(InputError, match=r"expected floats .*got torch.uint8"):
        inpainter(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match=r"got torch.float32 \(1, 3, 8, 8\) and \(1, 1, 8, 9\)"):
        inpainter(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 9))
    with pytest.raises(InputError, match=r"expected floats .*got torch.float32 \(1, 3, 0, 8\)"):
        inpainter(torch.zeros(1, 3, 0, 8), torch.zeros(1, 1, 0, 8))


def test_an_image_of_a_computation_is_filled_without_it(network: Any) -> None:
    inpainter, (image, mask) = Inpainter(network, device="cpu"), (rand(0, 1, 3, 32, 32), torch.zeros(1, 1, 32, 32))
    mask[..., 8:16, 8:16] = 1
    filled = inpainter(image.clone().requires_grad_(), mask, match_colors=True)
    assert not filled.requires_grad
    torch.testing.assert_close(filled, inpainter(image, mask, match_colors=True), rtol=0, atol=0)


# ---- other channels than RGB ----------------------------------------------------------------------------------------


def network_of(channels: int) -> Any:
    return generator("lama-fourier", f"generator.input_nc={channels + 1}", f"generator.output_nc={channels}")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("strategy", ["whole", "crop"])
def test_a_network_of_other_channels_fills_them_all_and_keeps_the_rest(
    channels: int, dtype: type, strategy: str
) -> None:
    inpainter = Inpainter(
        network_of(channels), generator_input=GeneratorInput(image_channels=channels), device="cpu", strategy=strategy
    )
    most = np.iinfo(dtype).max
    image = np.random.RandomState(0).randint(0, most, (61, 75, channels)).astype(dtype)
    mask = soft_mask(61, 75)
    filled = inpainter(image, mask)
    assert filled.shape == image.shape
    assert filled.dtype == dtype
    np.testing.assert_array_equal(filled[mask == 0], image[mask == 0])
    assert ((filled[mask > 0] != image[mask > 0]).mean(axis=0) > 0.5).all()  # alpha, too
    x = torch.from_numpy(image.astype(np.float32) / most).permute(2, 0, 1)[None]
    hole = torch.from_numpy(mask > 0)[None, None].float()
    by_tensors = (inpainter(x, hole)[0].permute(1, 2, 0).double() * most).numpy()
    np.testing.assert_allclose(by_tensors, filled, atol=0.51)


def test_grey_with_alpha_keeps_its_alpha_in_a_network_of_grey() -> None:
    inpainter = Inpainter(network_of(1), generator_input=GeneratorInput(image_channels=1), device="cpu")
    image, mask = np.random.RandomState(0).randint(0, 65535, (64, 64, 2)).astype(np.uint16), soft_mask(64, 64)
    filled = inpainter(image, mask)
    np.testing.assert_array_equal(filled[..., 1], image[..., 1])
    np.testing.assert_array_equal(filled[..., 0], inpainter(image[..., 0], mask))


def test_a_network_of_alpha_refuses_an_image_without() -> None:
    inpainter = Inpainter(network_of(4), generator_input=GeneratorInput(image_channels=4), device="cpu")
    with pytest.raises(InputError, match="fills images of 4 channels, got 3 and no alpha"):
        inpainter(photo("coffee.png", 64), soft_mask(64, 64))
