"""What every test starts from: the same seed, an empty parameter store, one thread, no window."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # read when matplotlib is first imported, here and in subprocesses

import pyro
import pytest
import torch

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    torch.set_num_threads(1)  # the nets are small, more threads only wait for each other


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()  # module-scoped fixtures of the next file run before this one


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """Folder of the real data sets, for ``pv.data.load(name, root=mnist_root)``."""
    root = Path(os.environ.get("PYRO_VAE_DATA", ROOT.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip("no MNIST on this machine; PYRO_VAE_DATA may name its folder")
    return root
