"""Pictures: what is drawn is what the pair computes, at the right place of the axes that were handed in."""

from functools import partial

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae import plot
from pyro_vae.data import Data
from pyro_vae.likelihoods import Normal
from pyro_vae.train import Run


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def digits():
    return pv.data.load("digits", "test", binarise="threshold")


def vae(latent=2, shape=(1, 8, 8), **options):
    torch.manual_seed(1)
    return pv.vae(shape, latent=latent, hidden=(32,), **options)


class Pixels(nn.Module):
    """p(x, z) = N(z; 0, I) N(x; z and zeros, 1): the first pixels of a 3 x 4 image are its code."""

    def __init__(self, units):
        super().__init__()
        self.units = units

    def forward(self, picture=None, n=1):
        with pyro.plate("data", n if picture is None else len(picture)):
            code = pyro.sample("code", dist.Normal(torch.zeros(self.units), 1).to_event(1))
            pixels = nn.functional.pad(code, (0, 12 - self.units)).unflatten(-1, (3, 4))
            return pyro.sample("picture", dist.Normal(pixels, 1).to_event(2), obs=picture)


class Reader(nn.Module):
    """q(z | x) = N(z; the first pixels of x, I)"""

    def __init__(self, units):
        super().__init__()
        self.units = units

    def forward(self, picture):
        with pyro.plate("data", len(picture)):
            pyro.sample("code", dist.Normal(picture.flatten(1)[:, : self.units], 1).to_event(1))


def pixels(units):
    return pv.Variant(Pixels(units), Reader(units))


def shown(figure):
    return figure.axes[0].images[0].get_array().data


def tile(figure, row, column, height=8, width=8):
    """The picture at a place of a grid, at its own resolution."""
    scale = -(-16 // max(height, width))
    down, across = scale * height, scale * width
    gap = max(down, across) // 16
    y, x = row * (down + gap), column * (across + gap)
    return shown(figure)[y : y + down : scale, x : x + across : scale]


def test_samples_are_the_means_of_the_likelihood_in_a_square():
    pair = vae()
    figure = plot.samples(pair, 10, seed=3)
    images = pair.sample(10, mean=True, seed=3).numpy()
    assert shown(figure).shape == (3 * 17 - 1, 4 * 17 - 1)  # 8 x 8 pixels are drawn twice as large
    for i in range(10):
        np.testing.assert_array_equal(tile(figure, i // 4, i % 4), images[i, 0])
    assert (tile(figure, 2, 2) == 1).all()  # no picture is left for the last two places
    assert (tile(figure, 2, 3) == 1).all()
    assert (shown(figure)[16] == 1).all()  # between the rows
    assert (shown(figure)[:, 16] == 1).all()


def test_gaps_of_larger_pictures_are_thin():
    figure = plot.samples(vae(shape=(1, 28, 28)), 4)
    assert shown(figure).shape == (57, 57)
    assert (shown(figure)[28] == 1).all()


def test_reconstructions_stand_below_their_data(digits):
    pair = vae()
    figure = plot.reconstructions(pair, digits, 5, seed=2)
    below = pair.reconstruct(x=digits.x[:5], mean=True, seed=2).numpy()
    for i in range(5):
        np.testing.assert_array_equal(tile(figure, 0, i), digits.x[i, 0])
        np.testing.assert_array_equal(tile(figure, 1, i), below[i, 0])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["data", "reconstruction"]


def test_reconstructions_of_fewer_data_than_asked_for(digits):
    assert shown(plot.reconstructions(vae(), digits.x[:3].numpy(), 10)).shape == (33, 50)


def test_levels_are_drawn_anew_from_the_lowest_upwards(digits):
    torch.manual_seed(0)
    pair = pv.hvae((1, 8, 8), latents=(6, 4, 2))
    figure = plot.levels(pair, digits, 3, draws=2, seed=5)
    columns = [digits.x[:3], pair.reconstruct(x=digits.x[:3], mean=True, seed=5)]
    for anew in (["z1"], ["z1", "z2"], ["z1", "z2", "z3"]):
        columns += [pair.reconstruct(resample=anew, x=digits.x[:3], mean=True, seed=seed) for seed in (5, 6)]
    for j, column in enumerate(columns):
        for i in range(3):
            np.testing.assert_array_equal(tile(figure, i, j), column[i, 0])
    names = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert names == ["x", "all held", "z1", "to z2", "to z3"]
    nothing_held = plot.levels(vae(), digits, 2, draws=1)
    assert [t.get_text() for t in nothing_held.axes[0].get_xticklabels()] == ["x", "all held", "z"]


def test_levels_under_conditions(digits):
    figure = plot.levels(pv.cvae((1, 8, 8), latent=2), digits, 2, draws=1)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["x", "all held", "z"]


def test_traversals_with_levels_below_drawn_anew(digits):
    torch.manual_seed(0)
    pair = pv.hvae((1, 8, 8), latents=(6, 4), skip=False)
    figure = plot.traversals(pair, digits, site="z2", units=[3], values=[-2, 2], resample=["z1"])
    images = pair.traverse("z2", [3], [-2, 2], resample=["z1"], x=digits.x[:1])
    for j in range(2):
        np.testing.assert_array_equal(tile(figure, 0, j), images[0, j, 0])


def test_dynamic_data_are_drawn_once():
    grey = pv.data.load("digits", "test", binarise="dynamic")
    figure = plot.reconstructions(vae(), grey, 4)
    for i in range(4):
        np.testing.assert_array_equal(tile(figure, 0, i), grey.drawn(0).x[i, 0])


def run(**history):
    columns = {"objective": [-9.0, -6.0, -5.0], "elbo": [-7.0, -5.5, -5.0], "seconds": [1.0, 1.0, 1.0]}
    return Run(vae(), 0, "cpu", best_epoch=2, history=columns | history)


def test_learning_curves_show_the_history_and_the_best_epoch():
    ax = plot.learning_curves(run(validation_elbo=[-8.0, -6.0, -6.5])).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines == {
        "objective": [[1, -9], [2, -6], [3, -5]],
        "ELBO, training": [[1, -7], [2, -5.5], [3, -5]],
        "ELBO, validation": [[1, -8], [2, -6], [3, -6.5]],
        "best epoch: 2, -6.00": [[2, -6]],
    }
    assert [t.get_text() for t in ax.get_legend().get_texts()] == list(lines)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "nats per datum")


def test_no_epoch_is_best_without_validation():
    ax = plot.learning_curves(run()).axes[0]
    assert [line.get_label() for line in ax.lines] == ["objective", "ELBO, training"]


def test_learning_curves_of_a_training(digits):
    trained = pv.fit(vae(), digits, validation=digits, epochs=2, progress=False)
    ax = plot.learning_curves(trained).axes[0]
    assert ax.lines[2].get_ydata().tolist() == trained.history["validation_elbo"]


def codes(pair, x):
    return pair.encode(x=x, ancestors="mean")["z"].mean.numpy()


def test_latents_of_two_units_are_the_posterior_means_by_class(digits):
    pair = vae(latent=2)
    ax = plot.latents(pair, digits).axes[0]
    means = codes(pair, digits.x)
    assert len(ax.collections) == 10
    for label, points in enumerate(ax.collections):
        np.testing.assert_array_equal(points.get_offsets(), means[digits.labels == label])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [str(i) for i in range(10)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z, unit 0", "z, unit 1")


def test_latents_without_labels_have_one_colour_and_no_legend(digits):
    ax = plot.latents(vae(), digits.x).axes[0]
    assert len(ax.collections) == 1
    assert ax.get_legend() is None


def test_labels_given_go_before_those_of_the_data(digits):
    names = ["odd" if label % 2 else "even" for label in digits.labels]
    ax = plot.latents(vae(), digits, names).axes[0]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["even", "odd"]


@pytest.mark.parametrize("labels", [torch.linspace(0, 1, 270), torch.arange(270)])
def test_a_quantity_has_a_colour_bar(digits, labels):
    figure = plot.latents(vae(), digits, labels)
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_array(), labels)
    assert len(figure.axes) == 2
    assert figure.axes[0].get_legend() is None


def test_more_units_are_projected_on_their_principal_components(digits):
    pair = vae(latent=5)
    ax = plot.latents(pair, digits.x).axes[0]
    centred = codes(pair, digits.x) - codes(pair, digits.x).mean(0)
    _, s, components = np.linalg.svd(centred, full_matrices=False)
    drawn, expected = ax.collections[0].get_offsets(), centred @ components[:2].T
    np.testing.assert_allclose(np.abs(drawn), np.abs(expected), atol=1e-4)  # a component has no sign
    shares = s**2 / (s**2).sum()
    assert ax.get_xlabel() == f"z, component 1 ({shares[0]:.0%} of the variance)"
    assert ax.get_ylabel() == f"z, component 2 ({shares[1]:.0%} of the variance)"


def test_one_unit_is_a_histogram(digits):
    pair = vae(latent=1)
    ax = plot.latents(pair, digits).axes[0]
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(len(digits.x))
    assert len(ax.patches) == 10 * 40
    left, right = ax.patches[0].get_x(), ax.patches[39].get_x() + ax.patches[39].get_width()
    means = codes(pair, digits.x)
    assert (left, right) == pytest.approx((means.min(), means.max()), abs=1e-5)
    assert len(ax.get_legend().get_texts()) == 10
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z, unit 0", "data")
    plain = plot.latents(pair, digits.x).axes[0]
    assert sum(bar.get_height() for bar in plain.patches) == len(digits.x)
    assert plain.get_legend() is None


def test_manifold_is_decoded_at_the_quantiles_of_the_prior():
    pair = vae(latent=2)
    figure = plot.manifold(pair, 4)
    normal = torch.distributions.Normal(0.0, 1.0)
    for row in range(4):
        for column in range(4):
            shares = torch.tensor([(column + 0.5) / 4, 1 - (row + 0.5) / 4])  # unit 0 to the right, unit 1 upwards
            expected = pair.decode({"z": normal.icdf(shares)[None]})
            np.testing.assert_allclose(tile(figure, row, column), expected[0, 0], atol=1e-5)
    ticks = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert ticks == ["-1.2", "-0.3", "0.3", "1.2"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ticks
    heights = figure.axes[0].get_yticks()
    assert heights[0] > heights[-1]  # rows are counted from the top


def test_manifold_needs_two_units():
    with pytest.raises(ValueError, match=r"two units, found 'z' of shape \(3,\)"):
        plot.manifold(vae(latent=3))


def test_traversals_rank_units_by_the_variance_of_their_means():
    x = torch.zeros(5, 3, 4)
    x[:, 0] = torch.linspace(-1, 1, 5)[:, None] * torch.tensor([1.0, 3.0, 0.5, 2.0])
    x[0] = 0.5
    figure = plot.traversals(pixels(4), x, values=(0, 0.25, 1))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["1", "3", "0", "2"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0", "0.25", "1"]
    for row, unit in enumerate([1, 3, 0, 2]):
        for column, value in enumerate([0, 0.25, 1]):
            expected = np.zeros((3, 4))
            expected[0] = 0.5  # the code of the first datum
            expected[0, unit] = value
            np.testing.assert_array_equal(tile(figure, row, column, 3, 4), expected)


def test_traversals_of_the_units_asked_for(digits):
    pair = vae(latent=12)
    figure = plot.traversals(pair, digits.x[:1], units=[7, 2])
    moved = pair.traverse(units=[7, 2], x=digits.x[:1]).numpy()
    assert shown(figure).shape == (2 * 17 - 1, 7 * 17 - 1)
    for row in range(2):
        for column in range(7):
            np.testing.assert_array_equal(tile(figure, row, column), moved[row, column, 0])


def test_traversals_show_ten_units_at_most_and_in_order_where_nothing_ranks_them(digits):
    pair = vae(latent=12)
    assert len(plot.traversals(pair, digits).axes[0].get_yticks()) == 10
    alone = plot.traversals(pair, digits.x[:1]).axes[0]
    assert [t.get_text() for t in alone.get_yticklabels()] == [str(i) for i in range(10)]


def test_interpolations_go_from_code_to_code(digits):
    pair = vae()
    figure = plot.interpolations(pair, digits.x[:3], digits.x[3:6], 5)
    a, b = codes(pair, digits.x[:3]), codes(pair, digits.x[3:6])
    assert shown(figure).shape == (3 * 17 - 1, 5 * 17 - 1)
    for row in range(3):
        for column, weight in enumerate(np.linspace(0, 1, 5)):
            expected = pair.decode({"z": ((1 - weight) * a + weight * b)[row][None]})
            np.testing.assert_allclose(tile(figure, row, column), expected[0, 0], atol=1e-5)


def test_interpolations_need_pairs(digits):
    with pytest.raises(ValueError, match="interpolate: 3 data to start from, 2"):
        plot.interpolations(vae(), digits.x[:3], digits.x[:2])


def test_colour_images_keep_their_channels_and_are_clipped():
    pair = vae(shape=(3, 8, 8), likelihood=Normal)
    x = torch.rand(4, 3, 8, 8) * 2 - 0.5
    figure = plot.reconstructions(pair, x)
    assert shown(figure).shape == (33, 67, 3)
    for i in range(4):
        np.testing.assert_array_equal(tile(figure, 0, i), x[i].permute(1, 2, 0).clamp(0, 1))


def test_images_without_a_channel():
    x = torch.rand(3, 3, 4)
    figure = plot.reconstructions(pixels(12), {"picture": x})
    np.testing.assert_array_equal(tile(figure, 0, 2, 3, 4), x[2])


@pytest.mark.parametrize("shape", [(64,), (2, 8, 8), (1, 3, 8, 8)])
def test_data_that_are_no_images_are_named(shape):
    pair = vae(shape=shape)
    x = torch.zeros(2, *shape)
    expected = rf"expected images of shape \(H, W\), .*, found x of shape \({', '.join(map(str, shape))},?\)"
    for draw in (
        lambda: plot.samples(pair, 2),
        lambda: plot.reconstructions(pair, x),
        lambda: plot.manifold(pair, 2),
        lambda: plot.traversals(pair, x),
        lambda: plot.interpolations(pair, x, x),
    ):
        with pytest.raises(ValueError, match=expected):
            draw()
    assert not plt.get_fignums()


def several(first=None, second=None, n=1):
    with pyro.plate("data", n if first is None else len(first)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
        pyro.sample("first", dist.Normal(z, 1).to_event(1), obs=first)
        pyro.sample("second", dist.Normal(z[..., None] * torch.ones(2), 1).to_event(2), obs=second)


def read_first(first, second):
    with pyro.plate("data", len(first)):
        pyro.sample("z", dist.Normal(first, 0.1).to_event(1))


def test_of_several_data_sites_the_first_image_is_shown():
    pair = pv.Variant(several, read_first)
    batch = {"first": torch.rand(3, 2), "second": torch.rand(3, 2, 2)}
    figure = plot.reconstructions(pair, batch)
    for i in range(3):
        np.testing.assert_array_equal(tile(figure, 0, i, 2, 2), batch["second"][i])
    np.testing.assert_allclose(tile(plot.manifold(pair, 1), 0, 0, 2, 2), 0, atol=1e-6)


def levels(x=None, n=1):
    with pyro.plate("data", n if x is None else len(x)):
        top = pyro.sample("top", dist.Normal(torch.zeros(2), 1).to_event(1))
        low = pyro.sample("low", dist.Normal(top.repeat_interleave(2, -1), 1).to_event(1))
        return pyro.sample("x", dist.Normal(low.unflatten(-1, (2, 2)), 1).to_event(2), obs=x)


def climb(x):
    with pyro.plate("data", len(x)):
        top = pyro.sample("top", dist.Normal(x.mean(-1), 0.1).to_event(1))
        pyro.sample("low", dist.Normal(x.flatten(1) + top.sum(-1, keepdim=True), 0.1).to_event(1))


def test_a_site_is_chosen_by_name_and_is_the_first_otherwise():
    pair, x = pv.Variant(levels, climb), torch.rand(6, 2, 2)
    assert plot.latents(pair, x).axes[0].get_xlabel() == "top, unit 0"
    assert plot.latents(pair, x, site="low").axes[0].get_xlabel().startswith("low, component 1")
    assert plot.traversals(pair, x, site="low").axes[0].get_ylabel() == "unit of low"
    assert plot.manifold(pair, 3).axes[0].get_ylabel() == "top, unit 1"
    with pytest.raises(ValueError, match="'low' of shape"):
        plot.manifold(pair, 3, site="low")
    for draw in (plot.latents, plot.traversals):
        with pytest.raises(ValueError, match="site: unknown 'z', expected one of low, top"):
            draw(pair, x, site="z")
    with pytest.raises(ValueError, match="site: unknown 'z', expected one of low, top"):
        plot.manifold(pair, site="z")


def test_a_posterior_without_a_centre_is_named(digits):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", pv.distributions.Sampled(lambda n: torch.rand(n, 2), (2,)))

    with pytest.raises(ValueError, match="finite mean, or a mode, found none at 'z'"):
        plot.latents(pv.Variant(vae().model, guide), digits)


def conditional(x=None, c=None, n=1):
    with pyro.plate("data", n if x is None else len(x)):
        c = pyro.sample("c", dist.Normal(0.0, 1.0), obs=c)
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
        pixels = (0.1 * z)[..., None] + c[..., None, None].expand(*c.shape, 2, 2)
        return pyro.sample("x", dist.Normal(pixels, 0.1).to_event(2), obs=x)


def given(x, c):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(10 * (x.mean(-1) - c[..., None]), 0.1).to_event(1))


def test_conditions_are_handed_on():
    pair = pv.Variant(conditional, given, conditions=("c",))
    c = torch.full((1,), 0.5)
    expected = pair.sample(4, mean=True, seed=0, c=c).clamp(0, 1)
    np.testing.assert_array_equal(tile(plot.samples(pair, 4, c=c), 1, 0, 2, 2), expected[2])
    np.testing.assert_allclose(tile(plot.manifold(pair, 3, c=c), 1, 1, 2, 2), 0.5)
    x, c = torch.rand(3, 2, 2), torch.rand(3)
    figure = plot.interpolations(pair, x, x, 2, c=c)
    for i in range(3):
        for side in (0, 1):
            rows = x[i].mean(-1, keepdim=True).expand(2, 2)
            np.testing.assert_allclose(tile(figure, i, side, 2, 2), rows, atol=1e-6)
    for draw in (plot.reconstructions, plot.traversals):
        draw(pair, {"x": x, "c": c})
    assert plot.latents(pair, {"x": x, "c": c}).axes[0].collections[0].get_offsets().shape == (3, 2)


DRAWINGS = {
    "samples": lambda pair, data, ax: plot.samples(pair, 4, ax=ax),
    "reconstructions": lambda pair, data, ax: plot.reconstructions(pair, data, ax=ax),
    "learning_curves": lambda pair, data, ax: plot.learning_curves(run(), ax=ax),
    "latents": lambda pair, data, ax: plot.latents(pair, data, ax=ax),
    "prior": lambda pair, data, ax: plot.prior(pair, data, ax=ax),
    "manifold": lambda pair, data, ax: plot.manifold(pair, 2, ax=ax),
    "traversals": lambda pair, data, ax: plot.traversals(pair, data, ax=ax),
    "interpolations": lambda pair, data, ax: plot.interpolations(pair, data.x[:2], data.x[2:4], ax=ax),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_pictures_are_drawn_on_the_axes_handed_in(draw, digits):
    figure, axes = plt.subplots(1, 2, sharex=True, sharey=True)
    assert draw(vae(), digits, axes[1]) is figure
    assert axes[1].has_data()
    assert not axes[0].has_data()
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_pictures_open_one_figure_otherwise(draw, digits):
    figure = draw(vae(), digits, None)
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()


def test_axes_of_a_subfigure_give_the_whole_figure():
    figure = plt.figure()
    ax = figure.subfigures(1, 2)[1].subplots()
    assert plot.samples(vae(), 4, ax=ax) is figure


@pytest.mark.parametrize("count", [0, -1, 2.5, True])
def test_counts_are_positive(count, digits):
    for draw in (
        lambda: plot.samples(vae(), count),
        lambda: plot.reconstructions(vae(), digits, count),
        lambda: plot.manifold(vae(), count),
        lambda: plot.interpolations(vae(), digits.x[:1], digits.x[:1], count),
    ):
        with pytest.raises(ValueError, match=f"expected a whole number of at least 1, found {count}"):
            draw()
    assert not plt.get_fignums()


def test_labels_are_one_per_datum(digits):
    with pytest.raises(ValueError, match="labels: expected 270, one per datum, found 3"):
        plot.latents(vae(), digits, [1, 2, 3])
    assert not plt.get_fignums()


def test_codes_that_are_all_alike_cannot_be_projected(digits):
    with pytest.raises(ValueError, match="more than one code at 'z' to project, found 1 alike"):
        plot.latents(vae(latent=5), digits.x[:1])
    assert not plt.get_fignums()


def test_pictures_leave_pair_and_generators_as_they_were(digits):
    pair = vae().train()
    state = torch.get_rng_state()
    plot.samples(pair, 4)
    plot.reconstructions(pair, Data(digits.x, dynamic=True))
    plot.latents(pair, digits)
    plot.prior(pair, digits)
    plot.manifold(pair, 2)
    assert pair.training
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------------- priors

PRIORS = {
    "StandardNormal": pv.priors.StandardNormal,
    "StudentT": pv.priors.StudentT,
    "Horseshoe": pv.priors.Horseshoe,
    "RectifiedNormal": pv.priors.RectifiedNormal,
    "SphericalUniform": pv.priors.SphericalUniform,
    "Mixture": partial(pv.priors.Mixture, components=5),
    "Vamp": partial(pv.priors.Vamp, pseudo_inputs=5),
    "Flow": partial(pv.priors.Flow, transforms=1, hidden=(8,)),
    "Autoregressive": partial(pv.priors.Autoregressive, hidden=(8,)),
    "Hierarchical": pv.priors.Hierarchical,
    "HierarchicalHorseshoe": pv.priors.HierarchicalHorseshoe,
    "Sampled": lambda latent: pv.priors.Sampled(latent, lambda n: torch.rand(n, latent)),
    "Gamma": lambda: dist.Gamma(torch.ones(2), 1.0).to_event(1),
}
EXACT = {"StandardNormal", "StudentT", "Horseshoe", "Mixture", "Vamp", "Flow", "Autoregressive", "Gamma"}


def density(figure):
    """The density that is shown, unit 0 first, and the centres of its cells."""
    shading = figure.axes[0].images[0]
    left, right, low, high = shading.get_extent()
    values = shading.get_array().data.T
    across, up = ((np.arange(n) + 0.5) / n for n in values.shape)
    return values, left + across * (right - left), low + up * (high - low)


def mass(figure):
    values, x, y = density(figure)
    return values.sum() * (x[1] - x[0]) * (y[1] - y[0])


def test_the_density_of_a_prior_is_exact_in_a_plane(digits):
    figure = plot.prior(vae(), digits)
    values, x, y = density(figure)
    expected = np.exp(-(x[:, None] ** 2 + y**2) / 2) / (2 * np.pi)
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    assert min(x) < -3
    assert max(y) > 3
    heights = [contour.levels for contour in figure.axes[0].collections if hasattr(contour, "levels")]
    # outside of a share s of a plane's standard normal the density is less than (1 - s) / (2 pi)
    np.testing.assert_allclose(heights[0], np.array([0.01, 0.1, 0.5]) / (2 * np.pi), rtol=0.02)
    assert figure.axes[0].get_title() == "points: z ~ q(z | x);  lines: 50%, 90%, 99% of p(z)"
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("z, unit 0", "z, unit 1")


def test_codes_over_a_prior_are_draws_by_class(digits):
    pair = vae()
    ax = plot.prior(pair, digits, n=200, seed=3).axes[0]
    with pv.tracing.seeded(3):
        z = pair.encode(x=digits.x[:200], seed=None)["z"].sample().numpy()
    points = [points for points in ax.collections if not hasattr(points, "levels")]
    assert len(points) == 10
    for label, group in enumerate(points):
        np.testing.assert_array_equal(group.get_offsets(), z[digits.labels[:200] == label])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [str(i) for i in range(10)]


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_has_pictures(digits, name):
    pair = vae(prior=PRIORS[name])
    if name in EXACT:  # the same from any draws, but for where it ends
        (values, x, y), fn = density(plot.prior(pair)), pair.latent_sites()["z"]
        z = torch.cartesian_prod(torch.as_tensor(x[::20]), torch.as_tensor(y[::20])).float()
        known = fn.support.check(z[:, None]).squeeze(1)
        expected = torch.zeros(len(z))
        expected[known] = fn.log_prob(z[known, None]).squeeze(1).detach().exp()
        np.testing.assert_allclose(values[::20, ::20].reshape(-1), expected, rtol=1e-3, atol=1e-6)
    else:
        assert mass(plot.prior(pair)) == pytest.approx(1, abs=0.2 if "Horseshoe" in name else 0.05)
    plot.prior(pair, digits, n=50)
    plot.samples(pair, 2)
    plot.latents(pair, digits)
    plot.traversals(pair, digits.x[:1])
    plot.interpolations(pair, digits.x[:1], digits.x[1:2], 3)
    if name == "SphericalUniform":
        with pytest.raises(ValueError, match="expected codes that fill a plane, found 'z'"):
            plot.manifold(pair, 2)
    else:
        assert plot.manifold(pair, 3).axes[0].get_ylabel() == "z, unit 1"


def test_codes_on_a_sphere_are_shown_on_it(digits):
    pair = vae(prior=pv.priors.SphericalUniform)
    points = plot.latents(pair, digits.x).axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
    values, x, y = density(plot.prior(pair))
    lengths = np.hypot(x[:, None], y)
    assert values[lengths < 0.5].max() < 1e-3 * values.max()  # a ring


def test_a_posterior_without_a_mean_is_shown_at_its_mode(digits):
    pair = vae(prior=pv.priors.Horseshoe, posterior=pv.posteriors.Horseshoe)
    points = plot.latents(pair, digits.x).axes[0].collections[0].get_offsets()
    np.testing.assert_array_equal(points, pair.encode(x=digits.x)["z"].mode.numpy())


def blobs(x=None, n=1):
    with pyro.plate("data", n if x is None else len(x)):
        u = pyro.sample("u", dist.Bernoulli(0.5))
        z = pyro.sample("z", dist.Normal(torch.stack([10 * u - 5, 0 * u], -1), 0.1).to_event(1))
        return pyro.sample("x", dist.Normal(z[..., None] * torch.ones(2), 1).to_event(2), obs=x)


def test_a_density_that_depends_on_other_draws_is_estimated():
    pair = pv.Variant(blobs, lambda x: None)
    values, x, y = density(plot.prior(pair))  # not of u, which is discrete
    assert mass(plot.prior(pair)) == pytest.approx(1, abs=0.02)
    across = values.sum(1) * (x[1] - x[0]) * (y[1] - y[0])
    for side in (x < 0, x > 0):
        assert across[side].sum() == pytest.approx(0.5, abs=0.02)
        assert np.average(np.abs(x[side]), weights=across[side]) == pytest.approx(5, abs=0.02)
    with pytest.raises(ValueError, match="site: expected codes that are numbers, found 'u', Bernoulli"):
        plot.prior(pair, site="u")


def test_a_prior_of_one_unit_is_a_line(digits):
    pair = vae(latent=1)
    ax = plot.prior(pair, digits).axes[0]
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(y, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), rtol=1e-4)
    assert y.sum() * (x[1] - x[0]) == pytest.approx(1, abs=0.01)
    assert sum(bar.get_height() * bar.get_width() for bar in ax.patches) == pytest.approx(1, abs=1e-4)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z, unit 0", "density")
    assert ax.get_title() == "bars: z ~ q(z | x);  line: p(z)"
    drawn = vae(latent=1, prior=pv.priors.Hierarchical)
    x, y = plot.prior(drawn).axes[0].lines[0].get_data()
    assert y.sum() * (x[1] - x[0]) == pytest.approx(1, abs=0.02)


def test_a_prior_of_more_units_is_projected_as_its_codes_are(digits):
    pair = vae(latent=5)
    figure = plot.prior(pair, digits.x)
    with pv.tracing.seeded(0):
        z = pair.encode(x=digits.x, seed=None)["z"].sample().numpy()
    _, s, components = np.linalg.svd(z - z.mean(0), full_matrices=False)
    share = s[0] ** 2 / (s**2).sum()
    assert figure.axes[0].get_xlabel() == f"z, component 1 ({share:.0%} of the variance)"
    values, x, y = density(figure)
    centre = np.abs(components[:2] @ z.mean(0))  # how far the codes' mean is from that of the prior
    cell = (x[1] - x[0]) * (y[1] - y[0])
    assert values.sum() * cell == pytest.approx(1, abs=0.02)
    assert abs((values.sum(1) * x).sum() * cell) == pytest.approx(centre[0], abs=0.05)
    assert (values.sum(1) * x**2).sum() * cell - centre[0] ** 2 == pytest.approx(1, abs=0.1)
    assert plot.prior(pair).axes[0].get_ylabel().startswith("z, component 2")


def test_the_top_level_is_the_prior(digits):
    torch.manual_seed(0)
    pair = pv.hvae((1, 8, 8), latents=(4, 2))
    assert plot.prior(pair, digits, n=50).axes[0].get_xlabel() == "z2, unit 0"
    below = plot.prior(pair, digits, n=50, site="z1").axes[0]
    assert below.get_xlabel().startswith("z1, component 1")
    own = vae(prior=pv.priors.Hierarchical)
    assert plot.prior(own).axes[0].get_xlabel() == "z, unit 0"
    assert plot.prior(own, digits, n=50, site="u").axes[0].get_xlabel().startswith("u, component 1")


def test_a_prior_under_conditions(digits):
    pair = pv.Variant(conditional, given, conditions=("c",))
    x, c = torch.rand(30, 2, 2), torch.rand(30)
    values, across, up = density(plot.prior(pair, {"x": x, "c": c}))
    expected = np.exp(-(across[:, None] ** 2 + up**2) / 2) / (2 * np.pi)  # whatever the condition
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    np.testing.assert_allclose(density(plot.prior(pair, c=0.5))[0].max(), 1 / (2 * np.pi), rtol=1e-2)
    torch.manual_seed(0)
    learned = pv.cvae((1, 8, 8), latent=2, prior=pv.priors.Conditional)
    assert mass(plot.prior(learned, digits)) == pytest.approx(1, abs=0.02)
    one = plot.prior(learned, c=3)
    assert mass(one) == pytest.approx(1, abs=0.02)


def test_sites_and_labels_that_a_prior_does_not_have(digits):
    pair = pv.cvae((1, 8, 8), latent=2)
    for site in ("c", "x", "u"):
        with pytest.raises(ValueError, match=f"site: unknown '{site}', expected one of z"):
            plot.prior(pair, digits, site=site)
    with pytest.raises(ValueError, match="labels: expected 270, one per datum, found 3"):
        plot.prior(vae(), digits, [1, 2, 3])
    with pytest.raises(ValueError, match="n: expected a whole number of at least 1, found 0"):
        plot.prior(vae(), digits, n=0)
    assert not plt.get_fignums()


def test_codes_far_in_the_tails_are_counted():
    x = torch.zeros(100, 3, 4)
    x[:2] = 1e4
    ax = plot.prior(pixels(2), {"picture": x}).axes[0]
    assert ax.get_title().startswith("points: code ~ q(code | x) (2 of 100 outside)")
    assert ax.get_xlim()[1] < 10


def test_a_manifold_of_another_prior_is_decoded_at_the_quantiles_of_its_draws():
    pair = vae(prior=lambda: dist.Exponential(torch.tensor([1.0, 0.5])).to_event(1))
    ax = plot.manifold(pair, 4).axes[0]
    across, up = ([float(t.get_text()) for t in ticks] for ticks in (ax.get_xticklabels(), ax.get_yticklabels()))
    expected = -np.log(1 - (np.arange(4) + 0.5) / 4)
    assert across == pytest.approx(expected, abs=0.11)
    assert up == pytest.approx(2 * expected, abs=0.16)
