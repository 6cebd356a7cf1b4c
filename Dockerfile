# CPU:  docker build -t lama .
# CUDA: docker build -t lama --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .
# Train with the folders of configs/training/location/docker.yaml:
#   docker run --rm --gpus all --shm-size 8g -v /my/data:/data lama lama-train -cn lama-fourier location=docker
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/lama

# Layers of libraries change less often than the package.
COPY requirements.txt ./
RUN grep -E "^torch(vision)?==" requirements.txt > torch.txt \
    && pip install --no-cache-dir --index-url "$TORCH_INDEX" -r torch.txt \
    && pip install --no-cache-dir -r requirements.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY configs ./configs
COPY saicinpainting ./saicinpainting
RUN pip install --no-cache-dir --no-deps .

ENV TORCH_HOME=/data/pretrained_models
VOLUME /data
WORKDIR /data
CMD ["lama-train", "--help"]
