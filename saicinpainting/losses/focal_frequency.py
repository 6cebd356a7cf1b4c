"""Focal frequency loss: the distance of two spectra, heaviest where they differ most."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saicinpainting.utils import InputError


class FocalFrequencyLoss(nn.Module):
    """Weighted squared distance of the spectra of prediction and image (Jiang et al. 2021, eq. 8 to 10).

    Each frequency weighs |F_pred - F_image|^alpha, divided by its maximum over the spectrum; no gradient passes through
    the weights. Transforms are orthonormal; each channel of each patch has a spectrum of its own.

    Args:
        alpha: of the weights; 0: all frequencies weigh the same, which is the mean squared error.
        patch_factor: so many patches by so many have spectra of their own.
    """

    def __init__(self, *, alpha: float = 1.0, patch_factor: int = 1) -> None:
        super().__init__()
        self.alpha, self.patch_factor = alpha, patch_factor

    def forward(self, predicted: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """predicted, image: (B, C, H, W); mask is not looked at: a spectrum is of all pixels."""
        difference = predicted.float() - image.float()
        height, width = difference.shape[-2:]
        if height % self.patch_factor or width % self.patch_factor:
            raise InputError(
                f"patch_factor: {self.patch_factor} does not divide images of {width} x {height} pixels equally"
            )
        rows = [row.chunk(self.patch_factor, dim=-1) for row in difference.chunk(self.patch_factor, dim=-2)]
        patches = torch.stack([patch for row in rows for patch in row])
        distance = torch.view_as_real(torch.fft.fft2(patches, norm="ortho")).square().sum(dim=-1)
        weight = distance.detach() ** (self.alpha / 2)
        weight = weight / weight.amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
        return (weight * distance).mean()
