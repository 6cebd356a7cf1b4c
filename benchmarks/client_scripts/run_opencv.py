"""As OpenCV's sample and model zoo use LaMa: BGR, a scale of 0.00392, decimals cut off. Third word: an engine."""

from __future__ import annotations

import sys

import cv2
import numpy as np
from common import CASES, case, padded, sizes, write

engine = [getattr(cv2.dnn, sys.argv[3])] if len(sys.argv) > 3 else []
for size in sizes():
    pixels, mask = padded(*case(size))
    net = cv2.dnn.readNetFromONNX(str(CASES / f"{size}_opencv.onnx"), *engine)
    shape = mask.shape[::-1]
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    net.setInput(cv2.dnn.blobFromImage(bgr, 0.00392, shape, (0, 0, 0), False, False), "image")
    blob = cv2.dnn.blobFromImage(mask, scalefactor=1.0, size=shape, mean=(0,), swapRB=False, crop=False)
    net.setInput((blob > 0).astype(np.float32), "mask")
    result = np.transpose(net.forward()[0], (1, 2, 0)).astype(np.uint8)
    write(size, cv2.cvtColor(result, cv2.COLOR_BGR2RGB))
