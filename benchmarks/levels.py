"""What a level costs: seconds per step of training against the number of levels, all of one width.

Pairs of 1, 2, 4, 8 and 16 levels take steps in turn, round after round, so that what else the machine does falls on
all of them alike; medians are printed, as multiples of one level, and what each level more has cost. Where the cost is
linear in levels the last column does not grow.

    python benchmarks/levels.py
"""

import argparse
import statistics
import time
from functools import partial

import torch

import pyro_vae as pv

LEVELS = (1, 2, 4, 8, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=20, help="to a round")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
    x = torch.rand(arguments.batch_size, 1, 28, 28, device=arguments.device).round()
    for guide in ("top-down", "bottom-up"):
        for skip in (False, True):
            torch.manual_seed(0)
            pairs = {n: pv.hvae((1, 28, 28), [16] * n, guide, skip=skip, hidden=(200,)) for n in LEVELS}
            steppers = {n: pv.infer.SVI(*pair.to(arguments.device), adam) for n, pair in pairs.items()}
            times: dict[int, list[float]] = {n: [] for n in LEVELS}
            for _ in range(arguments.rounds):
                for n, svi in steppers.items():
                    svi.step(x=x)
                    start = time.perf_counter()
                    for _ in range(arguments.steps):
                        svi.step(x=x)
                    times[n].append((time.perf_counter() - start) / arguments.steps)
            print(f"{guide}, {'data see all levels' if skip else 'data see z1'}")
            print("levels  ms per step  (spread)  of one level  ms for each level more")
            before = None
            for n, seconds in times.items():
                milliseconds, spread = 1e3 * statistics.median(seconds), 1e3 * statistics.pstdev(seconds)
                ratio = statistics.median(a / b for a, b in zip(seconds, times[1], strict=True))
                more = f"{(milliseconds - before[1]) / (n - before[0]):12.3f}" if before else ""
                print(f"{n:6d} {milliseconds:12.2f}  {spread:8.2f} {ratio:13.2f}  {more}", flush=True)
                before = n, milliseconds


if __name__ == "__main__":
    main()
