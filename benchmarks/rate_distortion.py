"""The rate/distortion curve: one story, trained under several weights on the KL.

Rate is KL(q(z | x) || p(z)), the nats that the code carries; distortion is -E_q[log p(x | z)], the nats that
remain to be told. A larger beta buys a lower rate with a higher distortion; minus the ELBO is their sum, and
beta = 1 is where it is least. Source: Alemi et al. 2018, arXiv:1711.00464.

    python benchmarks/rate_distortion.py --root data --out docs/rate_distortion.png
"""

import argparse
import time

import matplotlib
import torch

import pyro_vae as pv

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where statically binarised MNIST lies")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.5, 1.0, 4.0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="rate_distortion.png")
    arguments = parser.parse_args()

    train, test = (
        pv.data.load("mnist-static", split, arguments.root, download=arguments.download) for split in ("train", "test")
    )
    figure, ax = plt.subplots(figsize=(5, 4))
    points = []
    print("beta   rate  distortion  -ELBO  active  minutes")
    for beta in arguments.betas:
        torch.manual_seed(arguments.seed)
        pair = pv.beta_vae((1, 28, 28), beta=beta, latent=20)
        start = time.perf_counter()
        pv.fit(pair, train, epochs=arguments.epochs, batch_size=100, lr=1e-3, seed=arguments.seed)
        report = pv.evaluate(pair, test, particles=10)
        minutes = (time.perf_counter() - start) / 60
        rate, distortion = report.rate, report.distortion
        points.append((rate, distortion))
        active = report.active_units["z"]
        print(f"{beta:4g} {rate:6.2f} {distortion:11.2f} {-report.elbo:6.2f} {active:7d} {minutes:8.1f}", flush=True)
        ax.plot(rate, distortion, "o", label=rf"$\beta$ = {beta:g}: -ELBO {-report.elbo:.1f}")
    ax.plot(*zip(*points, strict=True), color="0.6", zorder=0)
    least = min(sum(point) for point in points)
    rates = torch.tensor([min(p[0] for p in points), max(p[0] for p in points)])
    ax.plot(rates, least - rates, "--", color="0.6", linewidth=1, zorder=0, label=f"rate + distortion = {least:.1f}")
    ax.set(xlabel="rate: KL, nats per image", ylabel="distortion: nats per image", title="MNIST, static, 20 units")
    ax.legend(frameon=False)
    figure.savefig(arguments.out, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
