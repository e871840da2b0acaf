"""The inference program of the supervised adversarial autoencoder."""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class AAEGuide(PyroModule):
    r"""q(z, c | x) = q(z | x) q(c | z)

    The code tells the class, which is guessed from it where the label is missing; where it is there it teaches the
    guess: ``weight`` log q(c | z) is added to the objective, and to no metric.

    Sites: ``z`` latent, (batch, latent); ``c`` latent where it is not given, (batch,).

    Args:
        posterior: ``(x) -> distribution`` over z, for example :class:`pyro_vae.posteriors.DiagonalNormal`.
        classifier: ``(z) -> distribution`` over c, for example :class:`pyro_vae.posteriors.Classifier`.
        weight: of the classification loss of a labelled datum; 0 for none.

    Source: Makhzani et al. 2015, arXiv:1511.05644, section 2.3; there no class is guessed.

    >>> classifier = pv.posteriors.Classifier(torch.nn.Linear(2, 3), 2, 3)
    >>> guide = AAEGuide(DiagonalNormal(torch.nn.Linear(9, 4), 9, 2), classifier)
    >>> guide(x=torch.zeros(5, 9)).shape
    torch.Size([5, 2])
    """

    def __init__(self, posterior: nn.Module, classifier: nn.Module, weight: float = 1.0) -> None:
        super().__init__("guide")
        self.posterior, self.classifier, self.weight = posterior, classifier, weight

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Draw a code for each datum of ``x``, and its class where none is given."""
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.posterior(x))
            q = self.classifier(z)
            if c is None:
                pyro.sample("c", q, infer={"enumerate": "parallel", "explains_no_data": True})
            elif self.weight:  # in a guide log q counts against the objective
                pyro.factor("classification", -self.weight * q.log_prob(c), has_rsample=True)
            return z
