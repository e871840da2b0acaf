"""What pythae's own code gives on statically binarised MNIST: the peer of benchmarks/mnist_static.py.

pythae's model, trainer and estimate (200 importance samples) with the settings that its script for the figure
89.78 states: 784-400-z40, ReLU, batches of 100, Adam 1e-4 times 10^(-1/5) at epochs 200 and 350, 500 epochs, the
weights of the best validation epoch. Needs ``pip install pythae``, which is no dependency of this library.

    python benchmarks/mnist_static_pythae.py --root data
"""

import argparse
import tempfile
import time

import torch
from torch import nn

import pyro_vae as pv


def main() -> None:
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU())
            self.loc, self.log_var = nn.Linear(400, 40), nn.Linear(400, 40)

        def forward(self, x: torch.Tensor) -> ModelOutput:
            h = self.hidden(x)
            return ModelOutput(embedding=self.loc(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(40, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid())

        def forward(self, z: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.layers(z).unflatten(1, (1, 28, 28)))

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where binarized_mnist.npz or the three .amat files lie")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=123, help="123 is that of pythae's script")
    arguments = parser.parse_args()

    def part(split: str) -> BaseDataset:
        x = pv.data.load("mnist-static", split, arguments.root).x
        return BaseDataset(x, torch.ones(len(x)))

    settings = VAEConfig(input_dim=(1, 28, 28), latent_dim=40, reconstruction_loss="bce")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = BaseTrainer(
            model=VAE(model_config=settings, encoder=Encoder(), decoder=Decoder()),
            train_dataset=part("train"),
            eval_dataset=part("validation"),
            training_config=BaseTrainerConfig(
                output_dir=folder,
                per_device_train_batch_size=100,
                per_device_eval_batch_size=100,
                num_epochs=arguments.epochs,
                learning_rate=1e-4,
                seed=arguments.seed,
                no_cuda=not torch.cuda.is_available(),
                optimizer_cls="Adam",
                scheduler_cls="MultiStepLR",
                scheduler_params={"milestones": [200, 350, 500, 750, 1000], "gamma": 10 ** (-1 / 5)},
            ),
        )
        trainer.train()
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes of training")
    best = trainer._best_model
    test = pv.data.load("mnist-static", "test", arguments.root).x.to(next(best.parameters()))
    with torch.no_grad():
        print(f"log-likelihood {best.get_nll(test, n_samples=200):.3f} nats per datum (200 particles)")


if __name__ == "__main__":
    main()
