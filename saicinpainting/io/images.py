"""Images: files, pixels, tensors, and padding."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from saicinpainting.io.extras import WITH_PILLOW, ImageExtras, add_to_png, encode_by_pillow, grey_png
from saicinpainting.io.files import whole, write_whole
from saicinpainting.io.pixels import FilePixels, decode_pixels, read_bytes
from saicinpainting.utils import InputError

CHANNELS = (1, 2, 3, 4)
"""What image files have: grey, grey with alpha, RGB, RGB with alpha."""
LONGEST_SIDE = (1 << 15) - 2
"""What OpenCV can warp, in pixels."""
TO_8_BITS = np.round(np.arange(1 << 16) / 257).astype(np.uint8)
"""Of each value of 16 bits. Dividing a large image takes sixteen bytes for each of its values."""


def read_image(path: str | os.PathLike[str], mode: str = "RGB") -> Image.Image:
    """Any image file as an 8-bit image of `mode` (`RGB` or `L`), turned upright by its EXIF orientation.

    16-bit values are scaled, not clipped; an alpha channel is dropped, whatever its colours hide.
    """
    return decode_image(read_bytes(path), os.fspath(path), mode)


def decode_image(data: bytes, name: str, mode: str = "RGB") -> Image.Image:
    """`read_image` of a file's content; `name` is what errors call it."""
    colours = _colours(decode_pixels(data, name), name)
    if colours.dtype != np.uint8:
        colours = TO_8_BITS[colours]
    return Image.fromarray(colours if colours.shape[2] == 3 else colours[..., 0]).convert(mode)


def _colours(pixels: FilePixels, name: str) -> np.ndarray:
    """uint8 or uint16, (H, W, 1 or 3)."""
    colours = pixels.colours
    if colours.dtype.kind == "f":
        raise InputError(f"cannot read the image {name}: floating-point pixels; save it with 8 or 16 bits a channel")
    if colours.dtype.itemsize > 2 and (colours.min() < 0 or colours.max() > 65535):
        raise InputError(f"cannot read the image {name}: 32-bit pixels; save it with 8 or 16 bits a channel")
    return colours if colours.dtype == np.uint8 else colours.astype(np.uint16)


def load_image(path: str | os.PathLike[str], mode: str = "RGB") -> np.ndarray:
    """float32 in [0, 1]: (3, H, W) for mode `RGB`, (H, W) for `L`; see `read_image`, but 16 bits are kept."""
    name = os.fspath(path)
    data = read_bytes(path)
    if mode == "RGB":
        return load_planes(decode_pixels(data, name), name)
    return planes_of(np.asarray(decode_image(data, name, mode)))


def load_planes(pixels: FilePixels, name: str, channels: int = 3) -> np.ndarray:
    """The pixels of the file `name`, float32 (channels, H, W) in [0, 1]; see `in_channels`."""
    return planes_of(in_channels(pixels, channels, name))


def in_channels(pixels: FilePixels, channels: int, name: str) -> np.ndarray:
    """The pixels of the file `name` in so many channels: uint8 or uint16 (H, W, channels), the values of the file.

    Args:
        channels: 1 for grey, 3 for RGB, 2 and 4 for these with alpha. Grey is repeated for RGB, RGB is weighed for grey
            (ITU-R BT.601), alpha is left out, or full where a file has none.

    Raises:
        InputError: another number of channels, or pixels of another type.
    """
    if channels not in CHANNELS:
        raise InputError(
            f"cannot read the image {name} in {channels} channels (generator.output_nc): files have 1 (grey), 3 (RGB), "
            "2 or 4 (with alpha)"
        )
    colours = _colours(pixels, name)
    if channels <= 2 and colours.shape[2] == 3:
        colours = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)[..., None]
    elif channels > 2 and colours.shape[2] == 1:
        colours = colours.repeat(3, axis=2)
    if channels % 2:
        return colours
    full = np.full(colours.shape[:2], np.iinfo(colours.dtype).max, colours.dtype)
    return np.dstack([colours, full if pixels.alpha is None else pixels.alpha.astype(colours.dtype)])


def planes_of(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 (H, W, C) or (H, W) -> float32 in [0, 1], (C, H, W) or (H, W)."""
    planes = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels
    values = np.array(planes, dtype=np.float32, order="C")
    values /= np.iinfo(pixels.dtype).max  # in place: of a large image it is hundreds of megabytes
    return values


def ceil_modulo(x: int, mod: int) -> int:
    """The least multiple of `mod` that is not below `x`."""
    return -(-x // mod) * mod


def pad_img_to_modulo(img: np.ndarray, mod: int) -> np.ndarray:
    """img: (C, H, W) -> (C, H', W') with sides divisible by `mod`, mirrored at the right and the bottom."""
    height, width = img.shape[-2:]
    bottom, right = ceil_modulo(height, mod) - height, ceil_modulo(width, mod) - width
    return np.pad(img, ((0, 0), (0, bottom), (0, right)), mode="symmetric")


def pad_tensor_to_modulo(img: torch.Tensor, mod: int) -> torch.Tensor:
    """img: (B, C, H, W) -> (B, C, H', W') with sides divisible by `mod`, reflected at the right and the bottom."""
    height, width = img.shape[-2:]
    bottom, right = ceil_modulo(height, mod) - height, ceil_modulo(width, mod) - width
    return F.pad(img, pad=(0, right, 0, bottom), mode="reflect")


def padded(x: Tensor, modulo: int, min_size: int) -> Tensor:
    """(B, C, H, W) with sides that are multiples of `modulo` and at least `min_size`, see `mirrored`."""
    rows, columns = (ceil_modulo(max(side, min_size), modulo) for side in x.shape[2:])
    return mirrored(x, rows, columns)


def mirrored(x: Tensor, rows: int, columns: int) -> Tensor:
    """(B, C, H, W) continued by its mirror image to the right and the bottom, as `pad_img_to_modulo` does it."""
    height, width = x.shape[2:]
    if (rows, columns) == (height, width):
        return x
    return x[:, :, _mirror(height, rows, x.device)][:, :, :, _mirror(width, columns, x.device)]


def _mirror(length: int, wanted: int, device: torch.device) -> Tensor:
    """Indices 0 … length - 1, length - 1 … 0, 0 …, as many as wanted."""
    place = torch.arange(wanted, device=device) % (2 * length)
    return torch.minimum(place, 2 * length - 1 - place)


def scale_image(img: np.ndarray, factor: float, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    """img: (C, H, W) -> (C, round(H * factor), round(W * factor)), a side of 1 at least."""
    height, width = (round(side * factor) for side in img.shape[1:])
    size = None if height and width else (max(width, 1), max(height, 1))
    scaled = cv2.resize(img.transpose(1, 2, 0), dsize=size, fx=factor, fy=factor, interpolation=interpolation)
    return scaled[None] if scaled.ndim == 2 else np.ascontiguousarray(scaled.transpose(2, 0, 1))


def from_pixels(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255


def to_bytes(image: Tensor) -> Tensor:
    """[0, 1] to uint8, on the same device; rounded, so that a pixel that was read from 8 bits comes back the same."""
    return (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def to_levels(image: Tensor) -> Tensor:
    """[0, 1] to int32 of 16 bits, as `to_bytes`."""
    return (image.detach().float().clamp(0, 1) * 65535).round().to(torch.int32)


def to_pixels(image: Tensor | np.ndarray) -> np.ndarray:
    """(C, H, W) in [0, 1] -> uint8 (H, W, C), see `to_bytes`."""
    return to_bytes(torch.as_tensor(image).cpu()).permute(1, 2, 0).contiguous().numpy()


def check_ending(ending: str) -> None:
    """An `InputError` for an ending such as `.png` that nothing here writes."""
    if not cv2.haveImageWriter(f"image{ending}"):
        raise InputError(f"cannot write an image with the ending {ending!r}; use .png")


def write_image(path: str | Path, image: np.ndarray, extras: ImageExtras | None = None) -> None:
    """Write a uint8 or uint16 image (H, W, 1 to 4) and the folders above it; the ending picks the format.

    Channels: grey, RGB, or these with alpha.

    The file appears when it is whole. extras: what it keeps of another file, as far as its format can.
    """
    path = Path(path)
    ending = path.suffix.lower()
    extras = (extras or ImageExtras()).within(ending)
    pixels = extras.fit(image, ending)
    if ending in WITH_PILLOW and (extras.profile or extras.dpi or pixels.shape[2] in (2, 4)):
        try:
            encoded = encode_by_pillow(pixels, ending, extras)
        except (ValueError, OSError) as error:  # sides above 16383 of WebP, 65500 of JPEG
            raise InputError(f"{path}: an image of shape {pixels.shape} does not fit the format; use .png") from error
        write_whole(path, encoded)
        return
    encoded = grey_png(pixels) if pixels.shape[2] == 2 else _encode(path, pixels)
    write_whole(path, add_to_png(encoded, extras) if ending == ".png" else encoded)


def _encode(path: Path, pixels: np.ndarray) -> bytes:
    # OpenCV encodes only: on Windows it cannot open names beyond the system's code page.
    channels = [2, 1, 0, 3][: pixels.shape[2]] if pixels.shape[2] > 1 else [0]
    try:
        written, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(pixels[..., channels]))
    except cv2.error as error:
        raise InputError(f"{path}: cannot write an image with the ending {path.suffix!r}; use .png") from error
    if not written:
        raise InputError(f"{path}: an image of shape {pixels.shape} does not fit the format; use .png")
    return encoded.tobytes()


def save_image(image: Image.Image, path: str | Path, **options: Any) -> None:
    """Write an image of Pillow; options: those of its format. The file appears when it is whole."""
    path = Path(path)
    with whole(path) as part:
        image.save(part, Image.registered_extensions()[path.suffix.lower()], **options)
