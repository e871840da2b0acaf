"""Games against a discriminator: what it learns, what each side's step moves, runs that go on, and what is refused."""

import copy
import itertools
import logging
import math
import re
from functools import partial

import gaussian
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats
from test_resume import assert_same, state
from torch import nn
from torch.nn.functional import one_hot, softplus
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, ReduceLROnPlateau

import pyro_vae as pv
from pyro_vae.infer import AAE, SVI, VAEGAN, AnalyticKL, FactorVAE, WarmUp, perceived, temper
from pyro_vae.infer.adversarial import OPENING
from pyro_vae.infer.factor_vae import shuffled
from pyro_vae.nets import Discriminator

SHAPE = (1, 8, 8)
SGD = partial(torch.optim.SGD, lr=1e-3)
X = pv.data.load("digits", binarise="threshold").x[:256]


class Quadratic(nn.Module):
    """T(z) = a + b . z + z' C z in the plane, in which the log ratio of any two normals is linear."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(6, 1, dtype=torch.float64))

    def forward(self, z):
        u, v = z.double().unbind(-1)
        return torch.stack([torch.ones_like(u), u, v, u**2, v**2, u * v], -1) @ self.w


class Blind(nn.Module):
    """T(z) = a, whatever z is."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, z):
        return self.a.expand(len(z), 1)


class Smooth(nn.Module):
    """A discriminator without kinks, with features."""

    def __init__(self, width, *more):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(width, 6), *more, nn.Tanh()).double()
        self.head = nn.Linear(6, 1).double()

    def forward(self, x):
        return self.head(self.features(x))


class Watched(nn.Module):
    """A discriminator that remembers what it was shown."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, x):
        self.seen.append(x.detach())
        return self.net(x)


class World(nn.Module):
    """A prior N(0, I) in the plane, a guide that has nothing to learn, and data that tell nothing."""

    def __init__(self, guide):
        super().__init__()
        self.b, self.guide = nn.Parameter(torch.zeros(2).double()), guide

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.b, 1.0).to_event(1), obs=x)


def world(loc=0.0, scale=1.0):
    """q(z) = N(loc, scale^2 I), whatever the data are."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2).double() + loc, scale).to_event(1))

    return World(guide), guide


def values(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def seeded(f, *args, seed=5, **kwargs):
    torch.manual_seed(seed)
    return f(*args, **kwargs)


def game(kind, weight=3.0, shift=0.4, **options):
    """One of double precision, on data of five numbers whose codes are of three."""
    torch.manual_seed(7)
    pair = gaussian.pair(shift=shift)
    width = gaussian.DATA if kind is VAEGAN else gaussian.LATENT
    return pair, kind(*pair, SGD, Smooth(width), weight=weight, **options)


def data(n=8):
    return gaussian.pair().sample(n, seed=2)


# ---------------------------------------------------------------------- what the discriminator learns


def taught(kind, programs, x, seed, steps=250):
    """A discriminator at the end of a game whose pair stands still; its pace falls with that of the pair."""
    torch.manual_seed(seed)
    optim = partial(torch.optim.Adam, lr=0.2)
    played = kind(*programs, SGD, Quadratic(), discriminator_optim=optim, penalty=0.0, weight=1.0)
    schedule = CosineAnnealingLR(played.optimizer, T_max=steps)
    for _ in range(steps):
        played.step(x=x())
        schedule.step()
    return played


def assert_learnt(found, exact, most):
    """Means over trainings agree with what is exact, within errors that are small beside it."""
    found = torch.stack(found)
    error = found.std(0) / len(found) ** 0.5
    assert float((4 * error).max()) < most
    assert ((found.mean(0) - exact).abs() < 4 * error + 1e-3).all(), (found.mean(0), exact, error)


def test_at_its_best_it_is_the_log_ratio_of_codes_and_prior():
    loc, scale = torch.tensor([1.0, -0.5]).double(), torch.tensor([0.6, 1.2]).double()
    q, p = dist.Normal(loc, scale).to_event(1), dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)
    z = q.sample((4000,))
    nothing = torch.zeros(1000, 2).double()
    games = [taught(AAE, world(loc, scale), lambda: nothing, seed) for seed in range(8)]
    told = [g.tell(z).detach() for g in games]
    # log q - log p has these coefficients of 1, z, z^2 and z1 z2
    quadratic = 0.5 - 0.5 / scale**2
    exact = torch.cat([(-scale.log() - loc**2 / (2 * scale**2)).sum()[None], loc / scale**2, quadratic, loc[:1] * 0])
    assert_learnt([g.discriminator.w[:, 0].detach() for g in games], exact, most=0.2)
    torch.testing.assert_close(Quadratic()(z[:1]) * 0 + q.log_prob(z[:1]) - p.log_prob(z[:1]), at(exact, z[:1]))
    # E_q[T] is the KL; all are over the same draws, whose own error comes on top
    kl = float(torch.distributions.kl_divergence(q, p))
    own = (q.log_prob(z) - p.log_prob(z)).mean() - kl
    assert_learnt([t.mean() - own for t in told], kl, most=0.1 * kl)


def at(w, z):
    net = Quadratic()
    net.w.data = w[:, None]
    return net(z).detach()


def test_of_shuffled_codes_it_is_the_total_correlation():
    sigma = torch.tensor([[1.0, 0.9], [0.9, 1.5]]).double()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.5).to_event(1))

    covariance = sigma + 0.25 * torch.eye(2).double()
    q = dist.MultivariateNormal(torch.zeros(2).double(), covariance)
    each = dist.Normal(torch.zeros(2).double(), covariance.diagonal().sqrt()).to_event(1)
    z, chol = q.sample((4000,)), torch.linalg.cholesky(sigma)
    games = [
        taught(FactorVAE, (World(guide), guide), lambda: torch.randn(1000, 2).double() @ chol.T, seed)
        for seed in range(8)
    ]
    tc = -0.5 * float(torch.logdet(covariance) - covariance.diagonal().log().sum())
    own = (q.log_prob(z) - each.log_prob(z)).mean() - tc
    assert_learnt([g.tell(z).mean().detach() - own for g in games], tc, most=0.15 * tc)


def test_shuffled_codes_keep_the_values_of_each_unit_and_nothing_else():
    z = torch.randn(2000, 1).expand(-1, 3) * torch.tensor([1.0, 2.0, -3.0])
    other = shuffled(z)
    torch.testing.assert_close(other.sort(0).values, z.sort(0).values)
    correlations = torch.corrcoef(other.T)[~torch.eye(3, dtype=bool)]
    assert (correlations.abs() < 4 / 2000**0.5).all()  # of units that were all one
    # each order is as likely as any
    counts = torch.zeros(6)
    orders = {order: i for i, order in enumerate(itertools.permutations(range(3)))}
    for _ in range(600):
        counts[orders[tuple(shuffled(torch.arange(3.0)[:, None])[:, 0].int().tolist())]] += 1
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


# ---------------------------------------------------------------------- what is played


@pytest.mark.parametrize("b", [0.0, 1.0, 0.3])
def test_what_the_aae_plays(b):
    """The loss is -E_q[log p(x | z)] + weight E_q[T(z)], under temper as any KL."""
    pair, played = game(AAE, weight=2.5)
    x = data(4000)
    played.model, played.guide = pair.trained(temper(b))
    found = seeded(played.play, {"x": x})
    log_p = dist.Normal(found.drawn @ pair.model.W.T + pair.model.b, gaussian.NOISE).to_event(1).log_prob(x)
    torch.testing.assert_close(found.loss, -log_p.sum() + b * 2.5 * played.discriminator(found.drawn).sum())
    q = pair.guide
    noise = ((found.drawn - (x - q.c) @ q.A.T) / q.s.exp()).detach()
    for z in (noise, found.reference.detach()):  # which are as normal as 4000 draws can tell
        assert all(stats.kstest(unit.numpy(), "norm").pvalue > 1e-3 for unit in z.T)
    assert abs(float(torch.corrcoef(torch.stack([noise[:, 0], found.reference[:, 0].detach()]))[0, 1])) < 4 / 4000**0.5


def test_what_the_factor_vae_plays():
    pair, played = game(FactorVAE, weight=2.5)
    x = data()
    found = seeded(played.play, {"x": x})
    elbo = -seeded(AnalyticKL().differentiable_loss, *pair, x=x)
    torch.testing.assert_close(found.loss, -elbo + 2.5 * played.discriminator(found.drawn).sum())
    torch.testing.assert_close(found.reference.sort(0).values, found.drawn.detach().sort(0).values)
    assert not torch.equal(found.reference, found.drawn)
    assert not found.reference.requires_grad


def test_what_the_vae_gan_plays():
    """Images at codes of the data, then at codes of the prior; the first are compared by their features."""
    pair, played = game(VAEGAN, weight=2.5, scale=0.6)
    n, x = 4000, data(4000)
    found = seeded(played.play, {"x": x})
    ours, dreamt = found.drawn[:n], found.drawn[n:]
    assert found.reference is x
    told, seen = played.discriminator.features(ours), played.discriminator.features(x)
    log_p = dist.Normal(told, 0.6).to_event(1).log_prob(seen).sum()
    fooled = softplus(played.discriminator(found.drawn)).sum()
    kl = gaussian.kl(pair.model, pair.guide, x).sum()
    torch.testing.assert_close(found.loss, -log_p + kl + 2.5 * fooled)
    # E[x | z] = W z + b, z of the guide and of the prior
    codes, fresh = (((images - pair.model.b) @ torch.linalg.pinv(pair.model.W).T).detach() for images in (ours, dreamt))
    q = pair.guide
    for z in ((codes - (x - q.c) @ q.A.T) / q.s.exp(), fresh):
        assert all(stats.kstest(unit.detach().numpy(), "norm").pvalue > 1e-3 for unit in z.T)


def test_weights_that_all_data_share_are_drawn_once_for_a_step():
    """Features are of the images that the discriminator is shown; what weights cost counts once for all data."""
    torch.manual_seed(0)
    likelihood = partial(pv.likelihoods.Normal, scale=0.3)
    pair = (
        pv.vae(6, latent=2, hidden=(8,), likelihood=likelihood, decoder=pv.nets.VariationalMLP).double().eval()
    )  # no flips
    x, smooth = torch.rand(20, 6).double(), Smooth(6)
    played = VAEGAN(*pair.trained(pv.infer.minibatch(100)), SGD, smooth, weight=2.0, scale=0.5)
    found = seeded(played.play, {"x": x})
    images = found.drawn
    log_p = dist.Normal(smooth.features(images[:20]), 0.5).to_event(1).log_prob(smooth.features(x)).sum()
    prior = dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)
    kl = torch.distributions.kl_divergence(pair.encode(x=x)["z"], prior).sum()
    shared = sum(pv.infer.shared_kl(pair).values()) * 20 / 100
    assert shared > 0.1
    fooled = softplus(smooth(images)).sum()
    torch.testing.assert_close(found.loss, -log_p + kl + shared + 2 * fooled, check_dtype=False)
    run = pv.fit(
        pv.aae(6, hidden=(8,), decoder=pv.nets.VariationalMLP), torch.rand(20, 6).round(), epochs=1, progress=False
    )
    assert run.history["shared_kl"][0] > 0


# ---------------------------------------------------------------------- which step moves what


@pytest.mark.parametrize("kind", [AAE, FactorVAE, VAEGAN])
def test_gradients_of_the_pair_are_those_of_differences(kind):
    """With the discriminator held where it is; the term of the images, which moves the decoder alone, left out else."""
    pair, played = game(kind)
    x, n = data(), 8
    seeded(played.gradients, x=x)
    found = {name: p.grad for name, p in pair.named_parameters()}
    for part in ("model", "guide"):
        names = [name for name, p in pair.named_parameters() if name.startswith(part)]
        parameters = [pair.get_parameter(name) for name in names]
        played.weight = 0.0 if kind is VAEGAN and part == "guide" else 3.0
        for _ in range(3):
            direction, ends = [torch.randn_like(p) for p in parameters], []
            for step in (1e-5, -2e-5):
                with torch.no_grad():
                    torch._foreach_add_(parameters, direction, alpha=step)
                ends.append(seeded(played.play, {"x": x}).loss.item() / n)
            with torch.no_grad():
                torch._foreach_add_(parameters, direction, alpha=1e-5)
            slope = sum(float((found[k] * d).sum()) for k, d in zip(names, direction, strict=True))
            assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)
    assert all(p.grad is None for p in played.discriminator.parameters())
    assert all(p.requires_grad for p in played.discriminator.parameters())


@pytest.mark.parametrize("prior", ["StandardNormal", "Normal", "Flow"])
def test_the_images_move_the_decoder_alone(prior):
    chosen = partial(pv.priors.Flow, transforms=1, hidden=(8,)) if prior == "Flow" else getattr(pv.priors, prior)
    pair = pv.vae(SHAPE, latent=2, likelihood=pv.likelihoods.Normal, prior=chosen, hidden=(8,))
    discriminator, found = Discriminator(SHAPE), []
    for weight in (0.0, 4.0):
        seeded(VAEGAN(*pair, SGD, discriminator, weight=weight).gradients, x=X[:32])
        found.append({name: p.grad.clone() for name, p in pair.named_parameters()})
    moved = {name for name in found[0] if not torch.equal(found[0][name], found[1][name])}
    assert moved == {name for name in found[0] if "decoder" in name}


@pytest.mark.parametrize("penalty", [0.0, 0.7])
@pytest.mark.parametrize("kind", [AAE, FactorVAE, VAEGAN])
def test_a_step_moves_the_pair_and_then_the_discriminator_on_what_was_played(kind, penalty):
    pair, played = game(kind, penalty=penalty, discriminator_optim=partial(torch.optim.SGD, lr=0.1))
    x, n = data(), 8
    before = copy.deepcopy(played.discriminator)
    parameters = list(pair.parameters())
    round_ = seeded(played.play, {"x": x})
    slopes = torch.autograd.grad(round_.loss / n, parameters)
    wanted = [p.detach() - 1e-3 * g for p, g in zip(parameters, slopes, strict=True)]
    assert seeded(played.step, x=x) == pytest.approx(round_.loss.item(), rel=1e-12)
    torch.testing.assert_close([p.detach() for p in parameters], wanted)
    sides = [round_.drawn.detach().requires_grad_(), round_.reference.detach().clone().requires_grad_()]
    ours, theirs = (before(side)[:, 0] for side in sides)
    loss = -torch.sigmoid(ours).log().mean() - torch.sigmoid(-theirs).log().mean()
    steep = torch.autograd.grad(ours.sum() + theirs.sum(), sides, create_graph=True)
    loss = loss + penalty / 2 * torch.cat(steep).square().sum(1).mean()
    slopes = torch.autograd.grad(loss, list(before.parameters()))
    wanted = [p.detach() - 0.1 * g for p, g in zip(before.parameters(), slopes, strict=True)]
    torch.testing.assert_close([p.detach() for p in played.discriminator.parameters()], wanted)
    right = (float((ours > 0).double().mean()) + float((theirs < 0).double().mean())) / 2
    assert played.figures()["discriminator"] == pytest.approx(right)
    assert math.isnan(played.figures()["discriminator"])  # since it was last asked


def test_clip_limits_the_pair_alone():
    found = []
    for clip in (None, 1e-3):
        pair, played = game(AAE, clip=clip)
        seeded(played.step, x=data())
        found.append((values(played.discriminator), torch.cat([p.grad.flatten() for p in pair.parameters()]).norm()))
    assert_same(found[0][0], found[1][0])
    assert float(found[1][1]) == pytest.approx(1e-3, rel=1e-3)
    assert float(found[0][1]) > 1e-2


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_loss_that_is_not_finite_moves_neither():
    pair, played = game(AAE)
    before = values(pair), values(played.discriminator)
    with pyro.validation_enabled(False), pytest.raises(FloatingPointError):
        played.step(x=data().fill_(torch.nan))
    assert_same((values(pair), values(played.discriminator)), before)


def test_several_sites_side_by_side():
    pair = pv.hvae(SHAPE, latents=(2, 3), hidden=(8,))
    played = AAE(*pair, SGD)
    played.step(x=X[:16])
    assert played.discriminator.features[1].in_features == 5
    with pytest.raises(ValueError, match=r"temper: the sites \['z1', 'z2'\] have one KL; expected one weight, found"):
        AAE(*pair.trained(temper({"z1": 1.0, "z2": 0.5})), SGD).step(x=X[:16])


# ---------------------------------------------------------------------- evaluation


def everything(played, pair):
    """All that a step would move."""
    share = played._right, played._asked
    return copy.deepcopy((played.state_dict(), values(pair), played.discriminator.training, pair.training, share))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [AAE, FactorVAE, VAEGAN])
def test_evaluating_moves_nothing(kind, training):
    pair, _ = game(kind)
    width = gaussian.DATA if kind is VAEGAN else gaussian.LATENT
    running = Smooth(width, nn.BatchNorm1d(6), nn.Dropout(0.5))
    played = kind(*pair, partial(torch.optim.Adam, lr=1e-2), running, weight=3.0)
    for _ in range(3):
        played.step(x=data())
    running.train(training)
    before = everything(played, pair)
    found = [seeded(played.evaluate_loss, x=data()) for _ in range(2)]
    assert_same(everything(played, pair), before)
    assert found[0] == found[1]
    running.eval()
    assert found[0] == seeded(played.play, {"x": data()}).loss.item()


# ---------------------------------------------------------------------- what is said of a game


def play_on(programs, steps, lr=0.01, discriminator=None):
    played = AAE(*programs, SGD, discriminator or Quadratic(), discriminator_lr=lr, penalty=0.0)
    for _ in range(steps):
        played.step(x=torch.zeros(200, 2).double())
    return played


@pytest.mark.parametrize(
    ("loc", "lr", "words", "net"),
    [
        (1.0, 0.01, "has been at chance from the start, and teaches the pair nothing", Blind),
        (0.0, 0.01, None, Blind),  # the samples are alike
        (12.0, 0.3, "is always right, so that the pair learns little from it", Quadratic),
        (1.0, 0.01, None, Quadratic),  # right of two draws in three
    ],
)
def test_a_game_that_teaches_nothing_is_warned_of_once(loc, lr, words, net, caplog):
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        played = play_on(world(loc), OPENING - 1, lr, net())
        assert not caplog.records
        for _ in range(OPENING + 2):
            played.step(x=torch.zeros(200, 2).double())
    assert [words in record.getMessage() for record in caplog.records] == [True] * (words is not None)
    if words:
        (record,) = caplog.records
        assert re.match(rf"AAE: after ({OPENING}|{2 * OPENING}) steps the discriminator", record.getMessage())


def test_a_game_that_the_pair_has_won_is_none_to_warn_of(caplog):
    """At chance in the end, as it should be."""
    loc = torch.tensor([2.0, 0.0]).double()
    programs = world(loc)
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        played = play_on(programs, OPENING // 2)
        loc.zero_()  # from now on the codes are those of the prior
        for _ in range(2 * OPENING):
            played.step(x=torch.zeros(200, 2).double())
    assert float(played._recent) < 0.55
    assert not caplog.records


# ---------------------------------------------------------------------- fit


class Spied(AAE):
    """Tells the test which game was played, and under which weights of the KL."""

    def __init__(self, *args, into, **kwargs):
        super().__init__(*args, **kwargs)
        self._weights = []
        into.append(self)

    def draws(self, batch):
        found = super().draws(batch)
        self._weights.append(float(next(iter(found.sites.values()))["scale"]))
        return found


def spied(pair, **options):
    """The game that fit plays, and the run."""
    games = []
    settings = {k: options.pop(k) for k in ("discriminator_lr", "discriminator_optim") if k in options}
    options = {"epochs": 2, "batch_size": 64, "progress": False} | options
    run = pv.fit(pair, X, objective=partial(Spied, into=games, weight=5.0, **settings), **options)
    (played,) = games
    return played, run


def paces(played):
    return [group["lr"] for optimizer in (played.optimizer, played.opponent) for group in optimizer.param_groups]


def small(**options):
    torch.manual_seed(0)
    return pv.aae(SHAPE, **{"hidden": (16,)} | options)


def test_two_paces():
    played, _ = spied(small(), lr=2e-3, discriminator_lr=5e-4)
    assert paces(played) == [2e-3, 5e-4]
    assert played.optimizer.param_groups[0]["betas"] == AAE.betas
    with_its_own, _ = spied(small(), lr=2e-3, discriminator_optim=partial(torch.optim.SGD, lr=0.01, momentum=0.5))
    assert paces(with_its_own) == [2e-3, 0.01]
    assert isinstance(with_its_own.opponent, torch.optim.SGD)


def test_a_schedule_moves_both_paces():
    options = {"lr": 2e-3, "discriminator_lr": 5e-4, "epochs": 4}
    played, run = spied(small(), lr_schedule=partial(MultiStepLR, milestones=[1, 3], gamma=0.1), **options)
    assert paces(played) == pytest.approx([2e-5, 5e-6])
    assert run.history["lr"] == pytest.approx([2e-3, 2e-4, 2e-4, 2e-5])
    played, _ = spied(small(), lr_schedule=partial(ReduceLROnPlateau, threshold=1e9, patience=0, factor=0.5), **options)
    assert paces(played) == pytest.approx([2e-3 / 16, 5e-4 / 8])  # of the last step, after which one more was taken


def test_a_warm_up_weighs_the_kl_of_the_codes():
    played, run = spied(small(), temper=WarmUp(epochs=2), epochs=3)
    weights = [w for w in played._weights if w > 0]
    assert weights[-12:] == pytest.approx([*(i / 8 for i in range(1, 9)), 1, 1, 1, 1])
    assert run.history["weight"] == pytest.approx([0.5, 1, 1])


def test_the_history_tells_the_share_of_right_answers():
    played, run = spied(small(), epochs=1, batch_size=256, discriminator_optim=partial(torch.optim.SGD, lr=1e-9))
    (share,) = run.history["discriminator"]
    assert 0 <= share <= 1
    # of the one step; a discriminator that hardly moves says the same of other draws, within their error
    found = seeded(played.play, {"x": X})
    again = (
        float((played.discriminator(found.drawn) > 0).float().mean())
        + float((played.discriminator(found.reference) < 0).float().mean())
    ) / 2
    assert share == pytest.approx(again, abs=0.15)
    assert "discriminator" not in pv.fit(pv.vae(SHAPE, latent=2), X, epochs=1, progress=False).history


def test_the_pair_brings_its_game_and_its_discriminator():
    for make, kind in ((pv.aae, AAE), (pv.vae_gan, VAEGAN)):
        pair = make(SHAPE, hidden=(16,))
        before = [p.detach().clone() for p in pair.discriminator.parameters()]
        run = pv.fit(pair, X, epochs=1, progress=False)
        assert "discriminator" in run.history
        assert pair.stepper.func is kind
        assert not any(torch.equal(a, b) for a, b in zip(before, pair.discriminator.parameters(), strict=True))
        # under any other objective it is left alone
        before = values(pair.discriminator)
        run = pv.fit(pair, X, epochs=1, objective=AnalyticKL(), progress=False)
        assert "discriminator" not in run.history
        assert_same(values(pair.discriminator), before)


def test_an_aae_learns_its_prior():
    """Codes in a ring of four: far from the prior at first, and much nearer in the end."""
    pair = small(prior=partial(pv.priors.Ring, components=4), weight=10.0)
    mmd = pv.infer.MMD(1.0, scale=3.0)

    def apart():
        draws = seeded(mmd.draws, *pair, x=X)
        return mmd.penalty(draws).item()

    before = apart()
    run = pv.fit(pair, X, epochs=60, batch_size=64, lr=3e-3, progress=False)
    assert apart() < 0.35 * before
    assert run.history["reconstruction"][-1] > run.history["reconstruction"][0] + 5


def test_validation_is_told_of_and_judges_nothing():
    pair = small()
    run = pv.fit(pair, X, validation=X[:64], epochs=3, progress=False)
    assert len(run.history["validation_elbo"]) == run.best_epoch == 3
    with pytest.raises(ValueError, match=r"patience: needs .* a training that makes their ELBO better"):
        pv.fit(pair, X, validation=X[:64], epochs=3, patience=2, progress=False)


# ---------------------------------------------------------------------- saved, copied, gone on with


def labels(few=40):
    return torch.where(torch.arange(len(X)) < few, torch.arange(len(X)) % 4, -1)


PAIRS = {
    "aae": (small, None),
    "points on a roll": (partial(small, prior=pv.priors.SwissRoll, posterior=pv.posteriors.Delta), None),
    "labels": (partial(small, classes=4), None),
    "vae_gan": (partial(pv.vae_gan, SHAPE, latent=3, hidden=(16,)), None),
    "factors": (partial(pv.vae, SHAPE, latent=3, hidden=(16,)), partial(FactorVAE, weight=6.0)),
    "another game": (partial(pv.vae, SHAPE, latent=3, hidden=(16,)), partial(VAEGAN, weight=2.0)),
}


def go(folder, epochs, name, **options):
    make, objective = PAIRS[name]
    torch.manual_seed(0)
    pair = make()
    batch = {"x": X, "c": labels()} if name == "labels" else X
    settings = {"temper": WarmUp(epochs=1), "lr_schedule": partial(CosineAnnealingLR, T_max=6), "clip": 5.0}
    settings |= {"objective": objective, "batch_size": 64, "progress": False, "out": folder, "resume": True}
    return pair, pv.fit(pair, batch, epochs=epochs, **settings | options)


@pytest.mark.parametrize("name", PAIRS)
def test_an_interrupted_run_goes_on_bit_by_bit(name, tmp_path):
    go(tmp_path / "whole", 4, name)
    for epochs in (1, 3, 4):
        go(tmp_path / "parts", epochs, name)
    whole = state(tmp_path / "whole")
    assert_same(state(tmp_path / "parts"), whole)
    assert whole["stepper"]["score"]["taken"] == 16 if name != "labels" else whole["stepper"]["score"]["taken"] >= 16
    assert {"optimizer", "opponent", "discriminator"} <= set(whole["stepper"])
    assert whole["stepper"]["opponent"]["state"]


def test_a_run_of_another_game_is_not_resumed(tmp_path):
    go(tmp_path, 1, "factors")
    with pytest.raises(ValueError, match=r"resume: stepper: the run in .* has FactorVAE\(.*found FactorVAE.*weight=5"):
        go(tmp_path, 2, "factors", objective=partial(FactorVAE, weight=5.0))
    with pytest.raises(ValueError, match=r"resume: objective: the run in .* has AggregateELBO\(.*found AnalyticKL"):
        go(tmp_path, 2, "factors", objective=AnalyticKL())


def test_the_discriminator_is_saved_moved_and_copied_with_the_pair(tmp_path):
    for i, name in enumerate(("aae", "labels", "vae_gan")):
        pair, _ = go(None, 1, name, resume=False)
        for again in (pv.load(pair.save(tmp_path / str(i))), copy.deepcopy(pair), copy.deepcopy(pair).double().float()):
            assert_same(values(again.discriminator), values(pair.discriminator))
        before = values(pair.discriminator)
        go_on = copy.deepcopy(pair)
        pv.fit(go_on, X if name != "labels" else {"x": X, "c": labels()}, epochs=1, progress=False)
        assert_same(values(pair.discriminator), before)
        assert not any(torch.equal(a, before[k]) for k, a in go_on.discriminator.named_parameters())


def test_a_game_goes_on_from_its_state():
    """Also where its discriminator is only built when the first batch comes by."""
    pair = pv.vae(SHAPE, latent=3, hidden=(16,))
    first = FactorVAE(*pair, partial(torch.optim.Adam, lr=1e-2), weight=4.0)
    for seed in range(3):
        seeded(first.step, x=X[:64], seed=seed)
    other = copy.deepcopy(pair)
    second = FactorVAE(*other, partial(torch.optim.Adam, lr=1e-2), weight=4.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.evaluate_loss(x=X[:64])
    for seed in range(3, 6):
        assert seeded(first.step, x=X[:64], seed=seed) == seeded(second.step, x=X[:64], seed=seed)
    assert_same(first.state_dict(), second.state_dict())
    assert_same(values(pair), values(other))


# ---------------------------------------------------------------------- labels


def test_each_part_of_a_batch_is_shown_with_what_is_known_of_it():
    prior = partial(pv.priors.Ring, components=4, scale=0.01)
    pair = small(classes=4, prior=prior, classification=0.0)
    shown = Watched(Discriminator(6))
    played = AAE(*pair, SGD, shown, weight=2.0)
    c = torch.arange(4).repeat(5)
    parts = [(1.0, {"x": X[:20], "c": c}), (0.25, {"x": X[20:50]})]
    parameters = [p for p in pair.parameters() if p.requires_grad]
    torch.manual_seed(5)
    loss = sum(weight * played.play(batch).loss for weight, batch in parts)
    slopes = torch.autograd.grad(loss / (20 + 0.25 * 30), parameters, allow_unused=True)
    wanted = [p.detach() - (0 if g is None else 1e-3 * g) for p, g in zip(parameters, slopes, strict=True)]
    shown.seen.clear()
    assert seeded(played.step_together, parts) == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close([p.detach() for p in parameters], wanted)
    labelled, unlabelled, all_ = shown.seen
    assert torch.equal(labelled[:, 2:], one_hot(c, 4).float())
    assert torch.equal(unlabelled[:, 2:], torch.zeros(30, 4))
    drawn, reference = all_.split(50)
    assert torch.equal(drawn, torch.cat([labelled, unlabelled]))
    assert torch.equal(reference[:, 2:], drawn[:, 2:])
    # a label's codes are from its own mode, the others from all
    modes = pair.model.prior.means
    torch.testing.assert_close(reference[:20, :2], modes[c], atol=0.06, rtol=0)
    nearest = torch.cdist(reference[20:, :2], modes).argmin(1)
    assert len(nearest.unique()) == 4


def test_labels_teach_the_guess_of_the_class():
    """The classification loss is -weight log q(c | z), of a labelled datum."""
    c, found = torch.arange(32) % 4, {}
    pair = small(classes=4, classification=2.5)
    for weight in (0.0, 2.5):
        pair.guide.weight = weight
        found[weight] = seeded(AAE(*pair, SGD, pair.discriminator).play, {"x": X[:32], "c": c})
    log_q = pair.guide.classifier(found[2.5].drawn[:, :2]).log_prob(c).sum()
    torch.testing.assert_close(found[2.5].loss, found[0.0].loss - 2.5 * log_q)


def test_labels_that_are_missing_are_minus_one():
    pair = small(classes=4)
    run = pv.fit(pair, {"x": X, "c": labels()}, epochs=2, progress=False)
    assert all(map(math.isfinite, run.history["objective"]))
    assert pv.evaluate(pair, {"x": X, "c": labels(few=256)}, particles=2).labelled == 256
    assert pair.classify(x=X).shape == (256, 4)
    assert pair.sample(6, c=2).shape == (6, *SHAPE)
    with pytest.raises(ValueError, match="train: c: no datum has a label; expected some, or a pair without classes"):
        pv.fit(pair, X, epochs=1, progress=False)


# ---------------------------------------------------------------------- features in place of data


def observing(x=None, n=1):
    with pyro.plate("data", n if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z.tanh(), 0.3).to_event(1), obs=x)


def test_features_are_scored_in_place_of_data():
    x = torch.randn(5, 2).double()
    with perceived(torch.exp, scale=0.7):
        trace = poutine.trace(observing).get_trace(x=x)
    assert trace.observation_nodes == ["features of x"]
    assert "x" not in trace.nodes
    site = trace.nodes["features of x"]
    assert torch.equal(site["value"], x.exp())
    trace.compute_log_prob()
    wanted = stats.norm.logpdf(x.exp(), trace.nodes["z"]["value"].tanh().exp(), 0.7).sum(-1)
    torch.testing.assert_close(site["log_prob"], torch.tensor(wanted))
    as_handler = poutine.trace(perceived(torch.exp, scale=0.7)(observing)).get_trace(x=x)
    assert as_handler.observation_nodes == ["features of x"]
    assert poutine.trace(observing).get_trace(x=x).observation_nodes == ["x"]  # outside all is as it was


def test_features_carry_gradients_to_the_mean_and_none_to_the_data():
    b, x = torch.zeros(2).double().requires_grad_(), torch.randn(5, 2).double().requires_grad_()

    def model():
        pyro.sample("x", dist.Normal(b, 1.0).expand([5, 2]).to_event(2), obs=x)

    with perceived(torch.sin):
        trace = poutine.trace(model).get_trace()
    loss = trace.log_prob_sum()
    assert torch.autograd.grad(loss, [x], retain_graph=True, allow_unused=True) == (None,)
    (slope,) = torch.autograd.grad(loss, b)
    torch.testing.assert_close(slope, x.detach().sin().sum(0))  # d/db -(sin x - sin b)^2 / 2 at b = 0


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: perceived(torch.sin)(observing)(n=3), "perceived: the model observes no site 'x'"),
        (lambda: perceived(torch.sin, site="y")(observing)(x=torch.zeros(3, 2)), "the model observes no site 'y'"),
        (
            lambda: perceived(torch.sin)(observing)(x=torch.full((3, 2), torch.nan)),
            "x: holds NaN; features are of whole",
        ),
        (lambda: perceived(torch.sin, scale=0.0), "scale: expected"),
    ],
)
def test_what_has_no_features_is_refused(run, words):
    with pyro.validation_enabled(), pytest.raises(ValueError, match=words):
        run()


def test_hidden_entries_have_no_features():
    pair = pv.vae_gan(SHAPE, hidden=(16,))
    there = torch.rand(X.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    holed = X.masked_fill(~there, torch.nan)
    with pv.infer.observed(x=torch.isfinite), pytest.raises(ValueError, match="x: holds NaN; features are of whole"):
        pv.fit(pair, holed, epochs=1, progress=False)


def test_an_error_of_the_model_is_not_hidden_by_that_of_a_missing_site():
    def broken():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        perceived(torch.sin)(broken)()


# ---------------------------------------------------------------------- bad input


def vae(**options):
    return pv.vae(SHAPE, latent=2, hidden=(8,), **options)


class Broken:
    def sample(self, n):
        raise RuntimeError("out of sand")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: small(prior=Broken()), "prior: cannot be sampled: out of sand"),
        (lambda: small(latent=3, prior=pv.priors.Ring), "latent: expected 2 dimensions for a shape in the plane"),
        (
            lambda: small(classes=6, prior=partial(pv.priors.Ring, components=5)),
            "prior: cannot be sampled under each of 6 classes",
        ),
        (
            lambda: small(classes=6, prior=partial(pv.priors.SwissRoll, classes=5)),
            "prior: cannot be sampled under each of 6 classes",
        ),
        (lambda: small(discriminator=nn.Linear(3, 1)), r"discriminator: fails on an input of shape \(2, 2\)"),
        (lambda: small(discriminator=nn.Linear(2, 2)), r"discriminator: expected \(batch, 1\)"),
        (
            lambda: small(classes=4, discriminator=nn.Linear(2, 1)),
            r"discriminator: fails on an input of shape \(2, 6\)",
        ),
        (lambda: small(classes=4, classification=-1.0), "classification: expected"),
        (lambda: small(classifier=nn.Linear(2, 3)), "classifier.*: expected with classes=..., found no classes"),
        (lambda: pv.vae_gan(SHAPE, discriminator=pv.nets.MLP(SHAPE, 1)), "discriminator: expected a method `features`"),
        (lambda: VAEGAN(*vae(), SGD, pv.nets.MLP(SHAPE, 1)), "discriminator: expected a method `features`"),
        (lambda: VAEGAN(*vae(), SGD, site="y").step(x=X[:4]), r"site: expected one of the batch, \['x'\], found 'y'"),
        (lambda: VAEGAN(*vae(), SGD, scale=0.0), "scale: expected"),
        (
            lambda: AAE(*vae(), SGD, nn.Linear(3, 1)).step(x=X[:4]),
            r"AAE: discriminator: cannot read samples of shape \(4",
        ),
        (lambda: AAE(*vae(), SGD, nn.Linear(2, 2)).step(x=X[:4]), r"AAE: discriminator: expected \(4, 1\) for as many"),
        (lambda: AAE(*vae(), SGD, weight=-1.0), "weight: expected"),
        (lambda: AAE(*vae(), SGD, penalty=-1.0), "penalty: expected"),
        (lambda: AAE(*vae(), SGD, discriminator_lr=0.0), "discriminator_lr: expected"),
        (lambda: FactorVAE(*vae(), SGD, weight=-1.0), "weight: expected"),
        (lambda: AAE(*vae(), SGD).state_dict(), "AAE: nothing was played yet; take a step, or pass a discriminator"),
        (
            lambda: AAE(*vae(), SGD).load_state_dict({"state": 1}),
            r"state: expected that of a game, found one of \['state'",
        ),
        (lambda: pv.fit(small(weight=-1.0), X, epochs=1, progress=False), "weight: expected"),
        (lambda: Discriminator(SHAPE, hidden=(8, 8, 8, 8)), "hidden: 4 stages leave nothing of an image of 8 x 8"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_prior_that_gives_no_distribution_is_refused():
    with pytest.raises((TypeError, ValueError), match="prior: expected a callable that returns a distribution, found"):
        small(prior=lambda: 3)


def test_a_discriminator_is_a_module():
    with pytest.raises(TypeError, match="discriminator: expected a Module, found int"):
        AAE(*vae(), SGD, 3)


def test_draws_without_gradients_are_refused():
    pair = pv.discrete_vae(SHAPE, codes=2, categories=3, estimator="score")
    for kind in (AAE, partial(FactorVAE, weight=1.0), VAEGAN):
        with pytest.raises(ValueError, match="'z' has no reparameterised gradient"):
            kind(pair.model, pair.guide, SGD).step(x=X[:4])


def test_a_pair_that_stands_still_may_be_played_against():
    played = AAE(*world(1.0), partial(torch.optim.SGD, lr=0.0), Quadratic(), discriminator_lr=0.1)
    played.step(x=torch.zeros(20, 2).double())
    assert played.discriminator.w.abs().sum() > 0


def test_the_elbo_of_a_game_is_no_svi_of_anothers():
    with pytest.raises(ValueError, match="this SVI trains another pair"):
        pv.fit(small(), X, objective=AAE(*vae(), SGD), epochs=1, progress=False)
    assert issubclass(AAE, SVI)
