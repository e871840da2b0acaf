"""The autoregressive distribution, against a normal with a triangular factor, and against quadrature."""

import copy
import math
import pickle

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_vae.distributions.autoregressive import Autoregressive

DTYPES = [torch.float32, torch.float64]


class Linear(torch.nn.Module):
    """z_i given those before it is normal about a linear function of them: together they are normal.

    z = loc + b (z - loc) + scale e, so that the factor of the covariance is (1 - b)^-1 diag(scale), a triangle.
    """

    def __init__(self, width, dtype=torch.float64, batch=()):
        super().__init__()
        self.b = torch.nn.Parameter((0.7 * torch.randn(width, width, dtype=torch.float64)).tril(-1).to(dtype))
        self.scale = torch.nn.Parameter((torch.rand(width, dtype=torch.float64) + 0.3).to(dtype))
        self.loc = torch.nn.Parameter(torch.randn(*batch, width, dtype=torch.float64).to(dtype))

    def forward(self, z):
        return dist.Normal(self.loc + (z - self.loc) @ self.b.T, self.scale)

    def exact(self):
        b, scale, loc = self.b.double(), self.scale.double(), self.loc.double()
        factor = torch.linalg.solve_triangular(
            torch.eye(len(b), dtype=b.dtype) - b, scale.diag(), upper=False, unitriangular=True
        )
        return dist.MultivariateNormal(loc, scale_tril=factor)


class Mixture(torch.nn.Module):
    """Two normals for each entry, far apart where the entry before is large."""

    def forward(self, z):
        before = torch.nn.functional.pad(z, (1, 0))[..., :-1]
        loc = torch.stack([torch.sin(2 * before), 1 + before.abs()], -1)
        logits = torch.stack([before, -before], -1)
        scale = 0.3 + 0.2 * torch.sigmoid(loc)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.Normal(loc, scale))


@pytest.mark.parametrize("width", [1, 2, 7, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_conditionals_make_a_normal(dtype, width):
    net = Linear(width, dtype)
    d = Autoregressive(net, width, like=net.loc)
    z = d.sample((50,))
    assert z.dtype == dtype
    assert not z.requires_grad
    log_p, exact = d.log_prob(z), net.exact().log_prob(z.double())
    assert log_p.dtype == dtype
    error = (log_p - exact).abs() / exact.abs().clamp(min=1)
    assert error.max() < (1e-10 if dtype == torch.float64 else 1e-5)


def test_the_gradient_of_log_p_is_that_of_the_normal():
    net = Linear(4)
    z = net.exact().sample((20,)).detach().requires_grad_()
    leaves = [net.b, net.scale, net.loc, z]
    own = torch.autograd.grad(Autoregressive(net, 4, like=net.loc).log_prob(z).sum(), leaves)
    exact = torch.autograd.grad(net.exact().log_prob(z).sum(), leaves)
    # entries of the matrix that the mask of a net takes out have a slope, and are never moved
    torch.testing.assert_close(own[0].tril(-1), exact[0].tril(-1))
    torch.testing.assert_close(own[1:], exact[1:])


def test_draws_of_linear_conditionals_are_normal():
    width, n = 5, 40_000
    net = Linear(width)
    exact = net.exact()
    z = Autoregressive(net, width, like=net.loc).sample((n,))
    # made independent by the exact factor, each is standard normal, and so is any mixture of them
    e = torch.linalg.solve_triangular(exact.scale_tril, (z - exact.loc).T, upper=False).detach()
    assert (e.mean(1).abs() < 5 / n**0.5).all()
    assert ((e.cov() - torch.eye(width)).abs() < 5 * math.sqrt(2 / n)).all()
    for a in (*torch.eye(width, dtype=torch.float64), torch.full((width,), width**-0.5, dtype=torch.float64)):
        assert stats.kstest((a @ e).numpy(), "norm").pvalue > 1e-3


def test_density_integrates_to_one_in_the_plane_and_draws_have_it():
    """Entries that are mixtures, of which the second depends on the first in no simple way."""
    d = Autoregressive(Mixture(), 2, like=torch.zeros((), dtype=torch.float64))
    x = torch.linspace(-7, 13, 1001, dtype=torch.float64)
    p = d.log_prob(torch.cartesian_prod(x, x)).exp().view(1001, 1001).detach().numpy() * 0.02**2
    assert p.sum() == pytest.approx(1, abs=1e-9)
    draws = d.sample((20_000,)).numpy()
    for column, marginal in ((draws[:, 0], p.sum(1)), (draws[:, 1], p.sum(0))):
        cdf = marginal.cumsum() - marginal / 2
        assert stats.kstest(column, lambda t, cdf=cdf: np.interp(t, x.numpy(), cdf)).pvalue > 1e-3
    # the second entry in halves of the first: the marginals alone would not tell whether it saw the first
    halves = np.searchsorted(p.sum(1).cumsum(), [0.25, 0.5, 0.75])
    edge = x.numpy()[halves] + 0.01
    for i, part in enumerate(np.split(p, halves + 1)):
        given = draws[np.searchsorted(edge, draws[:, 0]) == i, 1]
        cdf = (part.sum(0).cumsum() - part.sum(0) / 2) / part.sum()
        assert stats.kstest(given, lambda t, cdf=cdf: np.interp(t, x.numpy(), cdf)).pvalue > 1e-3


def test_an_entry_is_drawn_after_those_before_it_and_with_one_call_each():
    calls = []

    def count(z):
        calls.append(z.clone())
        return dist.Normal(torch.nn.functional.pad(z, (1, 0), value=5.0)[..., :-1] + 1, 1e-6)

    z = Autoregressive(count, 4, batch_shape=(2,)).sample((3,))
    assert z.shape == (3, 2, 4)
    assert torch.allclose(z, torch.tensor([6.0, 7.0, 8.0, 9.0]), atol=1e-4)
    assert len(calls) == 4
    for i, seen in enumerate(calls):
        assert torch.equal(seen[..., :i], z[..., :i])
        assert not seen[..., i:].any()


def test_shapes_expand_and_validation():
    d = Autoregressive(Linear(3, batch=(4, 1)), 3, (4, 1), like=torch.zeros((), dtype=torch.float64))
    assert not d.has_rsample
    wide = d.expand(torch.Size([2, 4, 5]))
    assert (d.batch_shape, wide.batch_shape) == ((4, 1), (2, 4, 5))
    assert d.event_shape == wide.event_shape == (3,)
    z = wide.sample((6,))
    assert z.shape == (6, 2, 4, 5, 3)
    assert wide.log_prob(z).shape == (6, 2, 4, 5)
    torch.testing.assert_close(wide.log_prob(z), d.log_prob(z))
    assert d.log_prob(z[0, 0, 0, 0]).shape == (4, 1)  # one vector under each of the batch
    torch.testing.assert_close(d.log_prob(z[0, 0, 0, 0]), d.conditionals.exact().log_prob(z[0, 0, 0, 0]))
    assert not z[0, 0, 0, 0].allclose(z[0, 0, 0, 1])  # copies are drawn each for itself
    assert d.to_event(2).log_prob(z[0, 0, :, :1]).shape == ()
    with pytest.raises(ValueError, match="support"):
        d.log_prob(z * math.nan)
    with pytest.raises(ValueError, match="event_shape"):
        d.log_prob(z[..., :2])
    with pytest.raises(ValueError, match="batch_shape"):
        d.log_prob(torch.zeros(7, 1, 3, dtype=torch.float64))
    with pytest.raises(NotImplementedError, match="average its draws"):
        _ = d.mean


@pytest.mark.parametrize("again", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["copy", "pickle"])
def test_copies(again):
    d = Autoregressive(Linear(3), 3, like=torch.zeros((), dtype=torch.float64))
    same = again(d)
    torch.manual_seed(3)
    z = d.sample((2,))
    torch.manual_seed(3)
    assert torch.equal(same.sample((2,)), z)
    assert torch.equal(same.log_prob(z), d.log_prob(z))


@pytest.mark.parametrize(
    ("conditionals", "found"),
    [
        (lambda z: dist.Normal(z, 1.0).to_event(1), r"\(5,\) and \(3,\)"),
        (lambda z: dist.Normal(torch.zeros(3), 1.0), r"\(3,\) and \(\)"),
        (lambda z: dist.Normal(z[..., :1], 1.0), r"\(5, 1\) and \(\)"),
    ],
)
def test_conditionals_that_are_not_one_for_each_entry(conditionals, found):
    d = Autoregressive(conditionals, 3, (5,))
    for use in (d.sample, lambda: d.log_prob(torch.zeros(5, 3))):
        with pytest.raises(ValueError, match=rf"batch shape \(5, 3\).*found {found}"):
            use()


def test_there_is_no_vector_without_entries():
    with pytest.raises(ValueError, match="width"):
        Autoregressive(Linear(1), 0)


def test_the_dtype_is_torchs_own_where_nothing_says_otherwise():
    assert Autoregressive(Linear(2, torch.float32), 2).sample().dtype == torch.float32
