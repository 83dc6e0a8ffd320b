"""Mean and standard deviation of every tensor of a checkpoint, as one would write it down."""

import pathlib
import sys

import ml_dtypes  # noqa: F401  (numpy learns bfloat16)
import numpy
from safetensors import safe_open

for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():
            values = file.get_tensor(name).astype(numpy.float32)
            print(name, values.mean(), values.std())
