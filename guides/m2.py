"""The inference program of semi-supervised learning."""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class M2Guide(PyroModule):
    r"""q(c, z | x) = q(c | x) q(z | x, c)

    The class of a datum is guessed where its label is missing, and summed over by ``TraceEnum_ELBO``; where the label
    is there it is taken as it is, and teaches the guess: ``weight`` log q(c | x) is added to the objective, and to no
    metric.

    Sites: ``c`` latent where it is not given, (batch,); ``z`` latent, (batch, latent).

    Args:
        classifier: ``(x) -> distribution`` over c, for example :class:`pyro_vae.posteriors.Classifier`.
        posterior: ``(x, c) -> distribution`` over z.
        weight: of the classification loss of a labelled datum, against its ELBO; 0 for none.

    Source: Kingma et al. 2014, arXiv:1406.5298, equation 9; its alpha is ``weight`` times the number of labelled data.

    >>> encoder = pv.nets.Joined(torch.nn.Linear(12, 4), [(9,), pv.nets.OneHot((), 3)])
    >>> classifier = pv.posteriors.Classifier(torch.nn.Linear(9, 3), 9, 3)
    >>> guide = M2Guide(classifier, DiagonalNormal(encoder, [(9,), ()], 2))
    >>> guide(x=torch.zeros(5, 9)).shape
    torch.Size([5, 2])
    """

    def __init__(self, classifier: nn.Module, posterior: nn.Module, weight: float = 0.0) -> None:
        super().__init__("guide")
        self.classifier, self.posterior, self.weight = classifier, posterior, weight

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Draw a class, where none is given, and a code for each datum of ``x``."""
        with pyro.plate("data", x.shape[0]):
            q = self.classifier(x)
            if c is None:
                c = pyro.sample("c", q, infer={"enumerate": "parallel"})
            elif self.weight:  # in a guide log q counts against the objective
                pyro.factor("classification", -self.weight * q.log_prob(c), has_rsample=True)
            return pyro.sample("z", self.posterior(x, c))
