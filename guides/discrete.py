"""The inference program of the discrete variational autoencoder."""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class DiscreteGuide(PyroModule):
    r"""q(z | x) = prod_j q(z_j | x)

    One network reads x and names the probabilities of its categorical codes. How gradients come through the draw is
    not said here: handlers around the guide relax it or sum over it. Without one its gradient is that of the score
    function, for which the guide may have a baseline; q is then a policy, and the baseline its critic.

    Sites: ``z`` latent, (batch, codes, categories), one-hot.

    Args:
        posterior: ``(x) -> distribution`` over z, for example :class:`pyro_vae.posteriors.Categorical`.
        baseline: ``(x) -> (batch,)``, such as :class:`pyro_vae.infer.Baseline`, for
            :class:`pyro.infer.TraceGraph_ELBO`.

    Source: Jang, Gu & Poole 2017, arXiv:1611.01144; Mnih & Gregor 2014, arXiv:1402.0030.

    >>> guide = DiscreteGuide(pv.posteriors.Categorical(torch.nn.Linear(9, 6), 9, (2, 3)), pv.infer.Baseline())
    >>> guide(x=torch.zeros(5, 9)).shape
    torch.Size([5, 2, 3])
    """

    def __init__(self, posterior: nn.Module, baseline: nn.Module | None = None) -> None:
        super().__init__("guide")
        self.posterior, self.baseline = posterior, baseline

    def forward(self, x: Tensor) -> Tensor:
        """Draw the codes of each datum of ``x``."""
        critic = {"nn_baseline": self.baseline, "nn_baseline_input": x}
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.posterior(x), infer={"baseline": critic} if self.baseline is not None else {})
