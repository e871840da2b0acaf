"""Codebooks, maps of codes and their prior, classes that nobody tells, which codes are used, and bad input."""

import copy
import itertools
import json
import math
import pickle
from functools import partial
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from test_resume import assert_same, state
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torch.utils.data import Dataset

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.distributions import AutoregressiveCodes
from pyro_vae.evaluation.usage import clustering
from pyro_vae.infer import AnalyticKL
from pyro_vae.infer.usage import Usage
from pyro_vae.nets import Codebook, PixelCNN, Strided

SHAPE = (1, 8, 8)
ESTIMATORS = ("enumerate", "relaxed", "score", "straight-through")
ERRORS = 4.5  # standard errors that a mean may be away


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    yield
    plt.close("all")


def hot(k, categories):
    return one_hot(torch.as_tensor(k), categories).double()


def digits(n=60, part="test"):
    return pv.data.load("digits", part, binarise="threshold").x[:n]


# ---------------------------------------------------------------------- the codebook


def book(entries=16, width=4, size=(2, 3), **options):
    return Codebook(entries, width, size, **options).double()


def places(h):
    """The vectors of a batch of maps, one below the other."""
    return h.flatten(2).transpose(1, 2).reshape(-1, h.shape[1])


SIZES = [(16, 4, (2, 3)), (5, 5, (1, 1)), (3, 8, (2, 2)), (2, 1, (1, 4)), (40, 6, (3, 2)), (2, 7, (4, 1))]


@pytest.mark.parametrize(("entries", "width", "size"), SIZES)
def test_codes_are_the_numbers_of_the_nearest_entries(entries, width, size):
    codebook = book(entries, width, size).eval()
    h = torch.randn(5, width, *size).double()
    z = codebook.nearest(h)
    assert z.shape == (5, math.prod(size), entries)
    for n, row, column in itertools.product(range(5), *map(range, size)):
        distances = (codebook.vectors - h[n, :, row, column]).square().sum(1)
        k = int(distances.argmin())
        assert torch.equal(z[n, row * size[1] + column], hot(k, entries))
        torch.testing.assert_close(codebook(z)[n, :, row, column], codebook.vectors[k])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("entries", "width", "size"), SIZES)
def test_gradients_pass_straight_through_as_far_as_entries_reach(entries, width, size, training):
    """e + h - stop(h): d loss / d h = d loss / d e, of fewer entries than dimensions its projection onto their span"""
    codebook = book(entries, width, size).train(training)
    h = torch.randn(5, width, *size).double().requires_grad_()
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(width * math.prod(size), 3)).double()
    e = codebook(codebook.nearest(h))
    (found,) = torch.autograd.grad(decoder(e).sum(), h, retain_graph=True)
    by_hand = e.detach() + h - h.detach()
    (wanted,) = torch.autograd.grad(decoder(by_hand).sum(), h)
    _, values, directions = torch.linalg.svd(codebook.vectors, full_matrices=False)
    span = directions[values > 1e-3 * values.max()]
    wanted = torch.einsum("nchw,kc,kd->ndhw", wanted, span, span)
    torch.testing.assert_close(found, wanted)
    if entries >= width and not training:  # in training fewer may be left, as entries meet on the data
        torch.testing.assert_close(wanted, torch.autograd.grad(decoder(by_hand).sum(), h)[0])


def test_gradients_pass_along_a_line_where_all_entries_lie_on_it():
    codebook = book(6, 3, (1, 2)).eval()
    line = torch.tensor([0.6, 0.0, 0.8]).double()
    codebook.vectors.copy_(torch.randn(6, 1).double() * line)
    h = torch.randn(4, 3, 1, 2).double().requires_grad_()
    weights = torch.randn(4, 3, 1, 2).double()
    (found,) = torch.autograd.grad((codebook(codebook.nearest(h)) * weights).sum(), h)
    torch.testing.assert_close(found, torch.einsum("nchw,c,d->ndhw", weights, line, line))


def settled(codebook, decay):
    """A codebook in the midst of training, none of whose entries are near death."""
    codebook.decay = decay
    codebook.counts.copy_(100.0 + torch.rand(len(codebook.counts)))
    return codebook


@pytest.mark.parametrize("decay", [0.99, 0.5])
def test_entries_follow_what_they_stand_for_as_a_moving_average(decay):
    """n <- d n + (1 - d) #;   n e <- d n e + (1 - d) sum of h to which it is the nearest; over three steps"""
    codebook = settled(book(8, 3), decay)
    vectors, counts = codebook.vectors.clone().numpy(), codebook.counts.clone().numpy()
    for _ in range(3):
        h = torch.randn(7, 3, 2, 3).double()
        rows = places(h).numpy()
        nearest = ((rows[:, None] - vectors) ** 2).sum(-1).argmin(1)
        codebook.nearest(h)
        for k in range(8):
            mine = rows[nearest == k]
            total = decay * counts[k] * vectors[k] + (1 - decay) * mine.sum(0)
            counts[k] = decay * counts[k] + (1 - decay) * len(mine)
            vectors[k] = total / counts[k]
        np.testing.assert_allclose(codebook.counts.numpy(), counts)
        np.testing.assert_allclose(codebook.vectors.numpy(), vectors)


def on_data(codebook, h):
    """Which entries stand where some vector of a batch is."""
    return (codebook.vectors[:, None] == places(h)).all(-1).any(1)


def test_the_dead_are_put_on_data_and_the_living_are_not():
    codebook = settled(book(8, 3), 0.99)
    codebook.vectors[[2, 5]] += 1000.0
    codebook.counts[[2, 5]] = 0.01
    h = torch.randn(7, 3, 2, 3).double()
    codebook.nearest(h)
    assert on_data(codebook, h).tolist() == [k in (2, 5) for k in range(8)]
    assert codebook.counts[[2, 5]].tolist() == [7 * 6 / 8] * 2  # an even share, so that they live on for a while
    codebook.nearest(torch.randn(7, 3, 2, 3).double())
    assert (codebook.counts > 0.03 * 7 * 6 / 8).all()


def test_the_first_step_puts_entries_on_data():
    """Wherever they begin: those near nothing on a vector, one that stands for nearly all on their mean."""
    codebook, h = book(8, 3), torch.randn(7, 3, 2, 3).double()
    codebook.nearest(h)
    assert on_data(codebook, h).all()
    codebook, h = book(8, 3), 50 + 1e-3 * torch.randn(7, 3, 2, 3).double()
    codebook.nearest(h)
    assert (codebook.vectors - 50).abs().max() < 0.01
    assert on_data(codebook, h).sum() >= 7


def test_at_rest_nothing_moves():
    codebook = book().eval()
    before = copy.deepcopy(codebook.state_dict())
    codebook.nearest(torch.randn(5, 4, 2, 3).double())
    assert_same(codebook.state_dict(), before)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Codebook(0, 3, (2, 2)), "^codebook: expected a whole number of at least 1, found 0"),
        (lambda: Codebook(1, 3, (2, 2)), "^codebook: expected at least 2"),
        (lambda: Codebook(4, 0, (2, 2)), "^width: expected a whole number"),
        (lambda: Codebook(4, 3, ()), "^size: expected a shape"),
        (lambda: Codebook(4, 3, (2, 0)), r"^size\[1\]: expected a whole number"),
        (lambda: Codebook(4, 3, (2, 2), decay=1.0), r"^decay: expected a number in \[0, 1\), found 1"),
        (lambda: Codebook(4, 3, (2, 2), decay=-0.1), "^decay: expected a finite number of at least 0"),
        (lambda: PixelCNN(0), "^channels: expected a whole number"),
        (lambda: PixelCNN(2, hidden=0), "^hidden: expected a whole number"),
        (lambda: PixelCNN(2, layers=0), "^layers: expected a whole number"),
        (
            lambda: Strided((1, 8, 8), (3, 5, 5), hidden=(4,)),
            "^Strided: expected an image and a map of its size halved .*1, 8, 8.* -> .*3, 5, 5",
        ),
        (lambda: Strided((8,), (3, 4, 4), hidden=(4,)), "^Strided: expected an image and a map"),
    ],
)
def test_parts_of_a_map_tell_of_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# ---------------------------------------------------------------------- a prior that goes from place to place


def seen(net, shape, draws=3):
    """Which places each place of a map sees: a gradient at one input at least, (places, places)."""
    size = shape[1:]
    found = torch.zeros(math.prod(size), math.prod(size), dtype=torch.bool)
    for _ in range(draws):
        x = torch.randn(1, *shape).double().requires_grad_()
        y = net(x)
        assert y.shape == x.shape
        for i in range(len(found)):
            (slope,) = torch.autograd.grad(y.flatten(2)[0, :, i].sum(), x, retain_graph=True)
            found[i] |= slope[0].abs().sum(0).flatten() > 0
    return found


@pytest.mark.parametrize(
    ("shape", "layers"),
    [((1, 1, 1), 1), ((2, 2, 2), 2), ((3, 4, 4), 4), ((2, 3, 5), 5), ((2, 5, 3), 5), ((1, 1, 6), 5), ((1, 6, 1), 6)],
)
def test_a_place_sees_all_before_it_in_the_order_of_reading_and_nothing_else(shape, layers):
    found = seen(PixelCNN(shape[0], hidden=8, layers=layers).double(), shape)
    places = len(found)
    assert torch.equal(found, torch.ones(places, places).tril(-1).bool())


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_place_of_a_large_map_sees_nothing_behind_it(layers):
    found = seen(PixelCNN(2, hidden=4, layers=layers).double(), (2, 7, 9), draws=1)
    assert not found.triu().any()
    assert found[1:].any(1).all()  # but something of what is before


def prior(size, categories, layers=2):
    """Far from uniform."""
    torch.manual_seed(3)
    made = pv.priors.PixelCNN((math.prod(size), categories), size=size, hidden=6, layers=layers).double()
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(2.5)
    return made


def maps(count, categories):
    return torch.stack([hot(list(k), categories) for k in itertools.product(range(categories), repeat=count)])


@pytest.mark.parametrize(("size", "categories"), [((2, 2), 2), ((1, 3), 3), ((3, 1), 4), ((2, 3), 2)])
def test_the_probabilities_of_all_maps_sum_to_one(size, categories):
    d, z = prior(size, categories)(), maps(math.prod(size), categories)
    assert isinstance(d, AutoregressiveCodes)
    p = d.log_prob(z).exp()
    assert p.sum().item() == pytest.approx(1)
    assert p.max() > 2 * p.min()


def test_draws_of_a_map_come_as_often_as_they_should():
    """Within 4.5 standard errors, of 30,000 draws, for each of the 16 maps."""
    d, n = prior((2, 2), 2)(), 30_000
    z = d.sample((n,))
    assert z.shape == (n, 4, 2)
    assert z.dtype == torch.float64
    for one in maps(4, 2):
        p = d.log_prob(one).exp().item()
        share = (z == one).all(-1).all(-1).double().mean().item()
        assert abs(share - p) < ERRORS * (p * (1 - p) / n) ** 0.5


def test_log_p_of_a_map_is_the_sum_of_its_conditionals():
    """sum_j log p(z_j | z_1, ..., z_{j-1}), what comes later unknown; batches of any shape"""
    made = prior((2, 3), 4)
    d = made().expand((5,))
    assert isinstance(d, AutoregressiveCodes)
    assert (d.batch_shape, d.event_shape) == ((5,), (6, 4))
    z = d.sample((2,))
    total = 0.0
    for j in range(6):
        before = z.clone()
        before[..., j:, :] = 0.0
        total = total + (z * made.conditionals(before).logits)[..., j, :].sum(-1)
    torch.testing.assert_close(d.log_prob(z), total)
    assert d.log_prob(z[0, 0]).shape == (5,)


def test_the_gradient_of_log_p_reaches_the_prior_and_not_the_codes():
    made, z = prior((2, 2), 3), hot([[0, 1, 2, 0]], 3).requires_grad_()
    loss = made().log_prob(z).sum()
    by_code, *by_net = torch.autograd.grad(loss, [z, *made.parameters()], allow_unused=True)
    assert by_code is None
    assert all(slope is not None for slope in by_net)


def test_codes_that_are_none_have_no_density_under_a_prior_of_maps():
    d = prior((2, 2), 3)()
    d._validate_args = True
    with pytest.raises(ValueError, match=r"lie outside the support of AutoregressiveCodes.*a code is one-hot"):
        d.log_prob(torch.full((4, 3), 1 / 3).double())


def test_conditionals_are_one_for_each_code():
    d = AutoregressiveCodes(lambda z: dist.OneHotCategorical(logits=torch.zeros(3)), 4, entry=(3,))
    with pytest.raises(
        ValueError, match=r"conditionals: expected a distribution of batch shape \(4,\) and event shape"
    ):
        d.log_prob(d.expand(()).conditionals(None).sample((4,)))


# ---------------------------------------------------------------------- vq_vae

SMALL_PRIOR = partial(pv.priors.PixelCNN, hidden=6, layers=2)


def vq(**options):
    torch.manual_seed(2)
    settings = {"codebook": 6, "width": 3, "hidden": (4,), "prior": SMALL_PRIOR} | options
    return pv.vq_vae(SHAPE, **settings)


def of(pair):
    """The codebook of a pair."""
    (codebook,) = pair.guide.codebook
    return codebook


def words(thing):
    return " ".join(str(thing).split())


def binary(n=5, shape=SHAPE):
    return (torch.rand(n, *shape) > 0.5).double()


def by_hand(pair, x):
    """h, the nearest entries, their numbers, log p(x | z) and log p(z), of parts of the pair alone."""
    h, vectors = pair.guide.encoder(x), of(pair).vectors
    k = torch.cdist(places(h), vectors).argmin(-1)
    e = vectors[k].reshape(len(x), *h.shape[2:], -1).movedim(-1, 1)
    straight = e + h - h.detach()
    z = hot(k, len(vectors)).reshape(len(x), *h.shape[2:], -1).movedim(-1, 1)
    _, net = pair.model.likelihood.decoder.net
    fit = -binary_cross_entropy_with_logits(net(straight), x, reduction="none").sum((1, 2, 3))
    log_p = (z * pair.model.prior.net(z).log_softmax(1)).sum((1, 2, 3))
    return h, e, k.reshape(len(x), -1), fit, log_p


def test_the_bound_is_the_log_probability_of_data_and_nearest_codes():
    """elbo = log p(x | z*) + log p(z*),   z* the nearest entries; and so is log p(x) from any number of draws"""
    pair, x = vq().double(), binary()
    _, _, k, fit, log_p = by_hand(pair, x)
    torch.testing.assert_close(pair.elbo(x=x), (fit + log_p).detach())
    torch.testing.assert_close(pair.elbo(x=x, particles=3), pair.elbo(x=x))
    torch.testing.assert_close(pair.log_likelihood(x=x, particles=7), pair.elbo(x=x))
    q = pair.encode(x=x)["z"]
    assert torch.equal(q.mode, hot(k, 6))
    assert torch.equal(q.probs, q.mode)
    report = pv.evaluate(pair, x, particles=2)
    assert report.elbo == pytest.approx((fit + log_p).mean().item(), rel=1e-6)
    assert report.kl["z"] == pytest.approx(-log_p.mean().item(), rel=1e-6)
    assert math.isfinite(report.mutual_information)


OBJECTIVES = {
    "Trace_ELBO": Trace_ELBO(),
    "two particles": Trace_ELBO(num_particles=2),
    "particles at once": Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    "TraceMeanField_ELBO": TraceMeanField_ELBO(),
    "TraceGraph_ELBO": TraceGraph_ELBO(),
    "TraceGraph_ELBO, two particles": TraceGraph_ELBO(num_particles=2),
    "TraceEnum_ELBO": TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "AnalyticKL": AnalyticKL(),
}


@pytest.mark.parametrize("commitment", [0.0, 0.25, 2.0])
def test_the_commitment_is_in_the_objective_and_in_no_metric(commitment):
    """-loss = elbo - commitment sum_j |h_j - e_j|^2"""
    pair, x = vq(commitment=commitment).double().eval(), binary()
    h, e, _, fit, log_p = by_hand(pair, x)
    wanted = (fit + log_p - commitment * (h - e).square().sum((1, 2, 3))).sum().item()
    for name, objective in OBJECTIVES.items():
        assert -objective.loss(*pair, x=x) == pytest.approx(wanted), name
    torch.testing.assert_close(pair.elbo(x=x), vq().double().elbo(x=x))


def test_a_weight_on_the_kl_leaves_the_commitment_as_it_is():
    pair, x = vq(commitment=0.5).double().eval(), binary()
    h, e, _, fit, log_p = by_hand(pair, x)
    wanted = (fit + 0.3 * log_p - 0.5 * (h - e).square().sum((1, 2, 3))).sum()
    assert -Trace_ELBO().loss(*pair.trained(pv.temper(0.3)), x=x) == pytest.approx(wanted.item())


def test_gradients_are_those_of_a_hand_written_straight_through():
    """Of the encoder d log p(x | h + stop(e - h)) and the commitment; of the prior d log p(z)"""
    pair, x = vq(commitment=0.5).double().eval(), binary()
    Trace_ELBO().loss_and_grads(*pair, x=x)
    h, e, _, fit, log_p = by_hand(pair, x)
    loss = -(fit + log_p - 0.5 * (h - e.detach()).square().sum((1, 2, 3))).sum()
    for (name, p), slope in zip(
        pair.named_parameters(), torch.autograd.grad(loss, list(pair.parameters())), strict=True
    ):
        torch.testing.assert_close(p.grad, slope, msg=lambda words, name=name: f"{name}: {words}")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_pair_with_a_codebook_is_trained_under_any_objective(name):
    """In training, where the entries move between two draws."""
    pair = vq()
    pv.fit(pair, digits(), objective=OBJECTIVES[name], epochs=1, batch_size=30, progress=False)
    assert math.isfinite(pair.elbo(x=digits()).sum())


def test_training_moves_the_entries_and_lowers_the_loss():
    pair, before = vq(), vq()
    x = digits(200, "train")
    history = pv.fit(pair, x, epochs=8, batch_size=25, lr=1e-2, progress=False).history
    assert history["elbo"][-1] > history["elbo"][0] + 5
    assert not torch.equal(of(pair).vectors, of(before).vectors)
    h = places(pair.guide.encoder(x)).detach()
    spread = torch.cdist(h, of(pair).vectors).min(1).values
    assert spread.square().mean() < 0.7 * (h - h.mean(0)).square().sum(1).mean()  # better than one entry at the mean
    assert 1 < history["perplexity_z"][-1] <= 6
    assert 0 < history["active_z"][-1] <= 16


def test_metrics_and_losses_move_no_entry():
    pair, x = vq(), digits(20)
    before = pair.snapshot()
    pair.elbo(x=x)
    pair.reconstruct(x=x)
    pv.evaluate(pair, x, particles=2)
    pv.infer.SVI(*pair.eval(), torch.optim.Adam).evaluate_loss(x=x)
    assert_same(pair.snapshot(), before)


def test_a_saved_pair_brings_its_entries(tmp_path):
    pair, x = vq(), digits(50)
    pv.fit(pair, x, epochs=1, progress=False)
    again = pv.load(pair.save(tmp_path))
    assert_same(again.snapshot(), pair.snapshot())
    assert torch.equal(again.elbo(x=x), pair.elbo(x=x))
    assert of(again) is again.model.likelihood.decoder.net[0]
    assert of(again).counts.sum() > 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_has_a_codebook_of_its_own_which_its_two_programs_share(duplicate):
    pair, x = vq(), digits(50)
    other = duplicate(pair)
    assert of(other) is other.model.likelihood.decoder.net[0]
    assert of(other) is not of(pair)
    before = pair.snapshot()
    pv.fit(other, x, epochs=1, progress=False)
    assert_same(pair.snapshot(), before)
    assert not torch.equal(of(other).vectors, of(pair).vectors)
    assert of(other.double()).vectors.dtype == torch.float64


def test_a_run_of_a_codebook_goes_on_bit_by_bit(tmp_path):
    x = digits(150, "train")
    for folder, stops in (("whole", [3]), ("parts", [1, 3])):
        for epochs in stops:
            pv.fit(vq(), x, epochs=epochs, batch_size=50, out=tmp_path / folder, resume=True, progress=False)
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("shape", "hidden", "size"),
    [
        ((3, 17, 30), (4, 4), (5, 8)),
        ((1, 4, 5), None, (2, 3)),
        ((2, 16, 16), None, (4, 4)),
        ((1, 9, 40), (4,), (5, 20)),
    ],
)
def test_images_of_any_size_have_a_map(shape, hidden, size):
    pair = pv.vq_vae(shape, codebook=4, width=2, hidden=hidden, prior=SMALL_PRIOR)
    x = binary(2, shape).float()
    assert of(pair).size == size
    assert pair.encode(x=x)["z"].event_shape == (math.prod(size), 4)
    assert pair.reconstruct(x=x).shape == x.shape
    pv.fit(pair, x, epochs=1, progress=False)
    if math.prod(size) < 50:
        assert pair.sample(2).shape == (2, *shape)


def test_verbs_have_the_shapes_that_they_have():
    pair, x = vq(), digits(4)
    assert pair.sample(3).shape == (3, *SHAPE)
    assert set(pair.sample(3).unique().tolist()) <= {0.0, 1.0}
    assert pair.reconstruct(x=x, mean=True).shape == x.shape
    z = pair.encode(x=x)["z"].mode
    assert z.shape == (4, 16, 6)
    torch.testing.assert_close(pair.decode({"z": z}), pair.reconstruct(x=x, mean=True))
    assert pair.interpolate(x[:2], x[2:], steps=5).shape == (5, 2, *SHAPE)
    assert pair.traverse(x=x[:1]).shape == (16, 6, *SHAPE)
    assert pair.traverse(x=x[:1], units=[3, 0], values=[5]).shape == (2, 1, *SHAPE)


def test_an_encoder_and_a_decoder_of_ones_own():
    encoder, decoder = nn.Conv2d(1, 3, 4, stride=4), nn.ConvTranspose2d(3, 1, 4, stride=4)
    pair, x = vq(encoder=encoder, decoder=decoder, hidden=None).double(), binary()
    assert of(pair).size == (2, 2)
    h = encoder(x)
    k = torch.cdist(places(h), of(pair).vectors).argmin(-1)
    e = of(pair).vectors[k].reshape(5, 2, 2, 3).movedim(-1, 1)
    wanted = torch.sigmoid(decoder(e))
    torch.testing.assert_close(pair.reconstruct(x=x, mean=True), wanted.detach())
    before = encoder.weight.clone()
    pv.fit(pair, x, epochs=1, progress=False)
    assert not torch.equal(encoder.weight, before)


@pytest.mark.parametrize("learned", [False, True])
def test_a_prior_of_independent_codes(learned):
    """log p(z) = -16 log 6 where all are alike"""
    pair, x = vq(prior=partial(pv.priors.Categorical, learned=learned)).double(), binary()
    assert -pv.evaluate(pair, x, particles=1).kl["z"] == pytest.approx(-16 * math.log(6))
    pv.fit(pair, x, epochs=1, progress=False)
    assert pair.sample(3).shape == (3, *SHAPE)


@pytest.mark.parametrize("family", [pv.likelihoods.Normal, pv.likelihoods.DiscretizedLogistic])
def test_a_codebook_under_another_likelihood(family):
    pair = vq(likelihood=family)
    x = pair.sample(10)
    assert pv.fit(pair, x, epochs=1, progress=False).epochs == 1


def test_the_use_of_a_codebook_is_counted_over_all_places():
    """exp H of the shares of the entries among all codes;   used: how many are in any place"""
    pair, x = in_use(), digits(40)
    usage = pv.evaluate(pair, x, particles=3).code_usage["z"]
    k = pair.encode(x=x)["z"].mode.argmax(-1).flatten().numpy()
    shares = np.bincount(k, minlength=6) / len(k)
    assert usage.pooled
    assert (usage.codes, usage.categories) == (16, 6)
    assert usage.perplexity == pytest.approx(np.exp(-sum(p * np.log(p) for p in shares if p)))
    assert usage.used == pytest.approx((shares > 0).mean())
    assert "of 6 entries" in str(usage)
    assert words(f"perplexity of z {usage}") in words(pv.evaluate(pair, x, particles=3))


def small_map(**options):
    return lambda: pv.vq_vae(SHAPE, **({"codebook": 6, "width": 3} | options))


BAD_MAPS = {
    "vectors": (lambda: pv.vq_vae(9), r"^data_shape: expected images .*, of at least 4 x 4, found \(9,\)"),
    "no channels": (lambda: pv.vq_vae((8, 8)), r"^data_shape: expected images \(channels, height, width\)"),
    "thin": (lambda: pv.vq_vae((1, 3, 8)), r"of at least 4 x 4, found \(1, 3, 8\)"),
    "codebook 0": (small_map(codebook=0), "^codebook: expected a whole number of at least 1, found 0"),
    "codebook 1": (small_map(codebook=1), "^codebook: expected at least 2"),
    "width 0": (small_map(width=0), "^width: expected a whole number of at least 1, found 0"),
    "decay 1": (small_map(decay=1), r"^decay: expected a number in \[0, 1\), found 1"),
    "decay nan": (small_map(decay=math.nan), "^decay: expected a finite number"),
    "commitment -1": (small_map(commitment=-1), "^commitment: expected a finite number of at least 0, found -1"),
    "commitment nan": (
        small_map(commitment=math.nan),
        "^commitment: expected a finite number of at least 0, found nan",
    ),
    "hidden 0": (small_map(hidden=0), "^hidden"),  # as in every other recipe; () too
    "hidden ()": (small_map(hidden=()), "^hidden"),
    "wide encoder": (
        small_map(encoder=nn.Conv2d(1, 4, 4, 4)),
        r"^encoder: expected \(batch, 3, height, width\), found \(2, 4, 2, 2\) for a batch of 2",
    ),
    "flat encoder": (
        small_map(encoder=nn.Sequential(nn.Flatten(), nn.Linear(64, 3))),
        r"^encoder: expected \(batch, 3, height, width\), found \(2, 3\)",
    ),
    "failing encoder": (small_map(encoder=nn.Linear(5, 5)), "^encoder: fails on an input of shape"),
    "decoder": (
        small_map(decoder=nn.Conv2d(3, 1, 1), hidden=(4,)),
        r"^decoder: expected \(batch, 1, 8, 8\) .* found \(2, 1, 4, 4\) for a batch of 2",
    ),
    "a prior of numbers": (small_map(prior=pv.priors.StandardNormal), "does not fit the prior, Normal over"),
    "a prior of other codes": (
        small_map(prior=lambda: pv.distributions.Codes(torch.zeros(3, 6))),
        r"^prior: expected a distribution over codes of shape \(16, 6\), found batch \(\) and event \(3, 6\)",
    ),
    "a map of another size": (
        small_map(prior=partial(pv.priors.PixelCNN, size=(3, 4))),
        r"^prior: size: expected .*of 16 places, found \(3, 4\)",
    ),
    "soft codes": (
        lambda: vq().decode({"z": torch.full((1, 16, 6), 1 / 6)}),
        "^latents: z: 1 of 1 values lie outside the support of AutoregressiveCodes",
    ),
    "codes in rows": (
        lambda: vq().decode({"z": torch.zeros(3, 4, 4, 6)}),
        r"^latents: z: expected \(n, 16, 6\) codes, found \(3, 4, 4, 6\)",
    ),
    "other images": (lambda: vq().elbo(x=torch.zeros(3, 1, 9, 9)), r"expected .*\(1, 8, 8\)|9"),
}


@pytest.mark.parametrize("name", BAD_MAPS)
def test_bad_input_of_a_map_is_told_of(name):
    call, told = BAD_MAPS[name]
    with pytest.raises(ValueError, match=told):
        call()


@pytest.mark.parametrize("option", ["likelihood", "net"])
def test_what_builds_a_part_is_callable(option):
    with pytest.raises(TypeError, match=f"^{option}: expected a class or a function that builds one, found 3"):
        small_map(**{option: 3})()


# ---------------------------------------------------------------------- joint_vae


def joint(estimator="enumerate", **options):
    torch.manual_seed(4)
    return pv.joint_vae(SHAPE, estimator=estimator, **({"classes": 4, "latent": 2, "hidden": (8,)} | options))


def of_classes(pair, x, z):
    """log p(x, z | c) and p(c) for each class, (classes, n)."""
    terms = []
    for k in range(4):
        c = hot([[k]], 4).expand(len(x), -1, -1)
        terms.append(pair.model.prior(c).log_prob(z) + pair.model.likelihood(z, c).log_prob(x))
    return torch.stack(terms)


@pytest.mark.parametrize("prior", [pv.priors.StandardNormal, pv.priors.Conditional])
def test_classes_are_summed_over(prior):
    """sum_c q(c | x) (log p(x, z, c) - log q(c | x)) - log q(z | x), value and gradient, z drawn with the same noise"""
    pair, x = joint(prior=prior).double(), binary()
    torch.manual_seed(0)
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(*pair, x=x)
    torch.manual_seed(0)
    style = pair.guide.posterior(x)
    z = style.rsample()
    q = pair.guide.classifier(x).probs[:, 0].T
    each = of_classes(pair, x, z) - math.log(4) - q.log()
    wanted = -((q * each).sum(0) - style.log_prob(z)).sum()
    torch.testing.assert_close(loss, wanted)
    parameters = list(pair.parameters())
    for found, slope in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(wanted, parameters), strict=True
    ):
        torch.testing.assert_close(found, slope)


@pytest.mark.parametrize("estimator", ["relaxed", "straight-through"])
def test_relaxed_classes_have_the_kl_of_classes(estimator):
    """log p(x | z, y) + log p(z) - log q(z | x) - KL(q(c | x) || p(c))"""
    pair, x = joint(estimator, temperature=0.7).double(), binary()
    torch.manual_seed(0)
    nodes = poutine.trace(pair.trained()[1]).get_trace(x=x).nodes
    y, z = nodes["c"]["value"], nodes["z"]["value"]
    assert y.shape == (5, 1, 4)
    q, style = pair.guide.classifier(x), pair.guide.posterior(x)
    kl = (q.probs * (4 * q.probs).log()).sum((1, 2)) + style.log_prob(z) - pair.model.prior(y).log_prob(z)
    wanted = (pair.model.likelihood(z, y).log_prob(x) - kl).sum()
    torch.manual_seed(0)
    assert -Trace_ELBO().loss(*pair, x=x) == pytest.approx(wanted.item())


@pytest.mark.parametrize("prior", [pv.priors.StandardNormal, pv.priors.Conditional])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_trains_classes(estimator, prior):
    pair, x = joint(estimator, prior=prior), digits()
    before = pair.snapshot()
    run = pv.fit(pair, x, epochs=2, batch_size=30, lr=1e-2, progress=False)
    after = pair.snapshot()
    assert not [name for name in before if torch.equal(before[name], after[name])]
    assert {"kl_c", "kl_z", "perplexity_c", "active_c", "active_z"} <= run.history.keys()
    assert 1 <= run.history["perplexity_c"][-1] <= 4
    assert pair.elbo(x=x).shape == (60,)


def test_metrics_draw_a_class_and_have_the_mean_of_the_sum_over_classes():
    """Within 4.5 standard errors of 4,000 draws."""
    pair, x = joint("relaxed").double(), binary(1)
    draws = pair.elbo(x=x.expand(4000, -1, -1, -1), seed=1)
    torch.manual_seed(0)
    losses = [TraceEnum_ELBO(max_plate_nesting=1).loss(*joint().double(), x=x.expand(4000, -1, -1, -1)) / 4000]
    error = draws.std() / 4000**0.5
    assert error < 0.05
    assert abs(draws.mean() + losses[0]) < 2**0.5 * ERRORS * error


def test_samples_may_hold_a_class():
    pair = joint()
    assert pair.sample(3).shape == (3, *SHAPE)
    c = hot([[0], [1], [2], [3]], 4)
    held = pair.sample(4, held={"c": c}, mean=True, seed=0)
    trace = pair.draw(4, seed=0)
    assert trace.nodes["c"]["value"].shape == (4, 1, 4)
    assert held.shape == (4, *SHAPE)
    z = torch.randn(4, 2)
    wanted = pair.model.likelihood(z, c.float()).mean
    torch.testing.assert_close(pair.decode({"c": c, "z": z}), wanted.detach())
    q = pair.encode(x=digits(5))
    assert q["c"].probs.shape == (5, 1, 4)
    assert q["z"].mean.shape == (5, 2)


def best(classes, labels):
    """The share of agreement under the best one-to-one map of classes to labels, by trying all."""
    rows, columns = int(classes.max()) + 1, int(labels.max()) + 1
    table = np.zeros((rows, columns), int)
    np.add.at(table, (classes, labels), 1)
    table = table if rows <= columns else table.T
    few, many = table.shape
    return max(table[range(few), names].sum() for names in itertools.permutations(range(many), few)) / len(labels)


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (5, 3), (3, 5), (1, 4), (4, 1), (5, 5)])
def test_clustering_is_the_best_of_all_names_of_classes(rows, columns):
    numbers = np.random.default_rng(rows * columns)
    for n in (1, 7, 40):
        classes, labels = numbers.integers(0, rows, n), numbers.integers(0, columns, n)
        found = clustering(torch.as_tensor(classes), torch.as_tensor(labels))
        assert found == pytest.approx(best(classes, labels))


def test_classes_are_held_against_the_labels_that_data_bring():
    pair, data = joint(), pv.data.load("digits", "test", binarise="threshold")
    pv.fit(pair, data, epochs=1, progress=False)
    classes = pair.encode(x=data.x)["c"].probs[:, 0].argmax(-1)
    wanted = best(classes.numpy(), data.labels.numpy())
    report = pv.evaluate(pair, data, particles=2)
    assert report.clustering == {"c": pytest.approx(wanted)}
    assert f"clustering by c {wanted:.4f}" in words(report)
    assert report.to_dict()["clustering"] == report.clustering
    assert report.accuracy is None
    assert pv.evaluate(pair, data.x, particles=2).clustering == {}
    assert pv.evaluate(pair, data.x, particles=2, labels=data.labels.tolist()).clustering == report.clustering
    assert pv.evaluate(pair, data, particles=2, labels=classes).clustering == {"c": 1.0}
    assert pv.evaluate(pair, data, particles=2, batch_size=100, rows=30).clustering == report.clustering


def test_data_without_a_label_are_left_out():
    pair, data = joint(), pv.data.load("digits", "test", binarise="threshold")
    labels = data.labels.clone()
    labels[::3] = -1
    told = labels >= 0
    classes = pair.encode(x=data.x)["c"].probs[:, 0].argmax(-1)
    found = pv.evaluate(pair, data, particles=1, labels=labels).clustering["c"]
    assert found == pytest.approx(best(classes[told].numpy(), labels[told].numpy()))
    assert pv.evaluate(pair, data, particles=1, labels=torch.full((270,), -1)).clustering == {}


@pytest.mark.parametrize(
    "labels", [torch.zeros(3).long(), torch.zeros(60), torch.zeros(60, 1).long(), [0.5] * 60, np.zeros(61, int)]
)
def test_labels_are_one_whole_number_for_each_datum(labels):
    with pytest.raises(ValueError, match=r"^labels: expected (60|\(n,\)) whole numbers, found"):
        pv.evaluate(joint(), digits(), particles=1, labels=labels)


def test_labels_that_are_words_are_told_of():
    with pytest.raises((TypeError, ValueError), match=r"^labels: "):
        pv.evaluate(joint(), digits(), particles=1, labels=["seven"] * 60)


@pytest.mark.parametrize("make", [joint, lambda: pv.vae(SHAPE, latent=2, hidden=(4,))])
def test_a_quantity_beside_the_data_is_no_label(make):
    """As plots show it by colour, data may bring it; nobody has asked for it to be compared with classes."""
    data = pv.data.Data(digits(), torch.rand(60))
    assert pv.evaluate(make(), data, particles=1).clustering == {}


class Named(Dataset):
    """Data with names beside them."""

    labels = ("cat", "dog")

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return digits()[i]


@pytest.mark.parametrize("make", [joint, lambda: pv.vae(SHAPE, latent=2, hidden=(4,))])
def test_a_data_set_may_call_anything_its_labels(make):
    assert pv.evaluate(make(), Named(), particles=1).clustering == {}


@pytest.mark.parametrize("labelled", [None, 50])
def test_labels_that_a_pair_is_given_are_no_clustering(labelled):
    """They are its ``accuracy``; data without them come in batches of their own."""
    data = pv.data.load("digits", "test", binarise="threshold", labelled=labelled)
    report = pv.evaluate(pv.m2(SHAPE, latent=2, hidden=(8,)), data, particles=1)
    assert report.labelled == (labelled or 270)
    assert report.clustering == {}


def test_pairs_without_a_class_have_no_clustering():
    data = pv.data.load("digits", "test", binarise="threshold")
    several = pv.discrete_vae(SHAPE, codes=2, categories=3, hidden=(5,))
    assert pv.evaluate(several, data, particles=1).clustering == {}
    one = pv.discrete_vae(SHAPE, codes=1, categories=3, hidden=(5,))
    assert pv.evaluate(one, data, particles=1).clustering.keys() == {"z"}


BAD_CLASSES = {
    "one class": (partial(joint, classes=1), "^classes: expected at least 2"),
    "no class": (partial(joint, classes=0), "^classes: expected a whole number"),
    "no style": (partial(joint, latent=0), "^latent: expected a whole number"),
    "estimator": (partial(joint, "exact"), "^estimator: unknown 'exact', expected one of enumerate, relaxed, score"),
    "temperature of a sum": (partial(joint, temperature=0.5), "^temperature: expected with a relaxation"),
    "temperature 0": (partial(joint, "relaxed", temperature=0), "^temperature: expected .* greater than 0"),
    "many classes": (partial(joint, classes=10_001), "have 10,001 combinations, more than the 10,000"),
    "classifier": (
        partial(joint, classifier=nn.Sequential(nn.Flatten(), nn.Linear(64, 3))),
        r"^classifier: expected .*found \(2, 3\) for a batch of 2",
    ),
    "style of codes": (partial(joint, prior=pv.priors.Categorical), "^prior: "),
    "number of a class": (
        lambda: joint().decode({"c": torch.tensor([1, 2])}),
        r"^latents: c: expected \(n, 1, 4\) codes, found \(2,\)",
    ),
    "no class at all": (
        lambda: joint().decode({"c": torch.zeros(2, 1, 4)}),
        "^latents: c: 2 of 2 values lie outside the support of Codes",
    ),
}


@pytest.mark.parametrize("name", BAD_CLASSES)
def test_bad_input_of_classes_is_told_of(name):
    call, words = BAD_CLASSES[name]
    with pytest.raises(ValueError, match=words):
        call()


# ---------------------------------------------------------------------- usage


def entropy(p, axis=-1):
    return -(p * np.log(np.where(p > 0, p, 1))).sum(axis)


@pytest.mark.parametrize("pooled", [False, True])
def test_usage_is_what_numpy_says(pooled):
    """I = H(mean q) - mean H(q), of each code;   perplexity exp H(mean q);   used: likeliest of any; over chunks"""
    numbers = np.random.default_rng(0)
    q = numbers.dirichlet([0.1] * 5, size=(2, 30, 3))  # draws, data, codes
    q[:, :, 1] = q[:1, :1, 1]  # says nothing of the data
    q[:, :, 2, 4] = 0
    q[:, :, 2] /= q[:, :, 2].sum(-1, keepdims=True)
    usage = Usage(pooled)
    for part in (slice(0, 7), slice(7, 8), slice(8, 30)):
        usage.add(torch.as_tensor(q[:, part]), draws=2)
    assert (usage.size, usage.units, usage.categories) == (30, 3, 5)
    mean = q.mean((0, 1))
    np.testing.assert_allclose(usage.information, entropy(mean) - entropy(q).mean((0, 1)), atol=1e-12)
    assert usage.active == 2
    modes = np.zeros((3, 5), bool)
    for j, k in zip(np.tile(range(3), 60), q.argmax(-1).ravel(), strict=True):
        modes[j, k] = True
    shares = mean.mean(0, keepdims=True) if pooled else mean
    assert usage.perplexity == pytest.approx(np.exp(entropy(shares)).mean())
    assert usage.used == pytest.approx((modes.any(0) if pooled else modes).mean())


def test_codes_of_equal_draws_are_all_or_nothing():
    even = Usage()
    even.add(torch.eye(4)[None, :, None])
    assert even.perplexity == pytest.approx(4)
    assert even.used == 1
    assert even.information.item() == pytest.approx(math.log(4))
    one = Usage()
    one.add(torch.eye(4)[[2, 2, 2]][None, :, None])
    assert (one.perplexity, one.used, one.active) == (pytest.approx(1), 0.25, 0)


def test_a_report_tells_the_use_of_each_site():
    pair, x = pv.discrete_vae(SHAPE, codes=3, categories=4, hidden=(8,)), digits()
    report = pv.evaluate(pair, x, particles=5)
    p = pair.encode(x=x)["z"].probs.detach().double().numpy()
    usage = report.code_usage["z"]
    assert usage.perplexity == pytest.approx(np.exp(entropy(p.mean(0))).mean())
    assert usage.used == pytest.approx(np.mean([len(set(p[:, j].argmax(-1))) / 4 for j in range(3)]))
    assert (usage.codes, usage.categories, usage.pooled) == (3, 4, False)
    information = entropy(p.mean(0)) - entropy(p).mean(0)
    assert report.active_units["z"] == (information > 0.01).sum()
    assert json.loads(json.dumps(report.to_dict()))["code_usage"]["z"]["categories"] == 4
    assert pv.evaluate(pv.vae(SHAPE, latent=2, hidden=(4,)), x, particles=1).code_usage == {}


class Kinds(nn.Module):
    """Sites of each discrete kind, and a continuous one, whose logits are the data."""

    def __init__(self, observe):
        super().__init__()
        self.observe = observe

    def forward(self, x=None, n=1):
        size = n if x is None else len(x)
        logits = torch.zeros(size, 6) if x is None or self.observe else x
        with pyro.plate("data", size):
            pyro.sample("number", dist.Categorical(logits=logits))
            pyro.sample("coin", dist.Bernoulli(logits=logits[:, 0]))
            pyro.sample("coins", dist.Bernoulli(logits=logits).to_event(1))
            pyro.sample("hot", dist.OneHotCategorical(logits=logits))
            pyro.sample("hots", dist.OneHotCategorical(logits=logits.reshape(-1, 2, 3)).to_event(1))
            z = pyro.sample("z", dist.Normal(logits, 1.0).to_event(1))
            if self.observe:
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("particles", [1, 3])
def test_terms_have_the_probabilities_of_all_kinds_of_sites(particles):
    x = torch.randn(4, 6)
    ((part, terms),) = pv.Variant(Kinds(True), Kinds(False)).terms(particles, x=x)
    assert part == slice(0, 4)
    coin = torch.stack([torch.sigmoid(-x), torch.sigmoid(x)], -1)
    wanted = {
        "number": x.softmax(-1)[:, None],
        "coin": coin[:, :1],
        "coins": coin,
        "hot": x.softmax(-1)[:, None],
        "hots": x.reshape(4, 2, 3).softmax(-1),
    }
    assert terms.probs.keys() == wanted.keys()
    for name, p in wanted.items():
        torch.testing.assert_close(terms.probs[name], p.expand(particles, *p.shape), msg=name)
    assert terms.mean.keys() == {"z"}
    report = pv.evaluate(pv.Variant(Kinds(True), Kinds(False)), x, particles=2)
    assert report.code_usage.keys() == wanted.keys()
    assert report.units["coins"] == 6


# ---------------------------------------------------------------------- traversals and pictures


@pytest.mark.parametrize("site", ["z", "c"])
def test_a_traversal_takes_one_code_through_all_of_its_categories(site):
    pair, x = joint() if site == "c" else pv.discrete_vae(SHAPE, codes=3, categories=4, hidden=(8,)), digits(1)
    found = pair.traverse(site, x=x)
    q = pair.encode(x=x)
    codes = 1 if site == "c" else 3
    assert found.shape == (codes, 4, *SHAPE)
    for j, k in itertools.product(range(codes), range(4)):
        z = q[site].mode.clone()
        z[0, j] = hot(k, 4)
        at = {site: z} if site == "z" else {"c": z, "z": q["z"].mean}
        torch.testing.assert_close(found[j, k], pair.decode(at)[0])
    chosen = pair.traverse(site, units=[codes - 1], values=[3, 1], x=x)
    torch.testing.assert_close(chosen, found[-1:, [3, 1]])
    torch.testing.assert_close(pair.traverse(site, values=[2.0], x=x), found[:, 2:3])  # a whole number all the same


@pytest.mark.parametrize("value", [4, -1, 1.5, math.nan, "a"])
def test_what_is_no_category_is_not_looked_at(value):
    pair = pv.discrete_vae(SHAPE, codes=3, categories=4, hidden=(8,))
    with pytest.raises(ValueError, match=f"^values: 'z' has categories 0 to 3, found {value}"):
        pair.traverse(values=[0, value], x=digits(1))


@pytest.mark.parametrize("unit", [3, -1])
def test_units_of_a_traversal_are_codes(unit):
    pair = pv.discrete_vae(SHAPE, codes=3, categories=4, hidden=(8,))
    with pytest.raises(ValueError, match=f"^units: 'z' has units 0 to 2, found {unit}"):
        pair.traverse(units=[unit], x=digits(1))


def in_use():
    """A codebook whose entries stand on data."""
    pair = vq()
    pair.guide(x=digits())  # which is in training
    return pair


def decided():
    """Classes that follow the data."""
    pair = joint()
    *_, last = (m for m in pair.guide.classifier.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        last.bias -= pair.guide.classifier(digits()).logits.mean((0, 1))
    return pair


PAIRS = {
    "discrete_vae": lambda: pv.discrete_vae(SHAPE, codes=3, categories=4, hidden=(8,)),
    "vq_vae": in_use,
    "joint_vae": decided,
}


@pytest.mark.parametrize("name", PAIRS)
def test_between_two_codes_there_are_only_codes(name, monkeypatch):
    pair, x = PAIRS[name](), digits(4)
    seen = {}
    decode = pv.Variant.decode
    monkeypatch.setattr(pv.Variant, "decode", lambda self, z, **kw: seen.update(z) or decode(self, z, **kw))
    path = pair.interpolate(x[:2], x[2:], steps=6)
    assert path.shape == (6, 2, *SHAPE)
    site = "c" if name == "joint_vae" else "z"
    z, q = seen[site].unflatten(0, (6, 2)), pair.encode(x=x)[site].mode
    assert not torch.equal(q[:2], q[2:])
    assert torch.equal(z[:3], q[:2].expand(3, *q[:2].shape))
    assert torch.equal(z[3:], q[2:].expand(3, *q[2:].shape))
    if name == "joint_vae":
        middle = seen["z"].unflatten(0, (6, 2))[1]
        mean = pair.encode(x=x)["z"].mean
        torch.testing.assert_close(middle, 0.8 * mean[:2] + 0.2 * mean[2:])


@pytest.mark.parametrize("name", PAIRS)
def test_codes_are_drawn_in_pictures(name):
    pair, data = PAIRS[name](), pv.data.load("digits", "test", binarise="threshold")
    site = "c" if name == "joint_vae" else "z"
    figure = pv.plot.traversals(pair, data, site=site)
    (axes,) = figure.axes
    categories = {"discrete_vae": 4, "vq_vae": 6, "joint_vae": 4}[name]
    assert axes.get_xlabel() == "category"
    assert [t.get_text() for t in axes.get_xticklabels()] == [str(k) for k in range(categories)]
    rows = {"discrete_vae": 3, "vq_vae": 10, "joint_vae": 1}[name]  # ten at most
    assert len(axes.get_yticklabels()) == rows
    figure = pv.plot.latents(pair, data, site=site)
    points = sum(len(c.get_offsets()) for c in figure.axes[0].collections)
    assert points == 270
    with pytest.raises(ValueError, match="expected codes that are numbers"):
        pv.plot.prior(pair, data, site=site)


def test_the_use_of_categories_is_drawn_from_the_most_used_on():
    data = pv.data.load("digits", "test", binarise="threshold")
    pair = PAIRS["discrete_vae"]()
    p = pair.encode(x=data.x)["z"].probs.mean(0).detach().numpy()
    shown = pv.plot.code_usage(pair, data).axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, np.sort(p, -1)[:, ::-1], rtol=1e-5)
    pair = in_use()
    shares = pair.encode(x=data.x)["z"].probs.mean((0, 1)).numpy()
    bars = pv.plot.code_usage(pair, data).axes[0].patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], np.sort(shares)[::-1], rtol=1e-5)
    with pytest.raises(ValueError, match="expected one of categorical codes, found none among"):
        pv.plot.code_usage(pv.vae(SHAPE, latent=2), data)


# ---------------------------------------------------------------------- the command line

COMMANDS = {
    "discrete_vae": ("--codes", "3", "--categories", "4", "--hidden", "8"),
    "vq_vae": ("--codebook", "6", "--width", "3", "--hidden", "4", "--prior", "PixelCNN:hidden=6,layers=2"),
    "joint_vae": ("--classes", "4", "--latent", "2", "--hidden", "8", "--estimator", "enumerate"),
}


@pytest.mark.parametrize("recipe", COMMANDS)
def test_codes_on_the_command_line(recipe, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--epochs", "1", "--batch-size", "200", "--no-progress", "--out", "a"]
    assert cli.main(["train", recipe, *COMMANDS[recipe], *words]) == 0
    assert "p(x, z" in capsys.readouterr().out
    assert {"code_usage.png", "traversals.png", "samples.png"} <= {path.name for path in Path("a").iterdir()}
    assert cli.main(["evaluate", "a", "--particles", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    site = "c" if recipe == "joint_vae" else "z"
    usage = report["code_usage"][site]
    assert usage["pooled"] == (recipe == "vq_vae")
    assert 1 <= usage["perplexity"] <= usage["categories"]
    assert ("c" in report["clustering"]) == (recipe == "joint_vae")
    data = pv.data.load("digits", "test", binarise="dynamic")
    assert report == pv.evaluate(pv.load("a"), data, particles=2).to_dict()
    assert cli.main(["sample", "a", "-n", "3", "--out", "x.npy"]) == 0
    assert np.load("x.npy").shape == (3, *SHAPE)


def test_estimators_and_temperatures_have_words(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*COMMANDS["discrete_vae"], "--epochs", "1", "--no-progress"]
    assert cli.main(["train", "discrete_vae", *words, "--temperature", "Anneal:rate=0.3", "--out", "a"]) == 0
    assert pv.load("a").handler.temperature == pv.infer.Anneal(rate=0.3)
    assert "temperature" in Path("a/metrics.csv").read_text()
    capsys.readouterr()
    words += ["--estimator", "score", "--temperature", "0.7"]
    assert cli.main(["train", "discrete_vae", *words, "--out", "b"]) == 2
    assert "temperature: expected with a relaxation, found estimator='score'" in capsys.readouterr().err
