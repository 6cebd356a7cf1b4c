"""Core ML: the conversion only, for its runtime is there on macOS only. Prints the operators of the program."""

from __future__ import annotations

from collections import Counter

import coremltools
import torch
from common import CASES, RESULTS, sizes

for size in sizes():
    rows, columns = (-(-int(side) // 8) * 8 for side in size.split("x"))
    shapes = (("image", (1, 3, rows, columns)), ("mask", (1, 1, rows, columns)))
    converted = coremltools.convert(
        torch.jit.load(CASES / f"{size}.pt").eval(),
        inputs=[coremltools.TensorType(name, shape) for name, shape in shapes],
        minimum_deployment_target=coremltools.target.iOS15,
    )
    converted.save(str(RESULTS / f"{size}.mlpackage"))
kinds = Counter(op.op_type for function in converted._mil_program.functions.values() for op in function.operations)
print("converted; operators " + ", ".join(sorted(kinds.keys() - {"const"})))
