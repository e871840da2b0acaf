"""The main job on embedded data: train a VAE on scikit-learn's digits, evaluate it, and draw what it learned.

python -m pyro_vae.demo [FOLDER]
"""

import sys
from pathlib import Path

import matplotlib

import pyro_vae as pv


def main(folder: str | Path = "demo") -> None:
    """Train, evaluate and write the pair and its pictures into ``folder``."""
    matplotlib.use("Agg")  # pictures go to files, on machines without a screen too
    folder = Path(folder)

    train, validation, test = (
        pv.data.load("digits", split, binarise="dynamic") for split in ("train", "validation", "test")
    )
    pair = pv.vae((1, 8, 8), latent=8)
    print(pair)
    print("training on 1,257 digits; this takes about 20 seconds, where an earlier demo has not done it already")
    run = pv.fit(pair, train, validation=validation, epochs=100, batch_size=64, patience=20, out=folder, resume=True)
    print(run)
    print(pv.evaluate(pair, test, particles=1000))

    pictures = {
        "samples": pv.plot.samples(pair),
        "reconstructions": pv.plot.reconstructions(pair, test),
        "learning_curves": pv.plot.learning_curves(run),
        "latents": pv.plot.latents(pair, test),
        "traversals": pv.plot.traversals(pair, test),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
    print(f"the pair, metrics.csv and {len(pictures)} pictures are in {folder.resolve().name}/")


if __name__ == "__main__":
    main(*sys.argv[1:2])
