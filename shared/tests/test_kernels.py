"""The choice of MKL's kernels: a user's own stays, and what is computed is the same within rounding."""

import os
import subprocess
import sys

import numpy as np
import pytest

PRODUCT = """
import os, sys, shared
shared.set_up()
import numpy as np, paddle
x = paddle.to_tensor(np.random.default_rng(0).standard_normal((96, 300)).astype(np.float32))
np.save(sys.argv[1], paddle.matmul(x, x, transpose_y=True).numpy())
print(os.environ.get("MKL_DEBUG_CPU_TYPE"))
"""


def product(path, value: str | None) -> tuple[str, np.ndarray]:
    environment = {name: v for name, v in os.environ.items() if name != "MKL_DEBUG_CPU_TYPE"}
    environment |= {} if value is None else {"MKL_DEBUG_CPU_TYPE": value}
    command = [sys.executable, "-c", PRODUCT, str(path)]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return said.strip().splitlines()[-1], np.load(path)


def test_kernels(tmp_path):
    kept, plain = product(tmp_path / "plain.npy", "0")
    chosen, fast = product(tmp_path / "fast.npy", None)
    assert kept == "0" and chosen in ("None", "5")
    x = np.random.default_rng(0).standard_normal((96, 300)).astype(np.float32).astype(np.float64)
    for result in (plain, fast):
        assert result == pytest.approx(x @ x.T, rel=1e-5, abs=1e-4)
