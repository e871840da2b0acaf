"""Every prior and every posterior on every variant that takes one: one contract, as contract.py has for the recipes."""

import copy
import inspect
import json
import pickle
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from contract import batch_of
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroSample
from pyro.optim import Adam
from scipy import stats

import pyro_vae as pv
from pyro_vae import cli, priors, saving, tracing
from pyro_vae.cli.parts import choices

SHAPE = (1, 4, 4)
VARIANTS = {
    "vae": partial(pv.vae, SHAPE, latent=3),
    "beta_vae": partial(pv.beta_vae, SHAPE, latent=3),
    "cvae": partial(pv.cvae, SHAPE, latent=3, classes=4),
    "m2": partial(pv.m2, SHAPE, latent=3, classes=4),
    "ladder": partial(pv.hvae, SHAPE, latents=(3, 3)),
    "bottom-up": partial(pv.hvae, SHAPE, latents=(3, 3), guide="bottom-up"),
    "dag_vae": partial(pv.dag_vae, SHAPE, latent=3),
    "aae": partial(pv.aae, SHAPE, latent=3),
    "vae_gan": partial(pv.vae_gan, SHAPE, latent=3),
}
OURS = {
    "Autoregressive": partial(priors.Autoregressive, components=2, hidden=(8,)),
    "Flow": partial(priors.Flow, transforms=1, hidden=(8,)),
    "Hierarchical": partial(priors.Hierarchical, upper=2, hidden=(8,)),
    "Mixture": partial(priors.Mixture, components=5),
    "Vamp": partial(priors.Vamp, pseudo_inputs=5),
} | {
    name: getattr(priors, name)
    for name in (
        "HierarchicalHorseshoe",
        "Horseshoe",
        "Laplace",
        "Normal",
        "PiecewiseNormal",
        "RectifiedNormal",
        "SphericalUniform",
        "SpikeAndSlab",
        "StandardNormal",
        "StudentT",
        "Uniform",
    )
}
IN_THE_PLANE = {"Ring", "SwissRoll"}
NOT_OF_CODES_ALONE = {"Classes", "Conditional", "Given", "Sampled"}

OF_CATEGORIES = {"Categorical", "PixelCNN"}  # see test_discrete.py and test_codes.py


def test_every_prior_is_here():
    assert set(OURS) | IN_THE_PLANE | NOT_OF_CODES_ALONE | OF_CATEGORIES == set(priors.__all__)


def logistic():
    """A callable of a user's, without anything of ours."""
    base = dist.Uniform(torch.zeros(3), 1.0)
    return dist.TransformedDistribution(base, dist.transforms.SigmoidTransform().inv).to_event(1)


def exponential():
    return dist.Exponential(torch.ones(3)).to_event(1)


def simplex():
    return dist.Dirichlet(torch.full((3,), 2.0))


def program():
    """A Pyro program: two local sites, one of them a scalar, the other read by what comes after it."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
    width = pyro.sample("width", dist.HalfNormal(torch.ones(3)).to_event(1))
    return dist.Normal(torch.zeros(3), rate.unsqueeze(-1) * width).to_event(1)


def choice():
    k = pyro.sample("k", dist.Categorical(torch.ones(3)))
    return dist.Normal(3 * torch.eye(3)[k], 0.5).to_event(1)


class Shared(PyroModule):
    """A program with sites that all data share, and one of each datum."""

    def __init__(self):
        super().__init__()
        self.scale = PyroSample(dist.HalfNormal(1.0))
        self.loc = PyroSample(dist.Normal(torch.zeros(3), 1.0).to_event(1))

    def forward(self):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        return dist.Normal(self.loc.unsqueeze(-2) + shift.unsqueeze(-1), 1.0).to_event(1)


THEIRS = {f.__name__: f for f in (logistic, exponential, simplex, program, choice)} | {"Shared": Shared}
POSTERIORS = {  # with a prior that suits each
    "BatchNormNormal": None,
    "DiagonalNormal": None,
    "Horseshoe": priors.Horseshoe,
    "PiecewiseNormal": None,
    "RectifiedNormal": priors.RectifiedNormal,
    "VonMisesFisher": priors.SphericalUniform,
}
LADDER_TOP = {"ladder", "bottom-up"}
WITHOUT_ELBO = {"Delta"}  # see test_no_elbo.py
# what a discriminator cannot teach, or does not see
NOT_OF_AN_AAE = {"Autoregressive", "Flow", "Hierarchical", "HierarchicalHorseshoe", "Mixture", "Normal"}
NOT_OF_AN_AAE |= {"PiecewiseNormal", "RectifiedNormal", "SpikeAndSlab", "Vamp", "program", "choice", "Shared"}


def make(variant, prior=None, posterior=None, **sizes):
    torch.manual_seed(0)
    given = {} if prior is None else {"prior": prior() if prior is Shared else prior}
    if posterior is not None:
        given["posterior"] = {"z3": posterior} if variant == "dag_vae" else posterior
        if variant in LADDER_TOP:
            given["posterior"] = (None, posterior)
    return VARIANTS[variant](**given, **sizes)


def holds(pair, folder, again=None):
    """Learns, dreams, encodes, is measured, copied, saved and read."""
    batch = batch_of(pair, 20)
    given = {name: value for name, value in batch.items() if name in pair.given}
    for other in (pair, copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        before = [p.detach().clone() for p in other.parameters()]
        SVI(*other.trained(pv.infer.minibatch(20)), Adam({"lr": 1e-2}), Trace_ELBO()).step(**batch)
        assert any(not torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))
    pv.fit(pair, batch, epochs=1, batch_size=10, device="cpu", progress=False)
    report = pv.evaluate(pair, batch, particles=3, draws=5)
    assert np.isfinite([report.elbo, report.log_likelihood, *report.kl.values()]).all()
    assert set(report.kl) == set(pair.encode(**batch))
    assert pair.sample(5, **{k: v[:5] for k, v in given.items()}).shape == (5, *SHAPE)
    assert pair.reconstruct(mean=True, **batch).shape == (20, *SHAPE)
    data = {name: value for name, value in batch.items() if name not in given}
    assert torch.isfinite(pair.interpolate(data, data, steps=3, **given)).all()
    site = next(name for name, q in pair.encode(**batch).items() if not name.startswith("c"))
    assert torch.isfinite(pair.traverse(site, [0], (-1, 0, 1), **{k: v[:1] for k, v in batch.items()})).all()
    folder = pair.save(folder / "pair")
    loaded = pv.load(folder, into=again)
    assert torch.equal(loaded.elbo(seed=0, **batch), pair.elbo(seed=0, **batch))


def learned(variant, prior):
    """Some priors are refused when the pair is built, others where they would be learned."""
    pair = make(variant, prior)
    pv.fit(pair, batch_of(pair, 20), epochs=1, progress=False)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", OURS)
def test_priors_of_ours(name, variant, tmp_path):
    if name == "Vamp" and variant in ("cvae", "m2", "bottom-up"):
        with pytest.raises(ValueError, match=r"^prior: .*\(Vamp\) needs a guide .*; here that of z2? reads"):
            make(variant, OURS[name])
        return
    if variant == "aae" and name in NOT_OF_AN_AAE:
        with pytest.raises(ValueError, match=r"^prior: "):
            learned(variant, OURS[name])
        return
    holds(make(variant, OURS[name]), tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_ring_of_normals(variant, tmp_path):
    holds(make(variant, priors.Ring, **({"latents": (3, 2)} if variant in LADDER_TOP else {"latent": 2})), tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", THEIRS)
def test_priors_of_a_users_own(name, variant, tmp_path):
    if variant == "aae" and name in NOT_OF_AN_AAE:
        with pytest.raises(ValueError, match=r"^prior: "):
            learned(variant, THEIRS[name])
        return
    pair = make(variant, THEIRS[name])
    if variant == "vae_gan" and name == "choice":
        with pytest.raises(ValueError, match="the site 'k' has no reparameterised gradient"):
            pv.fit(pair, batch_of(pair, 20), epochs=1, progress=False)
        return
    holds(pair, tmp_path, again=make(variant, THEIRS[name]))
    with pytest.raises(ValueError, match=r"cannot be rebuilt .*; use pv.load\(folder, into=variant\)"):
        pv.load(tmp_path / "pair")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", POSTERIORS)
def test_posteriors(name, variant, tmp_path):
    prior = POSTERIORS[name]
    if (variant, name) == ("aae", "RectifiedNormal"):
        prior = partial(prior, learned=False)
    holds(make(variant, prior, getattr(pv.posteriors, name)), tmp_path)


def test_every_posterior_is_here():
    named = {n for n in pv.posteriors.__all__ if inspect.isclass(getattr(pv.posteriors, n))}
    assert named == {*POSTERIORS, *WITHOUT_ELBO, "Categorical", "Classifier", "Transformed"}


WORDS = {
    "prior": {**dict.fromkeys(OURS, ""), "Mixture": "components=5", "Flow": "transforms=1", "Vamp": "pseudo_inputs=5"},
    "posterior": dict.fromkeys([*POSTERIORS, *WITHOUT_ELBO], ""),
}


@pytest.mark.parametrize(("option", "name"), [(o, n) for o, names in WORDS.items() for n in names])
def test_each_is_named_on_the_command_line(option, name, tmp_path):
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round()
    (tmp_path / "data").mkdir()
    for part in ("train", "test"):
        np.save(tmp_path / "data" / f"{part}.npy", x.numpy())
    told = WORDS[option][name]
    words = ["--latent", "3", f"--{option}", f"{name}:{told}" if told else name, "--epochs", "1", "--no-progress"]
    if option == "posterior" and POSTERIORS.get(name):
        words += ["--prior", POSTERIORS[name].__name__]
    run = tmp_path / "run"
    assert cli.main(["train", "vae", "--data", str(tmp_path / "data"), *words, "--out", str(run)]) == 0
    assert cli.main(["evaluate", str(run), "--particles", "2"]) == 0


def test_the_command_line_names_them_all():
    assert set(choices("prior")) == {*OURS, *IN_THE_PLANE, *OF_CATEGORIES, "Conditional"}
    assert set(choices("posterior")) == {*POSTERIORS, *WITHOUT_ELBO, "Categorical"}


@pytest.mark.parametrize("name", [n for n in OURS if n != "Vamp"])
def test_a_prior_that_is_built_already_is_saved_with_its_arguments(name, tmp_path):
    told = {
        "Horseshoe": {"scale": "learned"},
        "PiecewiseNormal": {"breaks": (-0.5, 0.5)},
        "RectifiedNormal": {"loc": -2.0, "learned": False},
        "SpikeAndSlab": {"spike": 0.05},
        "StudentT": {"df": 3.0, "scale": 2.0},
        "Flow": {"flow": "MAF"},
    }.get(name, {})
    build = OURS[name]
    prior = build(3, **told)
    pair = pv.vae(SHAPE, latent=3, prior=prior)
    x = pair.sample(4, seed=0)
    again = pv.load(pair.save(tmp_path))
    assert type(again.model.prior) is type(prior)
    assert torch.equal(again.elbo(x=x, seed=0), pair.elbo(x=x, seed=0))
    written = json.loads((tmp_path / saving.CONFIG).read_text())["arguments"]["prior"]["built"]
    assert set(written) == set(inspect.signature(type(prior)).parameters)


# ---------------------------------------------------------------------- as densities


DENSITIES = {n: p for n, p in OURS.items() if n not in ("Vamp", "Hierarchical", "HierarchicalHorseshoe", "Uniform")}
DENSITIES["Ring"] = priors.Ring


@pytest.mark.parametrize("name", DENSITIES)
def test_a_prior_is_a_density(name):
    """It integrates to 1: the mean of p / q over draws of a wider q is 1, within its Monte Carlo error."""
    torch.manual_seed(0)
    prior = DENSITIES[name](2).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        p = prior()
        if name == "SphericalUniform":
            assert float(p.log_prob(p.sample()).exp()) == pytest.approx(1 / (2 * np.pi))
            return
        q = dist.StudentT(1.0, torch.zeros(2).double(), 2.0).to_event(1)
        z = q.sample((200_000,))
        if name == "RectifiedNormal":  # half of the draws of each unit are at the atom
            off = torch.rand(z.shape) < 0.5
            z = z.abs().masked_fill(off, 0.0)
            each = dist.StudentT(1.0, torch.zeros(2).double(), 2.0).log_prob(z).masked_fill(off, 0.0)
            log_q = torch.where(off, np.log(0.5), each)  # 1/2 of a folded density, which is twice as high
            weights = (p.log_prob(z) - log_q.sum(-1)).exp()
        else:
            weights = (p.log_prob(z) - q.log_prob(z)).exp()
    error = float(weights.std() / len(weights) ** 0.5)
    assert error < 0.02
    assert abs(float(weights.mean()) - 1) < 4 * error


@pytest.mark.parametrize("name", [n for n in DENSITIES if n not in ("Horseshoe", "StudentT")])
def test_draws_of_a_prior_have_its_moments(name):
    """E_p[f] by its own draws and by draws of another density, weighed: the two agree within their errors."""
    torch.manual_seed(1)
    prior = DENSITIES[name](2)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        p = prior()
        z = p.sample((50_000,))
        own = torch.stack([z.tanh().mean(-1), (z[..., 0] * z[..., 1]).tanh()])
        if name in ("SphericalUniform", "RectifiedNormal"):
            u = torch.rand(50_000) * 2 * np.pi
            other = torch.stack([u.cos(), u.sin()], -1)
            if name == "RectifiedNormal":
                base = p.base_dist
                other = (base.loc + base.scale * torch.randn(50_000, 2)).clamp(min=0)
            weights = torch.ones(50_000)
        else:
            q = dist.StudentT(3.0, torch.zeros(2), 2.0).to_event(1)
            other = q.sample((50_000,))
            weights = (p.log_prob(other) - q.log_prob(other)).exp()
        against = weights * torch.stack([other.tanh().mean(-1), (other[..., 0] * other[..., 1]).tanh()])
    error = (own.var(-1) / 50_000 + against.var(-1) / 50_000).sqrt()
    assert (error < 0.05).all()
    assert ((own.mean(-1) - against.mean(-1)).abs() < 4 * error).all()


# ---------------------------------------------------------------------- shapes


def test_each_class_of_a_ring_is_a_normal_and_the_ring_their_mean():
    prior, angles = priors.Ring(components=5, radius=3.0, scale=0.4).double(), 2 * np.pi * torch.arange(5).double() / 5
    means = 3 * torch.stack([angles.cos(), angles.sin()], -1)
    z = 2 * torch.randn(7, 1, 2).double()
    each = dist.Normal(means, 0.4).to_event(1).log_prob(z)
    torch.testing.assert_close(prior(torch.arange(5)).log_prob(z), each, atol=1e-5, rtol=1e-5)  # means in single
    torch.testing.assert_close(prior().log_prob(z[:, 0]), each.logsumexp(-1) - np.log(5), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("turns", [1.5, 0.8])
def test_a_roll_is_a_spiral_of_even_stretches(turns):
    """Without noise a draw tells u: its radius and its angle do, u^2 is uniform, and a class has its part of it."""
    prior = priors.SwissRoll(turns=turns, radius=3.0, scale=0.0, classes=4).double()
    c = torch.arange(4).repeat_interleave(1000)
    for given in ((), (c,)):
        z = prior(*given).sample(() if given else (4000,))
        u = z.norm(dim=-1) / 3
        torch.testing.assert_close(z, 3 * u[:, None] * torch.stack([(t := 2 * np.pi * turns * u).cos(), t.sin()], -1))
        assert stats.kstest((u**2).numpy(), "uniform").pvalue > 1e-3
        assert not given or torch.equal((4 * u**2).floor(), c.double())
    together = prior(torch.tensor([3, 0])).sample((500,))  # each its own class, in every draw
    assert (together[:, 0].norm(dim=-1) ** 2 > 9 * 0.75 - 1e-9).all()
    assert (together[:, 1].norm(dim=-1) ** 2 < 9 * 0.25 + 1e-9).all()


def test_the_noise_of_a_roll_has_its_scale():
    torch.manual_seed(0)
    smooth, noisy = priors.SwissRoll(radius=1e-6, scale=0.3), priors.SwissRoll(radius=1e-6, scale=0.0)
    z = smooth().sample((20_000,))
    assert float(noisy().sample((100,)).abs().max()) < 1e-5
    assert all(stats.kstest(unit.numpy() / 0.3, "norm").pvalue > 1e-3 for unit in z.T)


def test_a_box_is_uniform():
    prior = priors.Uniform((2, 3), low=-1.0, high=3.0)
    z = prior().sample((3000,))
    assert z.shape == (3000, 2, 3)
    torch.testing.assert_close(prior().log_prob(z), torch.full((3000,), -6 * np.log(4.0), dtype=torch.float32))
    assert all(stats.kstest(unit.numpy() / 4, "uniform", (-0.25, 1)).pvalue > 1e-3 for unit in z.flatten(1).T)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: priors.Ring(3), r"latent: expected 2 dimensions for a shape in the plane, found \(3,\)"),
        (lambda: priors.SwissRoll((2, 1)), r"latent: expected 2 dimensions for a shape in the plane, found \(2, 1\)"),
        (lambda: priors.Ring(components=0), "components: expected"),
        (lambda: priors.Ring(radius=0.0), "radius: expected"),
        (lambda: priors.Ring(scale=0.0), "scale: expected"),
        (lambda: priors.SwissRoll(turns=0.0), "turns: expected"),
        (lambda: priors.SwissRoll(radius=-1.0), "radius: expected"),
        (lambda: priors.SwissRoll(scale=-1.0), "scale: expected"),
        (lambda: priors.SwissRoll(classes=0), "classes: expected"),
        (
            lambda: priors.SwissRoll(classes=3)(torch.tensor([0, 3])),
            r"classes: expected labels from 0 to 2, found 0 to 3",
        ),
        (lambda: priors.Uniform(2, low=1.0, high=1.0), "high: expected"),
    ],
)
def test_shapes_out_of_range_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", sorted(IN_THE_PLANE))
def test_a_shape_that_is_built_already_is_saved_with_its_arguments(name, tmp_path):
    prior = getattr(priors, name)(radius=3.0, scale=0.2)
    again = pv.load(pv.vae(SHAPE, latent=2, prior=prior).save(tmp_path)).model.prior
    assert (type(again), again.radius, again.scale) == (type(prior), 3.0, 0.2)
    written = json.loads((tmp_path / saving.CONFIG).read_text())["arguments"]["prior"]["built"]
    assert set(written) == set(inspect.signature(type(prior)).parameters)


# ---------------------------------------------------------------------- what each is for


def test_a_vamp_prior_is_the_mixture_of_its_posteriors():
    pair = make("vae", OURS["Vamp"])
    prior = pair.model.prior
    z = torch.randn(7, 3)
    q = pair.guide.posterior(prior.u.clamp(0, 1))
    expected = torch.stack([q.log_prob(value) for value in z.unsqueeze(1)]).logsumexp(-1) - np.log(5)
    torch.testing.assert_close(prior().log_prob(z), expected)
    names = [name for name, _ in pair.named_parameters()]
    assert "model.prior.u" in names
    assert sum(p.numel() for p in pair.parameters()) == sum(
        p.numel() for p in {id(p): p for p in pair.parameters()}.values()
    )
    x = torch.rand(20, *SHAPE).round()
    prior.initialise(x, seed=3)
    assert all(any(torch.equal(u, row) for row in x) for u in prior.u.detach())
    with pytest.raises(ValueError, match=r"^x: expected at least 5 of shape \(1, 4, 4\), found \(3, 1, 4, 4\)"):
        prior.initialise(x[:3])
    twin = copy.deepcopy(pair)
    assert twin.model.prior._posterior[0] is twin.guide.posterior, "a copy borrows from its own guide"


def test_a_vamp_prior_may_keep_its_inputs():
    pair = make("vae", partial(priors.Vamp, pseudo_inputs=5, trainable=False))
    assert "model.prior.u" not in dict(pair.named_parameters())
    assert "model.prior.u" in pair.state_dict()


def test_a_vamp_prior_stays_where_the_data_are():
    assert make("vae", OURS["Vamp"]).model.prior.bounds == (0.0, 1.0)
    real = pv.vae(4, latent=2, prior=OURS["Vamp"], likelihood=pv.likelihoods.Normal)
    assert real.model.prior.bounds is None


def test_a_mixture_starts_at_the_clusters():
    torch.manual_seed(0)
    centres = torch.tensor([[10.0, 0.0], [-10.0, 0.0], [0.0, 10.0]])
    sizes = (100, 200, 300)
    codes = torch.cat([c + torch.randn(n, 2) for c, n in zip(centres, sizes, strict=True)])
    prior = priors.Mixture(2, components=3)
    prior.initialise(codes)
    order = [int((prior.loc - c).norm(dim=-1).argmin()) for c in centres]
    assert sorted(order) == [0, 1, 2]
    torch.testing.assert_close(prior.loc.detach()[order], centres, atol=0.4, rtol=0)  # 4 standard errors
    torch.testing.assert_close(prior.logits.detach().softmax(-1)[order], torch.tensor(sizes) / 600)
    torch.testing.assert_close(
        prior().component_distribution.base_dist.scale[order], torch.ones(3, 2), atol=0.3, rtol=0
    )
    with pytest.raises(ValueError, match=r"^codes: expected at least 3 of shape \(2\), found \(2, 2\)"):
        prior.initialise(codes[:2])


def test_what_all_data_share_counts_once():
    """The gradient of an epoch in batches is that of one batch of all: sites outside the plate are weighed by B / N."""

    class Located(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = PyroSample(dist.Normal(torch.zeros(3), 1.0).to_event(1))

        def forward(self):
            return dist.Normal(self.loc, 1.0).to_event(1)

    torch.manual_seed(0)
    pair = pv.vae(SHAPE, latent=3, prior=Located())
    x = pair.sample(12, seed=0)
    model, guide = pair.trained(pv.infer.minibatch(12))
    found = {}
    for size in (12, 4, 3):
        losses = []
        for part in x.split(size):
            tracing.reseed(0, None)
            trace = pyro.poutine.trace(guide).get_trace(x=part)
            replayed = pyro.poutine.trace(pyro.poutine.replay(model, trace=trace)).get_trace(x=part)
            both = [(trace, 1.0), (replayed, -1.0)]
            losses.append(
                sum(
                    sign * float(site["log_prob_sum"].detach())
                    for t, sign in both
                    for site in (t.compute_log_prob() or dict(t.nodes)).values()
                    if site["type"] == "sample" and site["infer"].get("shared")
                )
            )
        found[size] = sum(losses)
    assert found[12] != 0
    assert found[4] == pytest.approx(found[12], rel=1e-5)
    assert found[3] == pytest.approx(found[12], rel=1e-5)


def test_what_all_data_share_is_learned():
    """z ~ N(theta, 1), theta ~ N(0, 10^2), x = z but for a little noise: theta is near the mean of the data."""

    class Located(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = PyroSample(dist.Normal(torch.zeros(1), 10.0).to_event(1))

        def forward(self):
            return dist.Normal(self.loc, 1.0).to_event(1)

    class Same(torch.nn.Module):
        def forward(self, z):
            return z

    torch.manual_seed(0)
    n = 400
    x = 3.0 + torch.randn(n, 1)
    pair = pv.vae(1, latent=1, prior=Located(), likelihood=partial(pv.likelihoods.Normal, scale=0.5), decoder=Same())
    pv.fit(pair, x, epochs=60, batch_size=50, lr=2e-2, progress=False)
    trace = [pyro.poutine.trace(pair.guide).get_trace(x=x[:2]).nodes["prior.loc"]["value"] for _ in range(400)]
    theta = torch.stack(trace).flatten()
    # exactly: N(mean of x, (1 + 0.5^2) / n), for so wide a prior; mean field of z and theta is narrower
    theta, exact = theta.detach(), x.mean()
    assert abs(float(theta.mean() - exact)) < 4 * (1.25 / n) ** 0.5
    assert float(theta.std()) < 2 * (1.25 / n) ** 0.5
    draws = pair.sample(4000, seed=0)
    assert abs(float(draws.mean() - exact)) < 0.3, "samples are drawn under what has been learned"


# ---------------------------------------------------------------------- posteriors follow priors


@pytest.mark.parametrize(
    ("prior", "family"),
    [
        (priors.StandardNormal, "DiagonalNormal"),
        (OURS["Mixture"], "DiagonalNormal"),
        (priors.RectifiedNormal, "RectifiedNormal"),
        (priors.SphericalUniform, "VonMisesFisher"),
        (exponential, "Transformed"),
        (simplex, "Transformed"),
        (logistic, "DiagonalNormal"),
    ],
)
def test_the_posterior_follows_the_support_of_the_prior(prior, family):
    assert type(make("vae", prior).guide.posterior).__name__ == family
    ladder = make("ladder", prior)
    assert type(ladder.guide.posteriors[1]).__name__ == family
    assert type(ladder.guide.posteriors[0]).__name__ == "DiagonalNormal"


def wide():
    return dist.Normal(torch.zeros(3), 1.0)


def count():
    return dist.Poisson(torch.ones(3)).to_event(1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pv.vae(4, latent=3, prior=3), r"^prior: expected a class of pv.priors, or any callable .*, found 3"),
        (
            lambda: pv.vae(4, latent=3, prior=lambda: 3),
            r"^prior: expected a callable that returns a distribution, found",
        ),
        (lambda: pv.vae(4, latent=3, prior=wide), r"^prior: .*codes of shape \(3,\), found batch .*\.to_event\(1\)"),
        (lambda: pv.vae(4, latent=2, prior=exponential), r"^prior: .*codes of shape \(2,\), found .*event \(3,\)"),
        (lambda: pv.vae(4, latent=3, prior=count), r"^prior: no posterior is known for Poisson, which is discrete"),
        (
            lambda: pv.vae(4, latent=3, prior=exponential, posterior=pv.posteriors.DiagonalNormal),
            r"^posterior: z: Normal .*does not fit the prior, Exponential",
        ),
        (
            lambda: pv.vae(4, latent=3, posterior=pv.posteriors.RectifiedNormal),
            r"^posterior: z: RectifiedNormal .*does not fit the prior, Normal",
        ),
        (
            lambda: pv.vae(4, latent=3, prior=priors.RectifiedNormal, posterior=pv.posteriors.DiagonalNormal),
            r"^posterior: z: Normal .*does not fit the prior, RectifiedNormal",
        ),
        (
            lambda: pv.hvae(4, latents=(3, 3), posterior=(pv.posteriors.Horseshoe, None)),
            r"^posterior: expected two diagonal normals",
        ),
        (lambda: make("vae", None, pv.posteriors.Horseshoe), r"^posterior: z: Horseshoe has tails under which"),
        (lambda: pv.hvae(4, latents=(3, 3), prior=(None,)), r"^prior: expected one .*, or one for each of 2, found 1"),
        (lambda: pv.dag_vae(4, prior={"z9": priors.Laplace}), r"^prior: unknown 'z9', expected one of z1, z2, z3"),
        (lambda: priors.Mixture(3, components=0), r"^components: expected a whole number of at least 1, found 0"),
        (lambda: priors.Flow(3, flow="RNVP"), r"^flow: unknown 'RNVP', expected one of BPF, MAF"),
        (lambda: priors.Flow((2, 4, 4)), r"^latent: expected the dimensions of a vector"),
        (lambda: priors.SphericalUniform(1), r"^latent: expected a vector of at least 2 dimensions"),
        (lambda: priors.SpikeAndSlab(3, spike=2.0), r"^slab: expected a finite number greater than 2, found 1.0"),
        (lambda: priors.Horseshoe(3, scale=-1.0), r"^scale: expected a finite number greater than 0, found -1.0"),
        (lambda: priors.Horseshoe(3, scale="free"), r"^scale: unknown 'free', expected one of learned"),
        (lambda: priors.PiecewiseNormal(3, breaks=(1.0, 0.0)), r"^breaks: expected increasing numbers"),
        (lambda: priors.Sampled(2, lambda n: torch.rand(n)), r"^sampler: expected draws of shape \(3, 2\) for n=3"),
    ],
)
def test_what_does_not_fit_is_told_before_training(build, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build()


# ---------------------------------------------------------------------- draws alone


def test_a_prior_that_can_only_be_sampled():
    pair = pv.vae(SHAPE, latent=2, prior=priors.Sampled(2, lambda n: torch.rand(n, 2)))
    x = pair.sample(8, seed=0)
    assert x.shape == (8, *SHAPE)
    assert pair.reconstruct(x=x).shape == x.shape
    assert pair.encode(x=x)["z"].batch_shape == (8,)
    for asked in (lambda: pair.elbo(x=x), lambda: pv.fit(pair, x, epochs=1, progress=False)):
        with pytest.raises(NotImplementedError, match="a prior that can only be sampled"):
            asked()


# ---------------------------------------------------------------------- afterwards


def test_a_prior_fitted_to_the_codes_changes_nothing_else(tmp_path):
    torch.manual_seed(0)
    x = pv.data.load("digits", binarise="threshold").x
    pair = pv.vae((1, 8, 8), latent=2)
    pv.fit(pair, x, epochs=15, lr=3e-3, progress=False)
    before = copy.deepcopy(pair.state_dict())
    new = pv.fit_prior(pair, x, partial(priors.Mixture, components=10), epochs=10, lr=1e-2, progress=False)
    assert all(torch.equal(before[name], value) for name, value in pair.state_dict().items())
    assert all(torch.equal(before[n], v) for n, v in new.state_dict().items() if not n.startswith("model.prior"))
    assert all(p.requires_grad for p in new.parameters())
    was, now = (pv.evaluate(p, x, particles=20) for p in (pair, new))
    assert now.reconstruction == pytest.approx(was.reconstruction, abs=0.05)
    # q(z) is the best prior: it gains KL(q(z) || N(0, I)), of which ten normals are to find most
    assert 0.5 * was.aggregate_kl < was.rate - now.rate < was.aggregate_kl + 0.05
    again = pv.load(new.save(tmp_path))
    assert torch.equal(again.elbo(x=x, seed=0), new.elbo(x=x, seed=0))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "beta_vae"])
def test_a_prior_is_fitted_at_the_top_of_every_variant(variant):
    pair = make(variant)
    batch = batch_of(pair, 30)
    if variant == "aae":
        with pytest.raises(ValueError, match="prior: expected one without sample sites of its own"):
            pv.fit_prior(pair, batch, OURS["Hierarchical"], epochs=1, progress=False)
    for prior in (OURS["Mixture"], OURS["Hierarchical"])[: 1 if variant == "aae" else 2]:
        new = pv.fit_prior(pair, batch, prior, epochs=1, progress=False)
        assert torch.isfinite(new.elbo(**batch)).all()
        learned = getattr(new.guide, "guide", new.guide).state_dict()
        assert all(torch.equal(learned[name], value) for name, value in pair.guide.state_dict().items())


@pytest.mark.parametrize(
    ("prior", "options", "message"),
    [
        (priors.StandardNormal, {}, r"^prior: expected one with parameters"),
        (priors.RectifiedNormal, {}, r"^prior: the codes of this pair are drawn from DiagonalNormal"),
        (OURS["Flow"], {"temper": 2.0}, r"^temper: fit_prior maximises"),
    ],
)
def test_what_cannot_be_fitted_to_codes(prior, options, message):
    pair = make("vae")
    with pytest.raises(ValueError, match=message):
        pv.fit_prior(pair, pair.sample(10), prior, progress=False, **options)


# ---------------------------------------------------------------------- what all data share, under other roofs


def test_what_all_data_share_is_refused_where_it_has_no_place():
    pair = make("vae", Shared)
    x = pair.sample(6, seed=0)
    with pytest.raises(ValueError, match=r"prior\.scale: shared by all data"):
        pv.fit(pair, x, objective=pv.infer.IWAE(3), epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"^variant: has sites that all data share"):
        pv.audit(pair, x, n=1, steps=1, draws=0)


def test_each_particle_draws_what_all_data_share():
    """log (1/K) sum_k p(x | z_k, theta_k) ... rises with K also where networks know one batch dimension only."""

    class OneBatch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(3, 16)

        def forward(self, z):
            assert z.dim() == 2
            return self.net(z).reshape(-1, *SHAPE)

    torch.manual_seed(0)
    pair = pv.vae(SHAPE, latent=3, prior=Shared(), decoder=OneBatch())
    x = pair.sample(5, seed=0)
    spread = [float(pair.log_likelihood(x=x, particles=400, seed=s).mean()) for s in range(4)]
    assert np.std(spread) < 0.3
    for objective in (pv.infer.AnalyticKL(), pv.FreeBits(0.1), Trace_ELBO()):
        losses = [
            pv.infer.SVI(
                *pair.trained(pv.infer.minibatch(5)), lambda p: torch.optim.SGD(p, 0.0), objective
            ).evaluate_loss(x=x)
            for _ in range(60)
        ]
        direct = [Trace_ELBO().loss(pair.model, pair.guide, x=x) for _ in range(60)]
        error = (np.var(losses) / 60 + np.var(direct) / 60) ** 0.5
        assert abs(np.mean(losses) - np.mean(direct)) < 4 * error


@pytest.mark.parametrize("prior", [priors.Hierarchical, OURS["Vamp"], Shared])
def test_a_pair_is_built_without_a_trace(prior):
    """Neither Pyro's global store nor torch's generator know of the trials."""
    pyro.clear_param_store()
    make("vae", prior)
    assert not list(pyro.get_param_store().keys())
    torch.manual_seed(0)
    make("vae")
    plain = torch.get_rng_state()
    torch.manual_seed(0)
    pv.vae(SHAPE, latent=3, prior=priors.Laplace)
    assert torch.equal(plain, torch.get_rng_state())


def test_what_all_data_share_stands_in_no_plate():
    pair = make("vae", Shared)
    x = pair.sample(6, seed=0)
    for objective in (Trace_ELBO(2, vectorize_particles=True, max_plate_nesting=1), pv.infer.AnalyticKL(2)):
        with pytest.raises(ValueError, match=r"prior\.\w+: shared by all data, and cannot stand in a plate"):
            pv.fit(pair, x, objective=objective, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"^objective: TraceMeanField_ELBO leaves out"):
        pv.fit(pair, x, objective=pyro.infer.TraceMeanField_ELBO(), epochs=1, progress=False)
    bare = pv.Variant(pair.model, pair.guide.guide)
    with pytest.raises(ValueError, match=r"^guide: lacks the sites \['prior\.scale', 'prior\.loc'\] of the model"):
        bare.elbo(x=x)


def test_draws_under_what_all_data_share_depend_on_the_seed_alone():
    pair = make("vae", Shared)
    x = pair.sample(6, seed=0)
    assert torch.equal(
        pair.sample(8, seed=1, mean=True, rows=3).shape and pair.sample(8, seed=1), pair.sample(8, seed=1)
    )
    before = torch.get_rng_state()
    one, two = (pair.log_likelihood(x=x, particles=3, proposal="prior", seed=0) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())


def test_a_weight_by_name_is_of_both_programs():
    pair = make("vae", Shared)
    x = pair.sample(6, seed=0)
    sites = tracing.latent_sites(pyro.poutine.trace(pair.model).get_trace(x=x))
    names = [*sites, "prior.scale", "prior.loc"]
    losses = []
    for weight in (2.0, dict.fromkeys(names, 2.0)):
        torch.manual_seed(3)
        losses.append(Trace_ELBO().loss(*pair.trained(pv.temper(weight)), x=x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class Parametric(PyroModule):
    def __init__(self, start):
        super().__init__()
        self.scale = pyro.nn.PyroParam(torch.tensor(start), dist.constraints.positive)

    def forward(self):
        return dist.Normal(torch.zeros(3), self.scale).to_event(1)


def test_pairs_share_no_parameters():
    """Pyro's global store would hand the first prior's parameters to the second."""
    first, second = (pv.vae(SHAPE, latent=3, prior=Parametric(start)) for start in (1.0, 5.0))
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    assert float(second.model.prior.scale.detach()) == pytest.approx(5.0)
    scales = [pair.model.prior().stddev.mean().item() for pair in (first, second)]
    assert scales == pytest.approx([1.0, 5.0])


def test_a_setting_of_a_prior_is_no_condition():
    def shifted(shift=1.5):
        return dist.Normal(torch.full((3,), shift), 1.0).to_event(1)

    pair = make("cvae", shifted)
    z = pair.latent_sites(c=torch.tensor([2]))["z"]
    torch.testing.assert_close(z.mean[0], torch.full((3,), 1.5))


def test_the_rest_of_a_pair_rests_while_its_prior_is_fitted():
    encoder = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(16, 8),
        torch.nn.BatchNorm1d(8),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(8, 6),
    )
    torch.manual_seed(0)
    pair = pv.vae(SHAPE, latent=3, encoder=encoder)
    x = pair.sample(40, seed=0)
    pv.fit(pair, x, epochs=1, progress=False)
    pair = pv.Variant(pair.model, pair.guide)
    pair.recipe = pv.vae(SHAPE, latent=3, encoder=encoder).recipe
    new = pv.fit_prior(pair, x, OURS["Flow"], epochs=2, progress=False)
    old = pair.guide.state_dict()
    assert all(torch.equal(value, old[name]) for name, value in new.guide.state_dict().items())
    assert new.train().guide.training
    assert all(module.training for module in new.modules())


def test_a_weight_on_the_kl_is_left_out_where_a_prior_is_fitted():
    torch.manual_seed(0)
    pair = pv.beta_vae(SHAPE, beta=0.0, latent=3)
    new = pv.fit_prior(pair, pair.sample(40, seed=0), priors.Normal, epochs=3, lr=0.1, progress=False)
    assert float(new.model.prior.s.detach().abs().max()) > 0.05
    assert new.handler is not None


def test_a_vamp_prior_may_stand_on_data_afterwards():
    pair = make("vae")
    x = pair.sample(20, seed=0)
    new = pv.fit_prior(pair, x, partial(priors.Vamp, pseudo_inputs=5, trainable=False), progress=False)
    assert all(any(torch.equal(u, row) for row in x) for u in new.model.prior.u)


def test_a_mixture_needs_codes_that_differ():
    with pytest.raises(ValueError, match=r"^codes: expected at least 5 that differ, found 3"):
        priors.Mixture(2, components=5).initialise(torch.eye(3)[:, :2].repeat(4, 1))


def lognormal():
    return dist.LogNormal(torch.zeros(3), 1.0).to_event(1)


def box():
    return dist.Uniform(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])).to_event(1)


@pytest.mark.parametrize("prior", [lognormal, box, simplex])
def test_a_traversal_stays_inside(prior):
    pair = make("vae", prior)
    x = pair.sample(1, seed=0)
    assert torch.isfinite(pair.traverse("z", [0, 1], (-3, 0, 0.5, 3), x=x)).all()


def fails():
    return 1 / 0


def pairs():
    return dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)


def named_like_the_code():
    return dist.Normal(torch.zeros(3), 1 + pyro.sample("z", dist.Gamma(1.0, 1.0)).unsqueeze(-1)).to_event(1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make("vae", fails), r"^prior: ZeroDivisionError: division by zero$"),
        (lambda: make("vae", priors.Conditional), r"^prior: TypeError: .*missing 2 required .*'net' and 'inside'$"),
        (lambda: make("vae", pairs), r"^prior: .*2 vs 7|^prior: expected .* found batch \(2,\)"),
        (lambda: make("vae", named_like_the_code), r"^prior: .*'z'; each site has a name of its own"),
        (lambda: make("dag_vae", dict.fromkeys(("z3", "z1"), priors.Hierarchical)), r"^prior: .*'u'; each site has"),
        (lambda: make("vae", logistic()), r"^prior: expected a class .*; write lambda: \.\.\. around it"),
        (
            lambda: pv.hvae(SHAPE, latents=(3, 3), prior=(Shared(), None)),
            r"^prior\[0\]: has sites of its own, which below the top needs guide='bottom-up'",
        ),
    ],
)
def test_a_prior_that_fails_is_told_in_one_line(build, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_an_audit_of_codes_that_nuts_cannot_walk_over():
    pair = make("vae", priors.SphericalUniform)
    x = pair.sample(2, seed=0)
    with pytest.raises(ValueError, match=r"^audit: datum 0: draws: NUTS cannot walk over such codes .*; use draws=0$"):
        pv.audit(pair, x, n=1, steps=2, particles=2, draws=20, warmup=2)
    assert len(pv.audit(pair, x, n=1, steps=2, particles=2, draws=0).rows) == 1


@pytest.mark.parametrize("variant", ["vae", "cvae", "ladder"])
def test_a_picture_of_a_prior_with_shared_sites(variant):
    pair = make(variant, Shared)
    batch = batch_of(pair, 20)
    pv.plot.plt.close(pv.plot.prior(pair, batch))
