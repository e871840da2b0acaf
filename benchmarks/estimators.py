"""One discrete story, several ways to train it: minus ELBO on statically binarised MNIST, 20 codes of 10 categories.

The story and the bare guide are the same for all, and so are networks (one hidden layer of 512), data, batches of 100,
AdamW from 2e-3 to 0 along a cosine, 5 epochs of warm-up of the KL, the weights of the best validation epoch, and the
figure, which is of the discrete codes: 10 draws of each test image. Only the estimator of the gradient differs.
Temperatures fall from 0.67 to 0.2, so that in the end the decoder reads what it will be given.

Published, minus ELBO (Jang et al. 2017, arXiv:1611.01144, table 2; their networks and schedules, tuned for each):
score function 110.6, straight-through 110.9, Gumbel-Softmax 101.5, straight-through Gumbel-Softmax 107.8.

20 codes of 10 categories cannot be enumerated.

    python benchmarks/estimators.py --root data            (add --download to fetch the three files)
"""

import argparse
import json
import math
import platform
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_vae as pv

START, LEAST = 0.67, 0.2  # temperatures
ROWS: dict[str, dict[str, Any]] = {
    "relaxed": {"estimator": "relaxed"},
    "straight-through": {"estimator": "straight-through"},
    "score, no baseline": {"estimator": "score", "baseline": "none"},
    "score, average": {"estimator": "score", "baseline": "average"},
    "score, neural": {"estimator": "score", "baseline": "neural"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where binarized_mnist.npz or the three .amat files lie")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/estimators"))
    arguments = parser.parse_args()
    for row in arguments.rows:
        print(json.dumps(trained(row, arguments)), flush=True)


def trained(row: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one row of the table."""
    part = partial(pv.data.load, "mnist-static", root=arguments.root, download=arguments.download)
    epochs, settings = arguments.epochs, dict(ROWS[row])
    if settings["estimator"] in ("relaxed", "straight-through"):
        settings["temperature"] = pv.infer.Anneal(math.log(START / LEAST) / epochs, START, LEAST)
    torch.manual_seed(arguments.seed)
    pair = pv.discrete_vae((1, 28, 28), 20, 10, hidden=(512,), **settings)
    objective: Any = Trace_ELBO()
    if settings.get("baseline", "none") != "none":
        objective = TraceGraph_ELBO()
    adamw = partial(torch.optim.AdamW, lr=2e-3, weight_decay=0.05, fused=True)
    programs = pair.trained(pv.temper(pv.infer.WarmUp(epochs=5)))
    run = pv.fit(
        pair,
        part(split="train"),
        validation=part(split="validation"),
        epochs=epochs,
        batch_size=100,
        objective=pv.infer.SVI(*programs, adamw, objective),
        lr_schedule=partial(CosineAnnealingLR, T_max=epochs),
        out=arguments.out / f"{row.replace(', ', '_').replace(' ', '_')}_{epochs}",
        resume=True,
        seed=arguments.seed,
    )
    start = time.perf_counter()
    found = pv.evaluate(pair, part(split="test"), particles=10)
    return {
        "row": row,
        "minus_elbo": -found.elbo,
        "kl": found.kl["z"],
        "nll_10_particles": -found.log_likelihood,
        "perplexity": found.code_usage["z"].perplexity,
        "epochs": run.epochs,
        "best_epoch": run.best_epoch,
        "seconds_per_epoch": run.seconds / run.epochs,
        "evaluation_seconds": time.perf_counter() - start,
        "seed": arguments.seed,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, {run.device}",
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
