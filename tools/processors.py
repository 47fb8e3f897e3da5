"""Runs tests as other processors compute: ``python -m tools.processors [pytest's arguments]``.

PyTorch, oneDNN and MKL choose their kernels by what the processor can do and by the number of
threads, and with the kernel the order of sums, and so a value's last bits. Each library can be told
to leave out the newer instructions, so this machine computes as four older ones would. Each run
has an order of tests of its own too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

TESTS = ["tests/hf", "tests/cli"]


@dataclass(frozen=True)
class Processor:
    """What the libraries may use of this machine.

    Attributes:
        aten: ``ATEN_CPU_CAPABILITY``, PyTorch's own kernels.
        onednn: ``ONEDNN_MAX_CPU_ISA``, products in half precision.
        mkl: ``MKL_ENABLE_INSTRUCTIONS``, products in float32 and float64.
        threads: ``OMP_NUM_THREADS``.
    """

    aten: str
    onednn: str
    mkl: str
    threads: int

    def environment(self) -> dict[str, str]:
        """The variables that tell the libraries so."""
        return {
            "ATEN_CPU_CAPABILITY": self.aten,
            "ONEDNN_MAX_CPU_ISA": self.onednn,
            "MKL_ENABLE_INSTRUCTIONS": self.mkl,
            "OMP_NUM_THREADS": str(self.threads),
        }


PROCESSORS = (
    Processor("default", "SSE41", "SSE4_2", 1),
    Processor("default", "AVX", "SSE4_2", 2),
    Processor("avx2", "AVX2", "AVX2", 1),
    Processor("avx2", "AVX512_CORE", "AVX512", 2),
)


def run(processor: Processor, arguments: list[str], *, seed: int) -> bool:
    """Whether the tests pass as on this processor."""
    environment = processor.environment()
    print("==>", *(f"{name}={value}" for name, value in environment.items()), flush=True)
    command = [sys.executable, "-m", "pytest", "-m", "not alone", f"--random-order-seed={seed}"]
    ended = subprocess.run([*command, *arguments], env={**os.environ, **environment}, check=False)
    return ended.returncode == 0


def main() -> None:
    """Runs the tests on each, one after the other; exits with 1 if they fail on any."""
    arguments = sys.argv[1:] or TESTS
    passed = [run(each, arguments, seed=seed) for seed, each in enumerate(PROCESSORS)]
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
