"""What the processes of a team run, as a script under torchrun or by hand; and the same in one process, as a function.

``team.py FOLDER CASE...`` trains one case after the other, under noise that is the same for every datum wherever it is
drawn, and leaves what each process has in the end in ``FOLDER/CASE.RANK.pt``. ``team.py FOLDER run EPOCHS`` is a run
that may be killed, under noise of its own.
"""

import logging
import os
import sys
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae.infer import CompiledSVI, WarmUp
from pyro_vae.train import loop

SHAPE = (1, 4, 4)
DATA = 97  # in batches of 16, one is left for the last step, which has less data than there are processes
TOGETHER = 16  # data to a step, of all processes
RANK, SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def fixed_noise():
    """Draws that do not depend on which datum they are for, so that it does not matter who draws them."""
    torch.distributions.normal._standard_normal = lambda shape, dtype, device: torch.full(
        shape, 0.5, dtype=dtype, device=device
    )
    torch.Tensor.bernoulli_ = lambda tensor, *_: tensor.fill_(1.0)  # the signs of random weights


class Eager(CompiledSVI):
    """Without the seconds of a compiler."""

    def __init__(self, *given, **named):
        super().__init__(*given, backend="eager", **named)


class Shared(PyroModule):
    """A prior with two draws that all data share."""

    def __init__(self):
        super().__init__()
        self.scale = PyroSample(dist.HalfNormal(1.0))
        self.loc = PyroSample(dist.Normal(torch.zeros(3), 1.0).to_event(1))

    def forward(self):
        return dist.Normal(self.loc.unsqueeze(-2), 1.0 + self.scale).to_event(1)


def norm():
    layers = nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6)
    return vae(encoder=nn.Sequential(nn.Flatten(), *layers))


def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(DATA, 1, 1, 1, generator=generator) > torch.rand(DATA, *SHAPE, generator=generator)
    return pixels.double()


def half_labelled(x):
    n = torch.arange(len(x))
    return {"x": x, "c": torch.where(n % 5 == 0, n % 3, -1)}


def loader(x, batch_size):
    return DataLoader(TensorDataset(x), batch_size=batch_size, shuffle=True)


def even(x):
    """As many to each step, for a batch norm knows no batch of one."""
    return x[:96]


def spoiled(x):
    """Of one datum the likelihood overflows, so that one process alone meets it."""
    x = x.reshape(len(x), -1).clone()
    x[41, 3] = 1e200
    return x


vae = partial(pv.vae, SHAPE, 3, hidden=(8,))
weights = partial(pv.nets.VariationalMLP, hidden=(8,))
stairs = {"lr_schedule": partial(ReduceLROnPlateau, patience=0, factor=0.1), "temper": WarmUp(epochs=2), "lr": 0.05}
# how a pair is built, what of the images is its data, and the settings of its training
CASES = {
    "vae": (vae, None, {}),
    "clip": (vae, None, {"clip": 0.1}),
    "labels": (partial(pv.m2, SHAPE, 3, classes=3, hidden=(8,)), half_labelled, {}),
    "random weights": (partial(vae, decoder=weights), None, {}),
    "shared prior": (lambda: vae(prior=Shared()), None, {}),
    "compiled": (vae, None, {"compile": True, "clip": 0.1, "temper": WarmUp(epochs=2)}),
    "compiled labels": (partial(pv.m2, SHAPE, 3, classes=3, hidden=(8,)), half_labelled, {"compile": True}),
    "loader": (vae, loader, {}),
    "schedules": (vae, None, stairs | {"patience": 1, "epochs": 6}),
    "SGD": (vae, None, {"objective": "SGD"}),
    # what is not that of one process
    "averages": (norm, even, {}),
    "spoiled": (partial(pv.vae, 16, 3, likelihood=pv.likelihoods.Normal, hidden=(8,)), spoiled, {}),
    "game": (vae, None, {"objective": partial(pv.infer.FactorVAE, weight=1.0)}),
    "stepper": (vae, None, {"objective": "pyro"}),
}


def settings_of(pair, options, size):
    """With steppers, which need their pair."""
    stepper = options.get("objective")
    if stepper == "SGD":
        return options | {"objective": pv.infer.SVI(*pair, partial(torch.optim.SGD, lr=0.1))}
    if stepper == "pyro":
        return options | {"objective": pyro.infer.SVI(*pair, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())}
    return options


def train(case, size, folder=None):
    """A pair by ``size`` processes, with the words in which it was refused where it was."""
    build, of, options = CASES[case]
    torch.manual_seed(RANK)  # the first process has the first weights
    pair = build().double()
    x, batch_size = images(), TOGETHER // size
    data = x if of is None else of(x, batch_size) if of is loader else of(x)
    validation = (
        x[:40] if of in (None, loader) else {k: v[:40] for k, v in data.items()} if of is half_labelled else None
    )
    given = {"epochs": 3, "batch_size": batch_size, "validation": validation, "device": "cpu", "progress": False}
    run, words = None, ""
    try:
        run = pv.fit(pair, data, out=folder, **given | settings_of(pair, options, size))
    except ValueError as error:
        words = f"{type(error).__name__}: {error}"
    held = {} if run is None else run.history | {"best_epoch": [run.best_epoch], "epochs": [run.epochs]}
    return {"state": pair.state_dict(), "history": held, "words": words, "compiled": bool(run and run.compiled)}


def long_run(folder, epochs):
    """As it is trained for real; each process leaves its number, by which it can be killed."""
    (folder / f"{RANK}.pid").write_text(str(os.getpid()))
    torch.manual_seed(RANK)
    layers = nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 8)
    pair = pv.vae((1, 8, 8), 4, encoder=nn.Sequential(nn.Flatten(), *layers))
    x, validation = (pv.data.load("digits", part, binarise="dynamic") for part in ("train", "validation"))
    given = {"temper": WarmUp(epochs=3), "clip": 5.0, "validation": validation, "batch_size": 64, "device": "cpu"}
    pv.fit(pair, x, epochs=epochs, out=folder / "run", resume=True, progress=False, **given)


def main(folder, *words):
    """One line of torchrun."""
    torch.set_num_threads(1)
    folder = Path(folder)
    handler = logging.FileHandler(folder / f"{RANK}.log")
    logging.getLogger("pyro_vae").addHandler(handler)
    logging.getLogger("pyro_vae").setLevel(logging.INFO)
    if words[0] == "run":
        long_run(folder, int(words[1]))
        return
    fixed_noise()
    loop.CompiledSVI = Eager
    for case in words:
        torch.save(train(case, SIZE, folder / case), folder / f"{case}.{RANK}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
