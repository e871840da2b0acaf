"""Sprites: outlines against other ways to draw them, symmetries, places, splits; and that they train as images do."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Outline

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.data import Data, Sprites, batches, first, load, render, sprites

SQUARE, ELLIPSE, HEART = range(3)
ALL = range(6)
PARTS = ("train", "validation", "test")
EVERY = torch.tensor(
    list(itertools.product(range(3), range(6), range(40), [16], [16]))
)  # of the fine grid, in one place


def scale(k):
    return 0.5 + 0.1 * k


def centre(image):
    """Where the centre of gravity of an image lies: column, row."""
    row, column = image[0].nonzero().double().mean(0).tolist()
    return column, row


# ---------------------------------------------------------------------- outlines


@pytest.mark.parametrize("k", ALL)
@pytest.mark.parametrize("turn", [0, 5, 10, 15])
def test_an_upright_square_has_an_odd_side(k, turn):
    # the pixels of a row whose centres are within half a side of its middle
    side = 2 * math.floor(scale(k) * math.sqrt(440) / 2) + 1
    assert render([[SQUARE, k, turn, 3, 9]]).sum() == side**2


@pytest.mark.parametrize("k", ALL)
def test_an_ellipse_covers_its_area(k):
    # pi a b = 440 s^2; each pixel on the outline counts whole or not at all, a uniform error of variance 1/12;
    # an outline crosses 4 / pi pixels for each unit of its length, on average over directions
    a = scale(k) * math.sqrt(1.5 * 440 / math.pi)
    b = a / 1.5
    length = math.pi * (3 * (a + b) - math.sqrt((3 * a + b) * (a + 3 * b)))  # Ramanujan
    error = math.sqrt(4 / math.pi * length / 12)
    found = render([[ELLIPSE, k, turn, 16, 16] for turn in range(40)], fine=True).sum((1, 2, 3))
    assert math.pi * a * b == pytest.approx(440 * scale(k) ** 2)
    assert ((found - math.pi * a * b).abs() < 5 * error).all()


def curve(shape):
    """An outline of scale 1 with y up, drawn from end to end: corners, or points at equal angles."""
    angle = np.linspace(0, 2 * np.pi, 4001)[:-1]
    if shape == SQUARE:
        return np.array([1 + 1j, -1 + 1j, -1 - 1j, 1 - 1j]) * math.sqrt(440) / 2
    if shape == ELLIPSE:
        a = math.sqrt(1.5 * 440 / math.pi)
        return a * np.cos(angle) + 1j * a / 1.5 * np.sin(angle)
    near, far = np.full_like(angle, 0.5), np.full_like(angle, 2.0)
    for _ in range(60):  # of (x^2 + y^2 - 1)^3 = x^2 y^3, along each ray, by bisection
        r = (near + far) / 2
        inside = (r**2 - 1) ** 3 < r**5 * np.cos(angle) ** 2 * np.sin(angle) ** 3
        near, far = np.where(inside, r, near), np.where(inside, far, r)
    step = angle[1]
    area = (r**2 / 2).sum() * step
    middle = (r**3 / 3 * np.sin(angle)).sum() * step / area
    return (r * np.exp(1j * angle) - 1j * middle) * math.sqrt(440 / area)


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_images_are_those_of_polygons(shape):
    polygon = curve(shape)
    column, row = np.meshgrid(np.arange(64), np.arange(64))
    off = 0
    for k, turn, x, y in [
        (0, 0, 0, 0),
        (1, 3, 31, 0),
        (2, 11, 7, 21),
        (3, 20, 0, 31),
        (4, 29, 13, 30),
        (5, 38, 31, 31),
    ]:
        turned = polygon * scale(k) * np.exp(2j * np.pi * turn / 40)
        outline = Outline(np.stack([16 + x + turned.real, 16 + y - turned.imag], 1))
        drawn = outline.contains_points(np.stack([column.ravel(), row.ravel()], 1)).reshape(64, 64)
        image = render([[shape, k, turn, x, y]], fine=True)[0, 0].numpy()
        off += int((drawn != image).sum())
    assert off == 0


def test_no_outline_runs_through_the_centre_of_a_pixel():
    at = torch.arange(-16, 17, dtype=torch.float64)
    right, up = at.expand(33, -1), -at[:, None].expand(-1, 33)
    for shape, k, turn in itertools.product(sprites.SHAPES, ALL, range(40)):
        angle = math.pi * turn / 20
        x = (right * math.cos(angle) + up * math.sin(angle)) / scale(k)
        y = (up * math.cos(angle) - right * math.sin(angle)) / scale(k)
        assert sprites.outline(shape, x, y).abs().min() > 1e-9  # where rounding is one of 1e-15


def test_shapes_are_whole():
    images = render(EVERY, fine=True)
    for x, y in itertools.product((0, 31), (0, 31)):
        moved = EVERY.clone()
        moved[:, 3], moved[:, 4] = x, y
        assert torch.equal(render(moved, fine=True).sum((1, 2, 3)), images.sum((1, 2, 3)))


# ---------------------------------------------------------------------- symmetries and places


def test_images_differ_up_to_the_symmetry_of_their_shape():
    images = render(EVERY, fine=True).flatten(1)
    groups = images.unique(dim=0, return_inverse=True)[1].reshape(3, 6, 40)
    for shape, period in ((SQUARE, 10), (ELLIPSE, 20), (HEART, 40)):
        assert torch.equal(groups[shape], groups[shape][:, :period].repeat(1, 40 // period))
    assert len(groups.unique()) == 6 * (10 + 20 + 40)


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_a_quarter_of_a_turn_is_one_of_pixels(shape):
    factors = torch.tensor([[shape, k, turn, 8, 8] for k in ALL for turn in range(20)])
    quarter = factors.clone()
    quarter[:, 2] = (quarter[:, 2] + 5) % 20
    about = (..., slice(1, 64), slice(1, 64))  # the pixels that have the one in the middle, 32, in their middle
    assert torch.equal(render(factors)[about].rot90(1, (-2, -1)), render(quarter)[about])


def test_places_are_steps_of_two_pixels_or_of_one():
    base = [HEART, 4, 3]
    for fine, last, step in ((False, 15, 2), (True, 31, 1)):
        start = render([[*base, 0, 0]], fine=fine)[0]
        for x, y in itertools.product((0, 1, 7, last), repeat=2):
            moved = render([[*base, x, y]], fine=fine)[0]
            assert torch.equal(moved, start.roll((step * y, step * x), (-2, -1)))


def test_the_centre_of_gravity_is_the_place():
    # that of n pixels, of which those on the outline (about 4 / pi a unit of length, of 90 at most) are told wrong by a
    # standard deviation of 12^-1/2 each, at an arm of 15 pixels at most
    factors = load("sprites", "test").factors[:500]
    for image, (_, k, _, x, y) in zip(render(factors), factors.tolist(), strict=True):
        error = 15 * scale(k) * math.sqrt(4 / math.pi * 90 * scale(k) / 12) / (440 * scale(k) ** 2)
        assert centre(image) == pytest.approx((16 + 2 * x, 16 + 2 * y), abs=4 * error)


def test_the_grid_is_a_part_of_the_fine_one():
    factors = load("sprites", "test").factors[:200]
    assert torch.equal(render(factors), render(factors * torch.tensor([1, 1, 2, 2, 2]), fine=True))


# ---------------------------------------------------------------------- parts


def numbers(data):
    return np.ravel_multi_index(tuple(data.factors.T.numpy()), data.factor_sizes)


def test_parts_are_disjoint_and_complete():
    parts = {part: numbers(load("sprites", part)) for part in PARTS}
    assert {part: len(found) for part, found in parts.items()} == {"train": 72160, "validation": 10000, "test": 10000}
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(92160))
    both = numbers(load("sprites", "train+validation"))
    assert np.array_equal(both, np.concatenate([parts["train"], parts["validation"]]))


def test_the_fine_grid_has_all_combinations():
    parts = [numbers(load("sprites-fine", part)) for part in PARTS]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(737280))
    assert [len(part) for part in parts] == [717280, 10000, 10000]


def test_the_order_depends_on_no_library():
    def mixed(number):  # SplitMix64 in whole numbers of Python
        number = (number + 1) * 0x9E3779B97F4A7C15 % 2**64
        number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
        return number ^ number >> 31

    assert mixed(0) == 0xE220A8397B1DCDAF  # the first that is published for seed 0
    order = sorted(range(92160), key=mixed)
    assert order == numbers(load("sprites", "train")).tolist() + order[72160:]
    assert order[-10000:] == numbers(load("sprites", "test")).tolist()


def test_parts_hold_every_value_as_often():
    test = load("sprites", "test")
    for size, column in zip(test.factor_sizes, test.factors.T, strict=True):
        expected = 10000 / size
        assert ((column.bincount(minlength=size) - expected).abs() < 5 * math.sqrt(expected * (1 - 1 / size))).all()


# ---------------------------------------------------------------------- as data


def test_only_the_factors_are_stored():
    data = load("sprites")
    assert (data.x.dtype, data.x.shape, data.x.nbytes) == (torch.uint8, (72160, 5), 360800)
    assert data.factors.dtype == torch.long
    assert data.shape == (1, 64, 64)
    assert data.factor_names == ("shape", "scale", "rotation", "x", "y")
    assert data.factor_sizes == (3, 6, 20, 16, 16)
    assert torch.equal(data.labels, data.factors[:, 0])
    few = data.subset(7)
    assert isinstance(few, Sprites)
    assert torch.equal(few.factors, data.factors[:7])
    assert len(few.labels) == 7
    assert load("sprites-fine", "test").subset(7).factor_sizes == (3, 6, 40, 32, 32)
    assert set(first(data, 3)) == {"x"}
    assert torch.equal(first(data, 3)["x"], render(data.factors[:3]))


@pytest.mark.parametrize("binarise", [None, "dynamic", "static", "threshold"])
def test_they_are_binary_whatever_is_asked_for(binarise):
    data = load("sprites", "test", binarise=binarise)
    assert torch.equal(first(data, 5)["x"], render(data.factors[:5]))


def test_batches_are_drawn_when_they_are_used():
    data, pair = load("sprites", "test").subset(100), small()
    feed = batches(pair, data, 32, None)
    found = torch.cat([batch["x"] for batch in feed.fixed()])
    assert torch.equal(found, render(data.factors))
    assert found.dtype == torch.float32
    ((_, stored),) = next(feed.epoch(0))
    assert stored["x"].shape == (32, 5)
    assert torch.equal(feed.transform(stored)["x"], render(stored["x"].long()))
    assert pair._seen()["x"].shape == (1, 1, 64, 64)  # what the pair remembers is an image


def test_they_come_in_the_dtype_of_the_pair():
    data = load("sprites", "test").subset(3)
    for dtype in (torch.float64, torch.bfloat16):
        assert data.used(data.x.to(dtype)).dtype == dtype
        assert torch.equal(data.used(data.x.to(dtype)).float(), render(data.factors))


def test_moments_are_those_of_the_images():
    data = load("sprites", "test").subset(150)
    found = data.moments()
    np.testing.assert_allclose(found["mean"], Data(render(data.factors)).moments()["mean"])
    assert found["std"][0][0][0] == pytest.approx(float(render(data.factors).std(correction=0)), rel=1e-5)


NETS = {"encoder": partial(pv.nets.MLP, hidden=(16,)), "decoder": partial(pv.nets.MLP, hidden=(16,))}


def small():
    return pv.vae((1, 64, 64), latent=2, **NETS)


def test_they_train_as_the_same_images_do():
    data, runs = load("sprites").subset(40), []
    for train in (data, render(data.factors)):
        torch.manual_seed(0)
        pair = small()
        run = pv.fit(pair, train, validation=data, epochs=2, batch_size=16, progress=False)
        runs.append((run.history["elbo"], pair.state_dict()))
        assert pv.evaluate(pair, train, particles=2) == pv.evaluate(
            pair, render(data.factors), particles=2, labels=None
        )
    assert runs[0][0] == runs[1][0]
    for name, value in runs[0][1].items():
        assert torch.equal(value, runs[1][1][name])


def test_labels_are_the_shapes():
    data = load("sprites", labelled=30)
    assert [(data.labels == shape).sum() for shape in (-1, 0, 1, 2)] == [72130, 10, 10, 10]
    pair = pv.cvae((1, 64, 64), latent=2, classes=3, **NETS)
    few = load("sprites").subset(20)
    assert torch.equal(next(batches(pair, few, 20, None).fixed())["c"], few.labels)


def test_pictures_and_reports():
    pair, data = small(), load("sprites", "test").subset(20)
    for draw in (pv.plot.reconstructions, pv.plot.latents, pv.plot.traversals):
        pv.plot.plt.close(draw(pair, data))
    assert pv.collapse_report(pair, data, particles=2).data == 20


def test_the_command_line_trains_on_them(tmp_path, monkeypatch):
    whole = sprites.grid
    monkeypatch.setattr(sprites, "grid", lambda split, **options: whole(split, **options).subset(30))
    words = ["train", "vae", "--data", "sprites", "--epochs", 1, "--latent", 2, "--encoder", "MLP", "--decoder", "MLP"]
    folder = tmp_path / "run"
    assert cli.main([*map(str, words), "--out", str(folder)]) == 0
    assert pv.load(folder).sample(2).shape == (2, 1, 64, 64)
    assert "sprites" in (folder / "run.json").read_text()


REFUSED = {
    "shape": (lambda: render([1, 2, 3, 4, 5]), r"factors: expected \(n, 5\) of shape, scale, .* found \(5,\)"),
    "none": (lambda: Sprites(torch.zeros(0, 5, dtype=torch.long)), r"factors: expected \(n, 5\) .* found \(0, 5\)"),
    "fractions": (lambda: Sprites(torch.zeros(2, 5)), "factors: expected whole numbers, found torch.float32"),
    "too large": (lambda: render([[0, 0, 20, 0, 0]]), "factors: rotation: expected 0 to 19, found 20 to 20"),
    "negative": (lambda: render([[0, 0, 0, 0, -1]], fine=True), "factors: y: expected 0 to 31, found -1 to -1"),
    "quadrants": (lambda: load("sprites", quadrants=1), "quadrants: expected images in memory, found sprites"),
    "split": (lambda: load("sprites", "all"), "split: unknown 'all'"),
    "subset": (lambda: load("sprites", "test").subset(0), "n: expected a whole number of at least 1, found 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_sprites_get_one_line_that_names_them(name):
    act, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        act()
    assert "\n" not in str(error.value)
