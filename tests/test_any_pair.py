"""Pairs as people write them: networks that know one batch dimension, handlers, subsampling, inner plates.

The exact numbers are those of z ~ N(0, I), x ~ N(z, 0.25 I), whose evidence is N(x; 0, 1.25 I).
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import TensorDataset

import pyro_vae as pv
from pyro_vae import tracing
from pyro_vae.infer import WarmUp


def model(x=None, n=1):
    with pyro.plate("data", n if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
        return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, 0.2**0.5).to_event(1))


def evidence(x):
    return dist.Normal(0.0, 1.25**0.5).log_prob(x).flatten(1).sum(-1)


@pytest.fixture
def x():
    return torch.randn(7, 2, generator=torch.Generator().manual_seed(1))


def scaled(x=None, n=1):
    with poutine.scale(scale=3.0):
        return model(x, n)


def subsampled_model(x=None, n=1):
    size = n if x is None else len(x)
    with pyro.plate("data", 1000, subsample_size=size):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
        return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def subsampled_guide(x):
    with pyro.plate("data", 1000, subsample_size=len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, 0.2**0.5).to_event(1))


def flat_model(x=None, n=1):
    with pyro.plate("data", n if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
        z = nn.Flatten()(z.unsqueeze(-1))  # knows one batch dimension alone
        return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


@pytest.mark.parametrize("particles", [1, 5])
@pytest.mark.parametrize(
    "programs",
    [
        (model, guide),
        (scaled, poutine.scale(guide, 3.0)),
        (subsampled_model, subsampled_guide),
        (flat_model, guide),
        (pv.temper(4.0)(model), pv.temper(4.0)(guide)),
    ],
    ids=["plain", "scaled", "subsampled", "flat", "tempered"],
)
def test_bounds_are_those_of_the_bare_story_however_it_is_run(programs, particles, x):
    pair = pv.Variant(*programs)
    torch.testing.assert_close(pair.elbo(x=x, particles=particles), evidence(x))
    report = pv.evaluate(pair, x, particles=particles, rows=4)
    assert report.log_likelihood == pytest.approx(float(evidence(x).mean()), abs=1e-5)


class Images(nn.Module):
    """A CVAE as tutorials write it: cat and unflatten at fixed places, a convolution, batch norm."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(2 + 3, 16), nn.BatchNorm1d(16)
        self.up = nn.Sequential(nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 1, 4))

    def forward(self, x=None, c=None):
        with pyro.plate("data", len(c)):
            c = pyro.sample("c", dist.OneHotCategorical(torch.ones(3) / 3), obs=c)
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            h = self.norm(self.linear(torch.cat([z, c], 1))).relu()
            return pyro.sample("x", dist.Bernoulli(logits=self.up(h)).to_event(3), obs=x)


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(25 + 3, 4)

    def forward(self, x, c):
        loc, s = self.linear(torch.cat([x.flatten(1), c], 1)).chunk(2, 1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, s.exp()).to_event(1))


def test_networks_that_know_one_batch_dimension_do_everything():
    torch.manual_seed(0)
    pair = pv.Variant(Images(), Reads(), conditions=("c",))
    c = nn.functional.one_hot(torch.arange(20) % 3, 3).float()
    batch = {"x": (torch.rand(20, 1, 5, 5) > 0.5).float(), "c": c}
    run = pv.fit(pair, batch, epochs=30, batch_size=20, lr=3e-2, progress=False)
    assert run.history["elbo"][-1] > run.history["elbo"][0]
    bound = pair.log_likelihood(particles=300, seed=1, rows=64, **batch)
    assert bound.shape == (20,)
    pair.eval()
    with torch.no_grad():  # by hand
        q = pair.encode(**batch)["z"]
        z = q.sample((4000,))
        h = pair.model.norm(pair.model.linear(torch.cat([z, c.expand(4000, -1, -1)], -1)).flatten(0, 1)).relu()
        likelihood = dist.Bernoulli(logits=pair.model.up(h).unflatten(0, (4000, 20))).to_event(3)
        prior = dist.Normal(torch.zeros(2), 1).to_event(1)
        w = likelihood.log_prob(batch["x"]) + prior.log_prob(z) - q.log_prob(z)
    torch.testing.assert_close(bound.mean(), (w.logsumexp(0) - torch.tensor(4000.0).log()).mean(), atol=0.1, rtol=0)
    assert pair.sample(4, c=c[:4]).shape == (4, 1, 5, 5)
    with pytest.raises(ValueError, match="x: missing; the guide needs it"):
        pair.elbo(c=c)
    assert pair.sample(4, c=c[:4]).shape == (4, 1, 5, 5)  # a call that failed changes nothing


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 2, 1)])
def test_values_that_would_be_broadcast_are_refused(shape):
    pair = pv.Variant(model, guide)
    for act in (lambda v: pair.elbo(x=v), lambda v: pv.evaluate(pair, v), lambda v: pv.fit(pair, v)):
        with pytest.raises(ValueError, match=r"[xz]: expected values of shape \(batch, |Shape mismatch inside plate"):
            act(torch.zeros(shape))


def test_bounds_do_not_depend_on_the_chunks_that_weights_come_in():
    w = 10 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = tracing.Moments(7)
    for draw in w.split(13):
        for part in (slice(0, 3), slice(3, 7)):
            moments.add(part, draw[:, part])
    torch.testing.assert_close(moments.elbo, w.mean(0))
    torch.testing.assert_close(moments.log_likelihood, w.exp().mean(0).log())
    torch.testing.assert_close(moments.effective_sample_size, w.exp().sum(0) ** 2 / (2 * w).exp().sum(0))


def inner_pair():
    """Three repeats of each datum under an inner plate, to the left of the data."""

    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x), dim=-1), pyro.plate("parts", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            obs = None if x is None else x.movedim(1, 0)
            return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=obs)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 3, dim=-2):
            pyro.sample("z", dist.Normal(0.8 * x.movedim(1, 0), 0.2**0.5).to_event(1))

    return pv.Variant(model, guide)


def test_the_batch_comes_first_whatever_plates_there_are():
    pair, x = inner_pair(), torch.randn(10, 3, 2)
    torch.testing.assert_close(pair.elbo(x=x, rows=4), evidence(x))
    codes = pair.encode(x=x, rows=4)["z"]
    assert codes.batch_shape == (3, 10)
    torch.testing.assert_close(codes.mean, 0.8 * x.movedim(1, 0))
    for draw in (pair.sample(10, rows=4), pair.reconstruct(x=x, rows=4)):
        assert draw.shape == (10, 3, 2)
    path = pair.interpolate(x[:4], x[4:8], steps=3)
    torch.testing.assert_close(path[1], 0.4 * (x[:4] + x[4:8]))
    moved = pair.traverse(units=[5], values=[7.0], x=x[:1])
    assert moved.shape == (1, 1, 3, 2)
    assert float(moved[0, 0, 2, 1]) == 7.0
    torch.testing.assert_close(pair.decode({"z": 0.8 * x}, rows=4), 0.8 * x)


def test_fit_looks_at_what_is_observed_and_not_at_what_is_passed():
    def binary(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=z).to_event(1), obs=None if x is None else (x > 0.5).float())

    grey = torch.rand(20, 2)
    pv.fit(pv.Variant(nn_pair(binary), nn_pair(guide)), grey, epochs=1, batch_size=8, progress=False)


class nn_pair(nn.Module):  # a program with a parameter, so that there is something to train
    def __init__(self, program):
        super().__init__()
        self.program, self.shift = program, nn.Parameter(torch.zeros(2))

    def forward(self, x=None, **options):
        return self.program(None if x is None else x + 0 * self.shift, **options)


class Odd(dist.Normal):
    @property
    def support(self):
        return dist.constraints.real


def test_a_support_that_is_a_property_is_left_to_its_distribution(x):
    class Story(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x=None, n=1):
            with pyro.plate("data", n if x is None else len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
                return pyro.sample("x", Odd(z, self.scale).to_event(1), obs=x)

    assert pv.fit(pv.Variant(Story(), guide), x, epochs=1, progress=False).epochs == 1


@pytest.mark.parametrize("stock", [True, False])
def test_a_warm_up_that_a_stepper_brings_follows_the_epochs(stock):
    pair, x = pv.vae(4, latent=2, likelihood=pv.likelihoods.Normal), torch.randn(32, 4)
    warm_up = pv.temper(WarmUp(epochs=2))
    if stock:
        stepper = SVI(warm_up(pair.model), warm_up(pair.guide), Adam({"lr": 1e-3}), Trace_ELBO())
    else:
        stepper = pv.infer.SVI(*pair.trained(warm_up), torch.optim.Adam)
    run = pv.fit(pair, x, epochs=4, batch_size=8, objective=stepper, progress=False)
    assert run.history["weight"] == pytest.approx([0.5, 1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="later than training ends"):
        pv.fit(pair, x, epochs=1, objective=stepper, progress=False)


def test_what_functions_created_under_stock_svi_is_not_lost_in_silence(tmp_path, x):
    class Story(nn.Module):
        def forward(self, x=None, n=1):
            return model(x, n)

    def learned(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("weight", torch.tensor(0.3)) * x, 0.5).to_event(1))

    pyro.clear_param_store()
    pair = pv.Variant(Story(), learned)
    SVI(*pair, Adam({"lr": 1e-2}), Trace_ELBO()).step(x=x)
    for act in (lambda: pair.save(tmp_path), lambda: list(pair.parameters()), lambda: pair.to("cpu")):
        with pytest.raises(TypeError, match=r"\['weight'\] were created by pyro.param"):
            act()
    pyro.clear_param_store()


def test_two_views_stay_two_after_one_was_encoded():
    def views(x=None, y=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(z, 1).to_event(1), obs=y)

    pair = pv.Variant(views, guide)
    pair.encode(x=torch.zeros(3, 2))
    assert set(pair.sample(2)) == {"x", "y"}


def test_a_setting_of_the_model_takes_no_labels(x):
    def with_setting(x=None, width=0.5, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            return pyro.sample("x", dist.Normal(z, width).to_event(1), obs=x)

    report = pv.evaluate(pv.Variant(with_setting, guide), TensorDataset(x, torch.arange(7)), particles=2)
    assert report.elbo == pytest.approx(float(evidence(x).mean()), abs=1e-5)


def test_a_narrow_prior_is_no_collapse():
    """Means that vary by little tell the data apart all the same, where the prior is as narrow."""

    def narrow(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 0.05).to_event(1))
            return pyro.sample("x", dist.Normal(z, 0.005).to_event(1), obs=x)

    def exact(x):
        precision = 1 / 0.05**2 + 1 / 0.005**2
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 0.005**2 / precision, precision**-0.5).to_event(1))

    pair = pv.Variant(narrow, exact)
    report = pv.evaluate(pair, pair.sample(200, seed=0), particles=5)
    assert report.kl["z"] > 4
    assert "COLLAPSED" not in str(report)


@pytest.mark.filterwarnings("ignore:Encountered")
def test_a_blow_up_in_the_last_step_is_told_as_any_other():
    pair = pv.vae(4, latent=2, hidden=8, likelihood=pv.likelihoods.Normal)
    with pytest.raises(FloatingPointError, match=r"epoch 1, after step 1: the ELBO is not finite: at site 'z'"):
        pv.fit(pair, torch.randn(8, 4), batch_size=8, epochs=1, lr=1e30, progress=False)


def test_a_schedule_that_waits_for_a_plateau(x):
    pair = pv.vae(2, latent=2, hidden=8, likelihood=pv.likelihoods.Normal)
    schedule = lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, threshold=1e9, threshold_mode="abs")  # noqa: E731
    run = pv.fit(pair, x, validation=x, epochs=3, lr=1e-2, lr_schedule=schedule, progress=False)
    assert run.history["lr"] == pytest.approx([1e-2, 1e-2, 1e-3])


def test_what_was_saved_in_double_precision_comes_back_in_it(tmp_path):
    pair = pv.vae(4, latent=2).double()
    again = pv.load(pair.save(tmp_path))
    for name, value in pair.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_evaluation_validates_whatever_the_global_switch_says():
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="outside the support of Bernoulli"):
        pv.evaluate(pv.vae((1, 8, 8), latent=2, hidden=8), 255 * torch.rand(20, 1, 8, 8))
