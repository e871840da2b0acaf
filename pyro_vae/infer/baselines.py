"""What a score is held against: baselines of the score function's gradient."""

import torch
from torch import Tensor, nn

from pyro_vae import checks


class Baseline(nn.Module):
    r"""b(x) = a + net(x),   a <- decay a + (1 - decay) mean_x r(x)

    The score-function gradient E_q[(r - b) grad log q(z | x)] of the reward r = log p(x, z) - log q(z | x) is that of
    a policy, which is q, and has the same mean for any b that does not depend on z; a b near the mean of r takes away
    most of its variance. a is a decaying average of rewards, over data and steps. net, the critic, is trained along
    with the pair to bring (r - b)^2 down.

    For ``infer={"baseline": {"nn_baseline": baseline, "nn_baseline_input": x}}`` of a site in a guide, under
    :class:`pyro.infer.TraceGraph_ELBO` with one particle.

    Shapes: (batch, \*data_shape) -> (batch,), of one datum ().

    Args:
        net: a module from (batch, \*data_shape) to (batch, 1); without it the baseline is the average alone.
        decay: of the average, in [0, 1).

    Raises:
        ValueError: where ``decay`` lies outside [0, 1).

    Source: Williams 1992 (REINFORCE), Machine Learning 8; Mnih & Gregor 2014, arXiv:1402.0030 (NVIL).

    >>> Baseline()(torch.zeros(5, 9))
    tensor([0., 0., 0., 0., 0.], grad_fn=<AddBackward0>)
    """

    average: Tensor
    steps: Tensor

    def __init__(self, net: nn.Module | None = None, decay: float = 0.9) -> None:
        super().__init__()
        self.net, self.decay = net, checks.fraction("decay", decay)
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """The baseline of each datum."""
        average = self.average.expand(x.shape[0]).clone()
        if self.training:
            average.requires_grad_().register_hook(self._follow)
        found = average + (0.0 if self.net is None else self.net(x).reshape(x.shape[0]))
        return found if x.shape[0] > 1 else found.sum()  # Pyro's rewards of one datum have no dimension

    def _follow(self, gradient: Tensor) -> None:
        """A step of the average, which is one down the gradient of Pyro's loss of a baseline, (r - b)^2."""
        step = -gradient.mean() / 2  # towards the mean of what the critic leaves of the rewards
        rate = torch.where(self.steps > 0, 1 - self.decay, 1.0)  # the first average is that of the first rewards
        self.steps += 1
        self.average += rate * torch.where(step.isfinite(), step, 0.0)
