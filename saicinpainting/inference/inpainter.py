"""`Inpainter`: fills holes with a trained generator, in arrays and tensors of any size."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from saicinpainting.inference.edges import EdgeSettings, fade, fill_weight, fill_with_edge, grow_hole
from saicinpainting.inference.fast.folding import fold as folded
from saicinpainting.inference.footprint import MEASURED, Memory, count_memory
from saicinpainting.inference.graphs import CudaCapture, GraphedNetwork
from saicinpainting.inference.overlap import upload
from saicinpainting.inference.tiling import fill_parts, resize_to_fit, without_seam
from saicinpainting.io.device import available_memory, dtype_of, pick_device, warn_of_emulation
from saicinpainting.io.images import padded, planes_of, to_levels, to_pixels
from saicinpainting.io.masks import hole_of, odd_hole, warn_of_mask
from saicinpainting.io.memory import FEWEST_PIXELS, Attempts
from saicinpainting.io.pixels import FilePixels, orientation_of, pixels_of, split_alpha
from saicinpainting.networks.inputs import GeneratorInput, batch_rng
from saicinpainting.networks.load import load_model
from saicinpainting.networks.models import DEFAULT
from saicinpainting.utils import InputError, did_you_mean

LOGGER = logging.getLogger(__name__)
STRATEGIES = ("auto", "whole", "crop")
OUT_OF_RANGE = 2
"""What no image in [0, 1] exceeds, even where resizing overshot."""
MEMORY_SHARE = 0.5
"""Part of the free memory that an image may take, unless `memory_gb` says how much."""


class Inpainter:
    """Fills the holes of images; everything outside them comes back as it was.

    Args:
        generator: a trained one, (B, channels, H, W) to (B, C, H, W).
        generator_input: what makes its input, as in training; of how many channels C images are.
        device: `auto`, `cpu`, `cuda`, ….
        precision: `fp32`, `bf16` or `fp16`; the transforms and the output stay in float32.
        fold: multiply out what only training keeps apart, see `fast.folding`.
        compile_network: with `torch.compile`; a size that was not met before takes a minute.
        strategy: `whole`: the image at once; `crop`: parts around the holes, one after the other; `auto`: whole where
            it fits into the memory. A part that does not fit is filled at a smaller size.
        memory_gb: what an image may take; None: half of what is free. What runs out of memory all the same is tried
            again with half the images, then in parts, then with half the pixels of a part.
        cuda_graphs: launch the network's kernels all at once for sizes that repeat; `auto`: on CUDA.
    """

    def __init__(
        self,
        generator: nn.Module,
        *,
        generator_input: GeneratorInput | None = None,
        device: str | torch.device | None = "auto",
        precision: str = "fp32",
        fold: bool = True,
        compile_network: bool = False,
        strategy: str = "auto",
        memory_gb: float | None = None,
        cuda_graphs: bool | str = "auto",
    ) -> None:
        self.dtype = dtype_of(precision)
        if strategy not in STRATEGIES:
            raise InputError(f"strategy: unknown value {strategy!r}; {did_you_mean(str(strategy), STRATEGIES)}")
        if memory_gb is not None and not (isinstance(memory_gb, int | float) and memory_gb > 0):
            raise InputError(f"memory_gb: expected gigabytes above 0, got {memory_gb}")
        self.device = pick_device(device)
        if cuda_graphs not in ("auto", True, False):
            raise InputError(f"cuda_graphs: expected auto, true or false, got {cuda_graphs!r}")
        if cuda_graphs is True and self.device.type != "cuda":
            raise InputError(f"cuda_graphs=true: there are none on {self.device}; leave cuda_graphs out")
        warn_of_emulation(self.dtype, self.device)
        self.generator_input, self.strategy = generator_input or GeneratorInput(), strategy
        self.modulo, self.min_size = int(generator.size_multiple), int(generator.min_size)  # type: ignore[arg-type]
        network: Any = folded(generator) if fold else copy.deepcopy(generator)  # type: ignore[arg-type]
        # Norms that are not in the kernels keep their precision: variances of millions are infinite in float16.
        norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        states = [copy.deepcopy(norm.state_dict()) for norm in norms]
        network = network.eval().requires_grad_(False).to(self.device, self.dtype)
        for norm, state in zip(norms, states, strict=True):
            norm.float().load_state_dict(state)
        network = network.to(memory_format=torch.channels_last)
        self._memory = self._memory_of(
            network, in_strips=fold and getattr(network, "strips", False) and not compile_network
        )
        # Asked once, so that an image does not depend on what was filled before it.
        self.memory_gb = MEMORY_SHARE * available_memory(self.device) / 1e9 if memory_gb is None else memory_gb
        self.network: Any = network
        if compile_network:
            self.network = torch.compile(network)
        self._graphs: GraphedNetwork | None = None
        if self.device.type == "cuda" and cuda_graphs:
            self._graphs = GraphedNetwork(self.network, CudaCapture(self.device))
        self._attempts = Attempts(self._forget_graphs)

    @classmethod
    def from_pretrained(
        cls, model: str | Path = DEFAULT, checkpoint: str | None = None, *, trust: Collection[str] = (), **options: Any
    ) -> Inpainter:
        """An inpainter with the generator of a run or a published model.

        Args:
            model: a run's folder, a file of weights, a name such as `big-lama`, an address; see `locate_model`. Without
                it `lama-small`, which ships with the package.
            checkpoint: the name of the file in `models/`; None: `best.ckpt`.
            trust: packages that a `_target_` in the run's config may name.
            options: those of the class.

        Raises:
            InputError: there is no such model, or it cannot be had or read.
        """
        trained = load_model(model, checkpoint, trust=trust)
        return cls(trained.generator, generator_input=trained.generator_input, **options)

    from_run = from_pretrained

    @property
    def image_channels(self) -> int:
        """Of the images that the network fills."""
        return self.generator_input.image_channels

    # ---- arrays and tensors ----------------------------------------------------------------------------------------

    def __call__(self, image: Any, mask: Any, *, grow: int = 0, feather: int = 0, match_colors: bool = False) -> Any:
        """The filled image, of the kind of `image`.

        image: a Pillow image, an array of uint8 or uint16, (H, W), (H, W, 1) or (H, W, 3), the last two also with
            alpha, or float tensors (B, C, H, W) in [0, 1]. Any size. A network of colours fills grey too; one of grey,
            or of channels with alpha, takes arrays of just these.
        mask: an image or an array of any type, hole where a colour is not 0, see `hole_of`; of tensors (B, 1, H, W),
            hole where above 0.
        grow, feather, match_colors: grow the mask, fade the fill in, match its colours; see `EdgeSettings`.

        Outside the hole, as it has grown, the result equals the image in every bit; alpha is the image's.
        """
        edge = EdgeSettings(grow, feather, match_colors)
        if isinstance(image, Image.Image):
            lying = orientation_of(image) != 1
            turned = (
                "; the image has an EXIF orientation: PIL.ImageOps.exif_transpose stands it upright" if lying else ""
            )
            pixels = self._fill_pixels(pixels_of(image), mask, edge, turned)
            result = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])
            kept = image.info if image.mode not in ("CMYK", "LAB", "YCbCr", "HSV") else {}
            result.info.update({name: kept[name] for name in ("icc_profile", "dpi", "exif") if name in kept})
            return result
        if isinstance(image, np.ndarray):
            return self._fill_pixels(split_alpha(image), mask, edge).reshape(image.shape)
        if not torch.is_tensor(image) or not torch.is_tensor(mask):
            raise InputError(
                f"expected a Pillow image, an array or tensors, got {type(image).__name__} and {type(mask).__name__}"
            )
        if (
            not image.is_floating_point()
            or image.dim() != 4
            or image.shape[1] != self.image_channels
            or 0 in image.shape[2:]
            or mask.shape != (len(image), 1, *image.shape[2:])
        ):
            raise InputError(
                f"expected floats (B, {self.image_channels}, H, W) in [0, 1] with a mask (B, 1, H, W), got "
                f"{image.dtype} {tuple(image.shape)} and {tuple(mask.shape)}"
            )
        if image.numel() and not (image.max() <= OUT_OF_RANGE and image.min() >= -0.5):  # of NaN, too
            raise InputError(
                f"expected an image in [0, 1], got values from {image.min():.3g} to {image.max():.3g}; scale it, 0 to "
                "255 by 1 / 255"
            )
        batch = {"image": image.detach(), "mask": mask.detach()}
        filled = fill_with_edge(self.fill_batch, batch, edge).to(image)
        self._check(filled)
        return filled

    def _fill_pixels(self, image: FilePixels, mask: Any, edge: EdgeSettings, turned: str = "") -> np.ndarray:
        """(H, W, C), filled, with its alpha; turned: for an error about the sizes."""
        colours, alpha, depth = image.colours, image.alpha, image.colours.dtype
        if depth.newbyteorder("=") not in (np.uint8, np.uint16):
            raise InputError(f"expected pixels of uint8 or uint16, or tensors in [0, 1], got {depth} {colours.shape}")
        if self.image_channels in (2, 4) and alpha is not None:  # it is painted too
            colours, alpha = np.dstack([colours, alpha]), None
        if colours.shape[2] != self.image_channels and (colours.shape[2], self.image_channels) != (1, 3):
            raise InputError(
                f"this network fills images of {self.image_channels} channels, got {colours.shape[2]} and "
                f"{'no alpha' if alpha is None else 'alpha'}; convert the image"
            )
        pixels = pixels_of(mask) if isinstance(mask, Image.Image) else split_alpha(np.asarray(mask))
        hole = hole_of(pixels.colours, pixels.alpha, "given")
        if hole.shape != colours.shape[:2]:
            raise InputError(
                f"expected a mask of the image's size {colours.shape[:2]}, got one of {hole.shape}{turned}"
            )
        warn_of_mask("given", odd_hole(hole))
        x = torch.from_numpy(planes_of(colours).repeat(self.image_channels // colours.shape[2], axis=0))
        grown = grow_hole(hole, edge.grow)
        predicted = self._predict(
            x[None], torch.from_numpy(grown)[None, None].float(), self.strategy, match_colors=edge.match_colors
        )
        weight = torch.from_numpy(fill_weight(hole, grown, edge.feather))
        predicted = fade(x[None], predicted, weight[None, None])[0]
        self._check(predicted[:, torch.from_numpy(grown)])
        painted = to_pixels(predicted) if depth == np.uint8 else to_levels(predicted).cpu().permute(1, 2, 0).numpy()
        if colours.shape[2] != self.image_channels:
            painted = np.rint(painted.mean(axis=2, keepdims=True))
        filled = np.where(grown[..., None], painted.astype(depth), colours)
        return (filled if alpha is None else np.dstack([filled, alpha])).astype(depth, copy=False)  # its byte order

    def _check(self, painted: Tensor) -> None:
        if not painted.isfinite().all():
            raise InputError(
                "precision=fp16: this network has numbers that are too large for it; set bf16 or fp32"
                if self.dtype == torch.float16
                else "the network painted numbers that are not finite: the checkpoint is of no use"
            )

    def predict(self, image: Tensor, mask: Tensor) -> Tensor:
        """What the network predicts, float32 (B, C, H, W) on the image's device; outside the holes it may be anything.

        image: (B, C, H, W) in [0, 1]; mask: (B, 1, H, W), 1 = hole.
        """
        return self._predict(image, mask, self.strategy)

    # ---- as much at once as fits -----------------------------------------------------------------------------------

    def _predict(self, image: Tensor, mask: Tensor, strategy: str, *, match_colors: bool = False) -> Tensor:
        if self._may_fit(image, strategy):
            painted = self._attempts.attempt(len(image), _pixels(image[:1]), lambda: self._forward(image, mask))
            if painted is not None:
                return without_seam(painted, image, mask) if match_colors else painted
        if len(image) > 1:
            halves = zip(image.chunk(2), mask.chunk(2), strict=True)
            return torch.cat([self._predict(*half, strategy, match_colors=match_colors) for half in halves])
        if strategy == "whole":
            height, width = image.shape[2:]
            raise InputError(
                f"{width} x {height} pixels are too many for {self.device} at once; strategy=auto with "
                "out_key=inpainted fills large images part by part"
            )
        return fill_parts(image, mask, self._part, match_colors=match_colors)

    def _part(self, image: Tensor, mask: Tensor) -> Tensor:
        """The network's image of a part, smaller where the part does not fit."""
        pixels = min(_pixels(image), self.largest_pixels())
        return self._attempts.shrink(pixels, lambda n: self._forward(*resize_to_fit(image, mask, n)))

    def _may_fit(self, image: Tensor, strategy: str) -> bool:
        """Whether all images are to be tried at once."""
        if strategy == "auto":
            return _pixels(image) <= self.largest_pixels()
        return strategy == "whole" and _pixels(image) <= self._most_pixels()

    def largest_pixels(self) -> int:
        """How many pixels go through the network at once."""
        return min(max(self._memory.pixels_in(self.memory_gb), FEWEST_PIXELS), self._most_pixels())

    def _most_pixels(self) -> int:
        return self._memory.most_pixels() if self.device.type == "cuda" else sys.maxsize

    def _memory_of(self, network: Any, *, in_strips: bool) -> Memory:
        if self.device.type == "cuda":
            counted = copy.copy(network)
            counted.strips = in_strips
            try:
                return count_memory(counted, self.generator_input.channels, self.dtype)
            except Exception as error:  # a network of others, which asks for numbers or for other sizes
                LOGGER.info("cannot count this network's memory, assuming big-lama's (%s)", str(error).split("\n")[0])
        memory, share = MEASURED["strips" if in_strips else "whole"], self.dtype.itemsize / 4
        return Memory(memory.fixed_gb * share, memory.gb_per_megapixel * share)

    def _forget_graphs(self) -> bool:
        return self._graphs is not None and self._graphs.clear()

    # ---- the network -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _forward(self, image: Tensor, mask: Tensor) -> Tensor:
        height, width = image.shape[2:]
        here, hole = upload(image, self.device), upload(mask, self.device)
        here, hole = (padded(x, self.modulo, self.min_size) for x in (here, hole.to(here)))
        x = self._input(here, hole).to(self.dtype, memory_format=torch.channels_last)
        y = self.network(x) if self._graphs is None else self._graphs(x)
        return y[:, :, :height, :width].float().to(image.device)

    def _input(self, image: Tensor, mask: Tensor) -> Tensor:
        """As the training module makes it, noise of a fixed seed; the same whatever images are beside one."""
        if self.generator_input.add_noise_kwargs is None:
            return self.generator_input(image, mask)
        pairs = zip(image.split(1), mask.split(1), strict=True)
        return torch.cat([self.generator_input(*pair, batch_rng(0, 0, 0)) for pair in pairs])

    def fill_batch(self, batch: Mapping[str, Any], out_key: str = "inpainted", *, match_colors: bool = False) -> Tensor:
        """`inpainted` or `predicted_image` of a batch of a data set: `image` and `mask`, float32 (B, C, H, W).

        match_colors: see `EdgeSettings`.
        On CUDA the result stays there, and may not have been computed yet, if the images go through the network whole.
        Numbers that are not finite are no error here.
        """
        image, mask = batch["image"], (batch["mask"] > 0).float()
        check_painted(out_key, self.strategy)
        strategy = "whole" if out_key == "predicted_image" else self.strategy
        if self.device.type == "cuda" and self._may_fit(image[:1], strategy):
            image, mask = upload(image, self.device), upload(mask, self.device)
        predicted = self._predict(image, mask, strategy, match_colors=match_colors)
        return predicted if out_key == "predicted_image" else torch.where(mask > 0, predicted.to(image), image)


def check_painted(out_key: str, strategy: str) -> None:
    """An `InputError` where a picture is to be painted as a whole, and is not."""
    if out_key == "predicted_image" and strategy == "crop":
        raise InputError("out_key=predicted_image: parts are painted only around holes; set strategy=whole")


def _pixels(image: Tensor) -> int:
    """Of all images of a batch."""
    return len(image) * image.shape[2] * image.shape[3]
