"""The quality of draws: distances against closed forms and brute force, collapse and blur that are made by hand."""

import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from sklearn.neighbors import KernelDensity
from torch import nn
from torch.utils.data import DataLoader

import pyro_vae as pv
from pyro_vae.data import Data
from pyro_vae.evaluation import (
    FeatureNet,
    frechet_distance,
    parzen_log_likelihood,
    precision_recall,
    sample_quality,
    sharpness,
    train_classifier,
)


def normal(n, d, seed, **keywords):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, **keywords)


def with_moments(n, mean, covariance, seed):
    """A sample that has a mean and a covariance to the last digit."""
    z = normal(n, len(mean), seed).numpy()
    z = z - z.mean(0)
    z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T).reshape(len(mean), -1))).T
    return z @ np.linalg.cholesky(covariance).T + mean


def covariance(d, seed):
    root = normal(d, d, seed).numpy()
    return root @ root.T + 0.1 * np.eye(d)


# ------------------------------------------------------------------ Frechet distance


def test_frechet_distance_of_normals_along_the_axes():
    """Covariances that commute: |m_a - m_b|^2 + |s_a - s_b|^2."""
    means, spreads = [np.array([1.0, -2.0, 0.5]), np.zeros(3)], [np.array([1.0, 2.0, 0.3]), np.array([0.5, 3.0, 0.3])]
    a, b = (with_moments(n, m, np.diag(s**2), n) for n, m, s in zip((50, 80), means, spreads, strict=True))
    expected = np.square(means[0] - means[1]).sum() + np.square(spreads[0] - spreads[1]).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("d", [1, 2, 7])
def test_frechet_distance_against_the_root_of_scipy(d):
    means, covariances = normal(2, d, 3).numpy(), [covariance(d, 4), covariance(d, 5)]
    a, b = (with_moments(40, m, c, i) for i, (m, c) in enumerate(zip(means, covariances, strict=True)))
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    expected = np.square(means[0] - means[1]).sum() + np.trace(sum(covariances) - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_with_fewer_draws_than_dimensions():
    a, b = normal(6, 20, 0), normal(9, 20, 1) + 0.3
    first, second = np.cov(a.numpy().T), np.cov(b.numpy().T)
    shared = np.sqrt(np.linalg.eigvals(first @ second).real.clip(0)).sum()
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(first + second) - 2 * shared
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


# ------------------------------------------------------------------ precision and recall


def brute_force(real, drawn, k):
    """Balls one by one."""

    def share(points, sample):
        radii = [sorted(np.linalg.norm(sample - s, axis=1))[k] for s in sample]  # the first is the member itself
        return np.mean([any(np.linalg.norm(p - s) <= r for s, r in zip(sample, radii, strict=True)) for p in points])

    return share(drawn, real), share(real, drawn)


@pytest.mark.parametrize(("n", "m", "d", "k"), [(30, 20, 2, 1), (25, 40, 5, 3), (12, 7, 1, 5)])
def test_precision_and_recall_against_brute_force(n, m, d, k):
    real, drawn = normal(n, d, n), 0.7 * normal(m, d, m + 100) + 0.5
    precision, recall = precision_recall(real, drawn, k)
    assert (precision, recall) == pytest.approx(brute_force(real.numpy(), drawn.numpy(), k), abs=1e-12)
    assert 0 < precision < 1 or 0 < recall < 1


def test_a_dropped_mode_costs_recall_and_outliers_cost_precision():
    modes = torch.cat([normal(40, 2, 0), normal(40, 2, 1) + 100])
    assert precision_recall(modes, modes) == (1.0, 1.0)
    precision, recall = precision_recall(modes, modes[:40])
    assert (precision, recall) == (1.0, 0.5)
    outliers = torch.cat([modes, 1e4 * normal(20, 2, 2)])
    precision, recall = precision_recall(modes, outliers)
    assert precision == 0.8
    assert recall == 1.0


def test_neighbours_of_data_that_come_again_are_found_to_the_last_digit():
    points = 100 + normal(10, 64, 0)
    copies = points.repeat(5, 1)  # every radius is 0
    assert precision_recall(copies, copies) == (1.0, 1.0)
    assert precision_recall(copies, copies + 1e-9)[0] == 0


def test_many_draws_are_taken_in_parts(monkeypatch):
    real, drawn = normal(50, 3, 0), 0.5 * normal(45, 3, 1)
    whole = precision_recall(real, drawn)
    monkeypatch.setattr(
        "pyro_vae.evaluation.fidelity._parts", lambda s, others=None: list(pv.tracing.slices(len(s), 7))
    )
    assert precision_recall(real, drawn) == whole


# ------------------------------------------------------------------ sharpness


def test_sharpness_of_an_image_made_by_hand():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 3.0  # the Laplacian of the 9 inner pixels: -12, four times 3, four times 0
    values = np.array([-12, 3, 3, 3, 3, 0, 0, 0, 0])
    assert sharpness(image).item() == pytest.approx(values.var())
    ramp = torch.arange(6.0).expand(1, 1, 4, 6) + 10
    assert sharpness(ramp).item() == pytest.approx(0, abs=1e-10)


def test_sharpness_against_scipy_of_colour_images():
    images = torch.rand(3, 3, 9, 12, dtype=torch.float64)
    expected = [scipy.ndimage.laplace(x)[1:-1, 1:-1].var() for x in images.mean(1).numpy()]
    np.testing.assert_allclose(sharpness(images), expected, rtol=1e-12)
    assert sharpness((255 * images).byte()).dtype == torch.float32


def test_blur_lowers_sharpness():
    images = pv.data.load("digits", "test").x
    found = []
    for width in (0.0, 0.4, 0.6, 0.8, 1.2, 2.0):
        blurred = scipy.ndimage.gaussian_filter(images.numpy(), (0, 0, width, width)) if width else images
        found.append(float(sharpness(blurred).mean()))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.05 * found[0]


# ------------------------------------------------------------------ the classifier


@pytest.fixture(scope="module")
def digits():
    return {split: pv.data.load("digits", split, binarise="dynamic") for split in ("train", "test")}


@pytest.fixture(scope="module")
def classifier(digits):
    return train_classifier(digits["train"])


def test_the_classifier_knows_digits(classifier, digits):
    assert classifier.accuracy > 0.9
    assert not any(module.training for module in classifier.modules())
    test = digits["test"]
    with torch.no_grad():
        right = (classifier(test.used(test.x)).argmax(-1) == test.labels).float().mean()
    assert right > 0.9
    assert abs(right - classifier.accuracy) < 4 * (0.1 * 0.9 / 125) ** 0.5  # as it says itself, of 125 held out


def test_the_same_seed_gives_the_same_classifier_and_leaves_generators_alone(digits):
    state = torch.get_rng_state()
    with torch.no_grad():  # a caller's
        one, two, other = (train_classifier(digits["train"], steps=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert not torch.equal(one.head.weight, other.head.weight)


def test_a_classifier_is_saved_as_a_state_dict(classifier, tmp_path):
    torch.save(classifier.state_dict(), tmp_path / "net.pt")
    again = FeatureNet(classifier.data_shape, classifier.classes)
    assert math.isnan(again.accuracy)
    again.load_state_dict(torch.load(tmp_path / "net.pt"))
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(x), classifier(x))
    assert again.accuracy == classifier.accuracy


def test_features_are_the_last_hidden_layer_in_the_units_of_the_training_data(classifier, digits):
    x = digits["test"].x[:5]
    torch.testing.assert_close(classifier.head(classifier.features(x)), classifier(x))
    torch.testing.assert_close(
        classifier.features(x), classifier.net((x - classifier.mean) / classifier.std).relu(), rtol=0, atol=0
    )
    assert classifier.std.item() != 1
    assert classifier.features(x.double()).dtype == torch.float32
    train = digits["train"]
    expected = train.x.mean()  # of binary draws from grey values
    assert abs(classifier.mean.item() - expected) < 4 * 0.5 / train.x.numel() ** 0.5
    assert classifier.mean.shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((1, 8, 8), pv.nets.Conv), ((3, 33, 20), pv.nets.Conv), ((1, 7, 9), pv.nets.MLP), (6, pv.nets.MLP)],
)
def test_networks_suit_the_data(shape, kind):
    net = FeatureNet(shape, classes=3, width=10)
    assert isinstance(net.net, kind)
    x = torch.randn(2, *net.data_shape)
    assert net.features(x).shape == (2, 10)
    assert net(x).shape == (2, 3)
    assert (net.features(x) >= 0).all()


def test_data_without_a_label_are_left_out():
    x, labels = normal(60, 4, 0).float(), torch.arange(60) % 2
    x[:, 0] += 10 * labels
    alone = train_classifier(x, labels, steps=30)
    more = torch.cat([x, torch.full((40, 4), 1e6)])
    beside = train_classifier({"x": more}, torch.cat([labels, torch.full((40,), -1)]), steps=30)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, beside.state_dict()[name])
    assert alone.accuracy == 1.0
    assert alone.mean.shape == (4,)


def test_data_are_read_as_they_are_used():
    stored = (255 * torch.rand(40, 1, 8, 8)).byte()
    labels = torch.arange(40) % 2
    net = train_classifier(Data(stored, labels, divide_by=255), steps=2)
    assert 0.4 < net.mean.item() < 0.6
    with_draws = train_classifier(Data(torch.full((40, 1, 8, 8), 0.5), labels, dynamic=True), steps=2)
    assert with_draws.std.item() == pytest.approx(0.5, abs=0.02)  # of fair coins; of the grey values it would be 0


# ------------------------------------------------------------------ the report


@pytest.fixture(scope="module")
def pair(digits):
    torch.manual_seed(0)
    pair = pv.vae((1, 8, 8), latent=8)
    pv.fit(pair, digits["train"], epochs=30, progress=False)
    return pair


def test_the_quality_of_a_trained_pair_end_to_end(pair, digits, classifier):
    untrained = pv.vae((1, 8, 8), latent=8)
    state = torch.get_rng_state()
    good, bad = (sample_quality(p, digits["test"], classifier=classifier) for p in (pair, untrained))
    assert torch.equal(torch.get_rng_state(), state)
    assert good == sample_quality(pair, digits["test"], classifier=classifier)
    assert good.n == 135
    assert good.reference == bad.reference
    assert good.reference.reference is None
    assert good.reference.frechet < good.frechet < bad.frechet / 2
    assert good.recall > bad.recall + 0.3
    assert good.class_distance < bad.class_distance
    assert good.classes == 10 == len(good.frequencies)
    assert sum(good.frequencies) == pytest.approx(1)
    assert abs(good.sharpness / good.reference.sharpness - 1) < 0.6  # noise of binary draws included
    assert good.accuracy == classifier.accuracy
    found = json.loads(json.dumps(good.to_dict()))
    assert found["reference"]["frechet"] == good.reference.frechet
    text = str(good)
    assert [line.split()[0] for line in text.splitlines()[1:]] == [
        *("Frechet", "precision", "recall", "classes", "class", "sharpness", "135")
    ]
    assert "not of Inception" in text
    assert str(good.reference)


def test_draws_in_place_of_a_pair_give_the_same(pair, digits, classifier):
    report = sample_quality(pair, digits["test"], n=50, classifier=classifier, seed=3)
    draws = pair.sample(50, seed=3)
    assert sample_quality(draws, digits["test"], n=50, classifier=classifier, seed=3) == report
    many = torch.cat([draws, torch.zeros(500, 1, 8, 8)])
    assert sample_quality(many, digits["test"], n=50, classifier=classifier, seed=3) == report
    assert sample_quality(draws, digits["test"], classifier=classifier, seed=3) == report
    means = sample_quality(pair, digits["test"], n=50, classifier=classifier, seed=3, mean=True)
    assert means.sharpness < report.sharpness / 2
    assert means.reference == report.reference


def test_figures_are_those_of_the_functions_on_features(digits, classifier):
    test = digits["test"].drawn(0)
    draws = digits["train"].drawn(1).x[:60]
    found = sample_quality(draws, test, classifier=classifier)
    order = torch.randperm(270, generator=torch.Generator().manual_seed(pv.data.feed.derived(0)))
    with torch.no_grad():
        real, drawn = classifier.features(test.x[order[:60]]), classifier.features(draws)
        classes = [torch.bincount(classifier(x).argmax(-1), minlength=10) / 60 for x in (test.x[order[:60]], draws)]
    assert found.frechet == pytest.approx(frechet_distance(real, drawn), rel=1e-5)
    assert (found.precision, found.recall) == precision_recall(real, drawn)
    assert found.class_distance == pytest.approx(float((classes[0] - classes[1]).abs().sum()) / 2, abs=1e-6)
    assert found.sharpness == pytest.approx(float(sharpness(draws).mean()), rel=1e-5)


def test_dropped_modes_are_seen(digits, classifier):
    data = digits["train"].drawn(1)
    everything, few, one = (
        sample_quality(x, digits["train"], n=600, classifier=classifier)
        for x in (data.x, data.x[data.labels < 5], data.x[:1].expand(600, 1, 8, 8))
    )
    order = torch.randperm(1257, generator=torch.Generator().manual_seed(pv.data.feed.derived(0)))
    missed = float((data.labels[order[:600]] >= 5).double().mean())
    assert few.class_distance == pytest.approx(missed, abs=0.05)  # the classifier is not always right
    assert few.class_distance > 4 * everything.class_distance
    assert sum(few.frequencies[5:]) < 0.05
    assert few.recall < everything.recall - 0.2
    assert few.precision > everything.precision - 0.05
    assert few.frechet > 5 * everything.frechet
    assert (everything.classes, one.classes) == (10, 1)
    assert one.recall < 0.05
    assert one.class_distance > 0.8


def mirror():
    """p(x | c) = N(x; c, tiny): draws are the conditions."""

    def model(c, x=None):
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            return pyro.sample("x", dist.Normal(c + 0 * z, 1e-6).to_event(1), obs=x)

    def guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))

    return pv.Variant(model, guide, conditions=["c"])


def test_draws_are_made_under_the_conditions_of_the_other_half():
    x, labels = normal(80, 3, 0).float(), torch.arange(80) % 2
    x[:, 0] += 4 * labels
    classifier = train_classifier(x, labels, steps=50)
    found = sample_quality(mirror(), {"x": x, "c": x}, classifier=classifier)
    for name in ("frechet", "precision", "recall", "classes", "class_distance"):
        assert getattr(found, name) == pytest.approx(getattr(found.reference, name), rel=1e-3), name
    assert found.sharpness is None
    assert "sharpness" not in str(found)
    with pytest.raises(ValueError, match="data: lack the condition 'c'"):
        sample_quality(mirror(), {"x": x}, classifier=classifier)


def test_pairs_under_classes_and_parts_of_images(digits, classifier):
    pair = pv.cvae((1, 8, 8), latent=2, classes=10)
    assert sample_quality(pair, digits["test"], n=30, classifier=classifier).n == 30
    halves = pv.data.Quadrants(digits["test"], given=2)
    pair = pv.cvae(halves.shape, latent=2, condition_shape=halves.condition_shape)
    beside = train_classifier(halves, steps=20)
    assert sample_quality(pair, halves, n=30, classifier=beside).sharpness is None
    semi = pv.m2((1, 8, 8), latent=2, classes=10)
    assert sample_quality(semi, digits["test"], n=30, classifier=classifier).n == 30


def test_without_a_classifier_one_is_trained_on_the_data():
    x, labels = normal(80, 3, 0).float(), torch.arange(80) % 2
    x[:, 0] += 8 * labels
    found = sample_quality(x[::2] + 0.1, Data(x, labels))
    assert found == sample_quality(x[::2] + 0.1, x, classifier=train_classifier(x, labels))
    assert found.frequencies == (1.0, 0.0)
    assert 0.3 < found.class_distance < 0.7


def test_of_several_data_sites_the_first_is_looked_at():
    def model(x=None, y=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(z[..., :1], 1).to_event(1), obs=y)

    pair = pv.Variant(model, lambda x, y: None)
    x, y = normal(40, 2, 0).float(), normal(40, 1, 1).float()
    classifier = FeatureNet(2, 2)  # untrained, so that it knows no accuracy
    found = sample_quality(pair, {"x": x, "y": y}, classifier=classifier)
    assert found == sample_quality(pair.sample(20, seed=0)["x"], {"x": x}, classifier=classifier)
    assert found.accuracy is None
    with pytest.raises(ValueError, match="data: w is no data site of the pair, which has x, y"):
        sample_quality(pair, {"w": x}, classifier=classifier)


def test_a_classifier_of_the_users_own(digits):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.head = nn.Dropout(), nn.Linear(64, 10)

        def features(self, x):
            return self.drop(x.flatten(1))

        def forward(self, x):
            return self.head(self.features(x))

    own = Own()
    draws = digits["train"].drawn(0).x[:40]
    found = sample_quality(draws, digits["test"], classifier=own)
    assert found == sample_quality(draws, digits["test"], classifier=own)  # no dropout
    assert own.drop.training
    assert found.accuracy is None
    test = digits["test"].drawn(0)
    order = torch.randperm(270, generator=torch.Generator().manual_seed(pv.data.feed.derived(0)))
    assert sample_quality(draws, test, classifier=own).frechet == pytest.approx(
        frechet_distance(test.x[order[:40]].flatten(1), draws.flatten(1)), rel=1e-9
    )


# ------------------------------------------------------------------ Parzen window


def test_parzen_against_kernel_density_of_scikit_learn():
    draws, data, validation = normal(300, 4, 0), 1.1 * normal(50, 4, 1), normal(40, 4, 2)
    scales = [0.1, 0.3, 0.5, 1.0, 3.0]
    found = parzen_log_likelihood(draws, data, validation=validation, scales=scales)
    density = {s: KernelDensity(bandwidth=s, rtol=1e-10).fit(draws) for s in scales}
    best = max(scales, key=lambda s: density[s].score(validation))
    assert found.scale == best == 0.5
    expected = density[best].score_samples(data)
    assert found.log_likelihood == pytest.approx(expected.mean(), rel=1e-7)
    assert found.standard_error == pytest.approx(expected.std(ddof=1) / 50**0.5, rel=1e-6)
    assert found.draws == 300
    assert "300 draws, scale 0.5" in str(found)


def test_parzen_of_images_in_parts_against_numpy(monkeypatch):
    draws, data = torch.rand(30, 1, 3, 3), torch.rand(20, 1, 3, 3)
    a, b = draws.double().flatten(1).numpy(), data.double().flatten(1).numpy()
    terms = -0.5 * np.square(b[:, None] - a[None]).sum(-1) / 0.2**2 - 9 * math.log(0.2 * math.sqrt(2 * math.pi))
    expected = np.log(np.exp(terms).mean(1)).mean()
    for _ in range(2):
        found = parzen_log_likelihood(draws, data, validation=data, scales=[0.2])
        assert found.log_likelihood == pytest.approx(expected, rel=1e-10)
        monkeypatch.setattr("pyro_vae.evaluation.parzen_window.slices", lambda size, _: pv.tracing.slices(size, 3))


def test_parzen_scales_follow_the_unit_of_the_data():
    draws, data, validation = normal(200, 2, 0), normal(100, 2, 1), normal(100, 2, 2)
    one, many = (parzen_log_likelihood(u * draws, u * data, validation=u * validation) for u in (1, 1000))
    assert many.scale == pytest.approx(1000 * one.scale)
    assert many.log_likelihood == pytest.approx(one.log_likelihood - 2 * math.log(1000))
    far = parzen_log_likelihood(draws + 1e7, data + 1e7, validation=validation + 1e7)  # where squares cancel
    assert far.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-6)
    assert math.isnan(parzen_log_likelihood(draws, data[:1], validation=data).standard_error)


# ------------------------------------------------------------------ bad input

X = torch.zeros(40, 3)
LABELS = torch.arange(40) % 2


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: frechet_distance(X[:1], X), ValueError, r"a: expected 2 or more vectors, \(n, d\), found shape"),
        (lambda: frechet_distance(X, X[:, :2]), ValueError, "a, b: expected vectors of one length, found 3 and 2"),
        (lambda: frechet_distance(X, X[None]), ValueError, "b: expected 2 or more vectors"),
        (lambda: frechet_distance(X, X + torch.nan), ValueError, "b: holds NaN"),
        (lambda: frechet_distance("x", X), TypeError, r"a: expected vectors \(n, d\), found str"),
        (lambda: precision_recall(X, X[:3]), ValueError, "drawn: expected more than k = 3 vectors, found 3"),
        (lambda: precision_recall(X, X, k=0), ValueError, "k: expected a whole number"),
        (lambda: sharpness(X), ValueError, r"images: expected \(n, channels, height, width\)"),
        (lambda: sharpness(torch.zeros(2, 1, 2, 5)), ValueError, "3 x 3 pixels or more"),
        (lambda: train_classifier(X), ValueError, "labels: missing"),
        (lambda: train_classifier(X, LABELS[:7]), ValueError, r"labels: expected \(40,\) whole numbers, found"),
        (lambda: train_classifier(X, LABELS.float()), ValueError, "labels: expected"),
        (lambda: train_classifier(X, "abc"), TypeError, "labels: expected whole numbers"),
        (lambda: train_classifier(X, 0 * LABELS), ValueError, "of 2 classes or more, found 40 of 1"),
        (lambda: train_classifier(X, LABELS - 1), ValueError, "found 20 of 1"),
        (lambda: train_classifier(X[:19], LABELS[:19]), ValueError, "expected 20 or more, of 2 classes"),
        (lambda: train_classifier(X + torch.nan, LABELS), ValueError, "data: x: holds NaN"),
        (lambda: train_classifier(X, LABELS, steps=0), ValueError, "steps: expected"),
        (lambda: train_classifier(X, LABELS, lr=0), ValueError, "lr: expected"),
        (
            lambda: train_classifier(DataLoader(X), LABELS),
            TypeError,
            "data: expected data in memory, found a DataLoader",
        ),
        (lambda: train_classifier({"x": X, "y": X[:3]}, LABELS), ValueError, "sites with as many data each"),
        (lambda: FeatureNet(3, 1), ValueError, "classes: expected at least 2"),
        (lambda: FeatureNet(3, 2)(torch.zeros(2, 4)), ValueError, r"x: expected \(n, 3\), found \(2, 4\)"),
        (lambda: sample_quality(X, X), ValueError, "labels: missing"),
        (lambda: sample_quality("pair", X), TypeError, "variant: expected a pair, or a tensor of draws, found str"),
        (
            lambda: sample_quality(X[:3], X),
            ValueError,
            "data: expected 8 or more, and 4 draws, found 40 data and 3 draws",
        ),
        (lambda: sample_quality(X, X[:7]), ValueError, "data: expected 8 or more"),
        (lambda: sample_quality(X, X, n=21), ValueError, "n: expected 4 to 20"),
        (lambda: sample_quality(X, X, n=3), ValueError, "n: expected 4 to 20"),
        (lambda: sample_quality(X, X, labels=LABELS, classifier=FeatureNet(3, 2)), ValueError, "labels: are there to"),
        (lambda: sample_quality(X, X, classifier=FeatureNet((1, 8, 8), 2)), ValueError, r"data of shape \(1, 8, 8\)"),
        (lambda: sample_quality(X[:, :2], X, classifier=FeatureNet(3, 2)), ValueError, r"draws of the data's shape"),
        (
            lambda: sample_quality(X, X, classifier=nn.Linear(3, 2)),
            TypeError,
            "classifier: Linear has no method features",
        ),
        (lambda: sample_quality(X, X, classifier=len), TypeError, "classifier: expected a Module"),
        (lambda: sample_quality(X + torch.nan, X, classifier=FeatureNet(3, 2)), ValueError, "expected finite draws"),
        (lambda: parzen_log_likelihood(X, X[:, :2], validation=X), ValueError, "expected data of one shape"),
        (lambda: parzen_log_likelihood(X, X, validation=X), ValueError, "validation data that are all the same"),
        (lambda: parzen_log_likelihood(X, X, validation=X, scales=[]), ValueError, "scales: expected one or more"),
        (lambda: parzen_log_likelihood(X, X, validation=X, scales=[0]), ValueError, r"scales\[0\]: expected"),
        (lambda: parzen_log_likelihood(X + torch.inf, X, validation=X), ValueError, "draws: holds NaN or infinite"),
        (lambda: parzen_log_likelihood(X[:0], X, validation=X), ValueError, "draws: expected"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
