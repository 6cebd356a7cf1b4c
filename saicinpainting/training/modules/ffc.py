"""The official path of the networks with fast Fourier convolutions."""

from saicinpainting.networks.ffc import FFC, FFC_BN_ACT, ConcatTupleLayer, FFCResnetBlock, FFCResNetGenerator
from saicinpainting.networks.fourier import FourierUnit, SELayer, SpectralTransform
