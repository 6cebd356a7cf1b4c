"""What GPUs can do by NVIDIA's data sheets, and the least time that a step's arithmetic and traffic take on them."""

from __future__ import annotations

from dataclasses import dataclass

from counting import Cost

# Estimates of what good kernels reach: 700 of 989 TFLOP/s and 3 of 3.35 TB/s on an H100. Not measured here.
ARITHMETIC_SHARE = 0.71
BANDWIDTH_SHARE = 0.9


@dataclass(frozen=True)
class Card:
    """Peaks in TFLOP/s without sparsity, bandwidth in TB/s.

    half: bfloat16, and float16 with float32 sums. V100 and T4 know float16 alone.
    tf32: None before Ampere, where 32-bit convolutions run in float32.
    """

    half: float
    tf32: float | None
    float32: float
    bandwidth: float
    source: str

    def __str__(self) -> str:
        tf32 = "no TF32" if self.tf32 is None else f"{self.tf32} in TF32"
        return (
            f"{self.half} TFLOP/s in 16 bits, {tf32}, {self.float32} in float32, {self.bandwidth} TB/s ({self.source})"
        )

    def arithmetic_ms(self, cost: Cost, *, half: bool) -> float:
        """In 32 bits convolutions run in TF32 and matrix products in float32, as is PyTorch's default."""
        convolutions, products = (self.half, self.half) if half else (self.tf32 or self.float32, self.float32)
        return (cost.convolution_flop / convolutions + cost.product_flop / products) / 1e9

    def memory_ms(self, cost: Cost) -> float:
        return cost.moved / self.bandwidth / 1e9


CARDS = {
    "H100": Card(989.4, 494.7, 66.9, 3.35, "H100 data sheet, SXM; half of the figures with sparsity"),
    "H200": Card(989.4, 494.7, 66.9, 4.8, "H200 data sheet, SXM; half of the figures with sparsity"),
    "A100": Card(312, 156, 19.5, 2.039, "A100 data sheet, 80 GB SXM"),
    "L40S": Card(362.05, 183, 91.6, 0.864, "L40S data sheet"),
    "V100": Card(125, None, 15.7, 0.9, "V100 data sheet, 16 GB SXM2"),
    "T4": Card(65, None, 8.1, 0.32, "T4 data sheet"),
    "RTX 5090": Card(209.5, 104.8, 104.8, 1.792, "RTX Blackwell architecture paper, appendix A"),
    "RTX 4090": Card(165.2, 82.6, 82.6, 1.008, "Ada architecture paper, appendix A"),
    "RTX 3090": Card(71, 35.6, 35.6, 0.936, "GA102 architecture paper, appendix A"),
}
