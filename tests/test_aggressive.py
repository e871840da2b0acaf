"""Aggressive training of the guide: which parameters move when, and a run that goes on where it was."""

import copy
from functools import partial

import gaussian
import pyro
import pyro.distributions as dist
import pytest
import torch
from test_resume import assert_same, state
from torch import nn

import pyro_vae as pv
from pyro_vae.infer import SVI, Aggressive

INNER, STEPS = 3, 8
ADAM = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)  # both would move a parameter whose gradient is 0


def batch(n=16, seed=0):
    return gaussian.pair().sample(n, seed=seed)


def inference():
    """A guide all of whose parameters have a gradient."""
    return gaussian.pair(shift=0.4).guide


def values(parameters):
    return [p.detach().clone() for p in parameters]


def moved(before, after):
    return [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]


def seeded_step(stepper, i, **data):
    torch.manual_seed(i)
    return stepper.step(**data)


def check_schedule(stepper, models, guides, count, data):
    """``models`` and ``guides`` give the parameters of either; each moves as a whole or not at all."""
    for step in range(1, count + 1):
        before = values(models()), values(guides())
        seeded_step(stepper, step, **data)
        expected = step % INNER == 0 or step > STEPS
        assert moved(before[0], values(models())) == [expected] * len(before[0]), step
        assert all(moved(before[1], values(guides()))), step


# ---------------------------------------------------------------------- which parameters move when


@pytest.mark.parametrize(
    "optim", [ADAM, pyro.optim.Adam({"lr": 1e-2}), partial(torch.optim.SGD, lr=1e-2, momentum=0.9)]
)
def test_the_model_moves_at_every_inner_step_and_after_the_phase(optim):
    pair = gaussian.pair(shift=0.4)
    stepper = Aggressive(*pair, optim, inner=INNER, steps=STEPS)
    check_schedule(stepper, pair.model.parameters, pair.guide.parameters, 12, {"x": batch()})


def test_a_step_of_the_guide_alone_is_that_of_a_frozen_model():
    pair = gaussian.pair(shift=0.4)
    frozen = copy.deepcopy(pair)
    frozen.model.requires_grad_(False)
    frozen.eval()  # Pyro warns of frozen parameters while they are in training mode
    steppers = [Aggressive(*pair, ADAM, inner=100, steps=50, clip=1.0), SVI(*frozen, ADAM, clip=1.0)]
    for step in range(30):
        assert seeded_step(steppers[0], step, x=batch()) == seeded_step(steppers[1], step, x=batch())
    assert_same(dict(pair.state_dict()), dict(frozen.state_dict()))


def test_with_one_inner_step_it_is_plain_svi():
    pairs = [gaussian.pair(shift=0.4) for _ in range(2)]
    steppers = [Aggressive(*pairs[0], ADAM, inner=1, steps=5), SVI(*pairs[1], ADAM)]
    for step in range(10):
        assert seeded_step(steppers[0], step, x=batch()) == seeded_step(steppers[1], step, x=batch())
    assert_same(dict(pairs[0].state_dict()), dict(pairs[1].state_dict()))


def test_after_the_phase_it_is_plain_svi():
    pair = gaussian.pair(shift=0.4)
    stepper = Aggressive(*pair, ADAM, inner=INNER, steps=STEPS)
    for step in range(STEPS):
        seeded_step(stepper, step, x=batch())
    other = copy.deepcopy(pair)
    plain = SVI(*other, ADAM)
    plain.load_state_dict(copy.deepcopy(stepper.state_dict()["optimizer"]))
    for step in range(10):
        assert seeded_step(stepper, step, x=batch()) == seeded_step(plain, step, x=batch())
    assert_same(dict(pair.state_dict()), dict(other.state_dict()))


def test_clip_limits_the_gradient_of_what_moves():
    pair = gaussian.pair(shift=0.4)
    stepper = Aggressive(*pair, ADAM, inner=INNER, steps=STEPS, clip=1e-3)
    for step in range(1, 13):
        seeded_step(stepper, step, x=batch())
        gradients = [p.grad for p in pair.parameters() if p.grad is not None]
        assert float(torch.cat([g.flatten() for g in gradients]).norm()) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_only_steps_count():
    pair = gaussian.pair(shift=0.4)
    stepper = Aggressive(*pair, ADAM, inner=2, steps=4)
    before = values(pair.model.parameters())
    stepper.evaluate_loss(x=batch())
    with pyro.validation_enabled(False), pytest.raises(FloatingPointError):
        stepper.step(x=batch().fill_(torch.nan))
    seeded_step(stepper, 0, x=batch())
    assert not any(moved(before, values(pair.model.parameters())))
    seeded_step(stepper, 1, x=batch())
    assert all(moved(before, values(pair.model.parameters())))


# ---------------------------------------------------------------------- whose a parameter is


class Leaning(nn.Module):
    """q(z | x) = N(z; W^T x, exp(s)^2), W the model's own."""

    def __init__(self, story, *, registered):
        super().__init__()
        self.s = nn.Parameter(torch.zeros(gaussian.LATENT, dtype=torch.float64))
        self.held = [story]
        if registered:
            self.story = story

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.held[0].W, self.s.exp()).to_event(1))


@pytest.mark.parametrize("registered", [True, False])
def test_what_both_hold_is_the_models(registered):
    story = gaussian.Story()
    pair = pv.Variant(story, Leaning(story, registered=registered))
    stepper = Aggressive(*pair, ADAM, inner=INNER, steps=STEPS)
    assert [p is pair.guide.s for p in stepper.guide_parameters] == [True]
    check_schedule(stepper, story.parameters, lambda: [pair.guide.s], 12, {"x": batch()})


class Borrowing(nn.Module):
    """p(z) leans on the guide's own network, which the model holds without registering it."""

    def __init__(self, inference):
        super().__init__()
        self.held, self.story = [inference], gaussian.Story()

    def forward(self, x):
        with pyro.plate("data", len(x)):
            scale = self.held[0].s.exp() + 1.0
            z = pyro.sample("z", dist.Normal(torch.zeros_like(scale), scale).to_event(1))
            loc = z @ self.story.W.T + self.story.b
            pyro.sample("x", dist.Normal(loc, gaussian.NOISE).to_event(1), obs=x)


def test_what_the_model_borrows_is_the_guides():
    guide = inference()
    pair = pv.Variant(Borrowing(guide), guide)
    stepper = Aggressive(*pair, ADAM, inner=INNER, steps=STEPS)
    check_schedule(stepper, pair.model.parameters, guide.parameters, 12, {"x": batch()})


def functions():
    """Parameters that only a trace tells of: made by pyro.param, and of modules that pyro.module announces."""
    encoder = nn.Linear(gaussian.DATA, gaussian.LATENT).double()
    decoder = nn.Linear(gaussian.LATENT, gaussian.DATA).double()

    def model(x):
        pyro.module("decoder", decoder)
        width = pyro.param("width", torch.ones(gaussian.LATENT).double(), dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(width), width).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.7).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        width = pyro.param("width", torch.ones(gaussian.LATENT).double(), dist.constraints.positive)  # the model's
        scale = pyro.param("scale", torch.ones(gaussian.LATENT).double(), dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), width * scale).to_event(1))

    pair = pv.Variant(model, guide)

    def stored(name):
        return pair._store["params"][name]

    return (
        pair,
        lambda: [*decoder.parameters(), stored("width")],
        lambda: [*encoder.parameters(), stored("scale")],
    )


class Methods(nn.Module):
    """Both programs are methods of one module, as in Pyro's own examples."""

    def __init__(self):
        super().__init__()
        self.story, self.inference = gaussian.Story(), inference()

    def model(self, x=None, n=1):
        pyro.module("story", self.story)
        return self.story(x, n)

    def guide(self, x):
        pyro.module("inference", self.inference)
        return self.inference(x)


def methods():
    both = Methods()
    return pv.Variant(both.model, both.guide), both.story.parameters, both.inference.parameters


@pytest.mark.parametrize("make", [functions, methods])
def test_parameters_of_functions_are_told_apart_by_who_asks_for_them(make):
    pair, models, guides = make()
    stepper = Aggressive(*pair, ADAM, inner=INNER, steps=STEPS)
    stepper.evaluate_loss(x=batch())  # from now on they are known
    check_schedule(stepper, models, guides, 12, {"x": batch()})


def test_programs_that_belong_to_no_variant():
    story, posterior = gaussian.pair().model, inference()

    def model(x):
        pyro.module("story", story)
        story(x)

    def guide(x):
        pyro.module("posterior", posterior)
        posterior(x)

    stepper = Aggressive(model, guide, ADAM, inner=INNER, steps=STEPS)
    check_schedule(stepper, story.parameters, posterior.parameters, 12, {"x": batch()})
    assert not pyro.get_param_store().keys()


def test_labels_and_weights_are_no_hindrance():
    """Each step of half-labelled data is one step, of two batches."""
    digits = pv.data.load("digits", binarise="threshold", labelled=40)
    pair = pv.m2((1, 8, 8), latent=2, hidden=(8,), weight=2.0)
    before, guides = values(pair.model.parameters()), values(pair.guide.parameters())
    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    stepper = Aggressive(*pair, ADAM, loss, inner=1000, steps=1000)
    pv.fit(pair, digits, objective=stepper, epochs=1, batch_size=256, progress=False)
    assert not any(moved(before, values(pair.model.parameters())))
    assert all(moved(guides, values(pair.guide.parameters())))


# ---------------------------------------------------------------------- runs


def run(folder, epochs, *, inner=4, steps=30):
    """Ten steps to an epoch, so that the phase ends with the third."""
    torch.manual_seed(0)
    pair = pv.vae((1, 8, 8), latent=4, hidden=(16,))
    stepper = Aggressive(*pair, ADAM, inner=inner, steps=steps)
    x = pv.data.load("digits", binarise="threshold").x[:320]
    pv.fit(pair, x, objective=stepper, epochs=epochs, batch_size=32, out=folder, resume=True, progress=False)
    return pair


@pytest.mark.parametrize("stops", [(1, 5), (2, 3, 5), (4, 5)], ids=str)
def test_an_interrupted_run_goes_on_bit_by_bit(stops, tmp_path):
    run(tmp_path / "whole", 5)
    for epochs in stops:
        run(tmp_path / "parts", epochs)
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    plain = run(tmp_path / "plain", 5, inner=1)
    weights = state(tmp_path / "whole")["pair"]
    assert any(moved(values(plain.state_dict().values()), list(weights.values())))


@pytest.mark.parametrize("other", [{"inner": 5}, {"steps": 31}], ids=str)
def test_a_run_of_another_phase_is_not_resumed(other, tmp_path):
    run(tmp_path / "run", 1)
    name, value = next(iter(other.items()))
    with pytest.raises(ValueError, match=rf"resume: stepper: the run in .* has Aggressive\(.*found .*{name}={value}"):
        run(tmp_path / "run", 2, **other)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["inner", "steps"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "3"], ids=repr)
def test_counts_are_whole_numbers_of_at_least_one(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least 1, found {value!r}"):
        Aggressive(*gaussian.pair(), ADAM, **{"inner": 2, "steps": 3, name: value})


def test_a_guide_without_parameters_is_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(gaussian.LATENT), 1.0).to_event(1))

    story = gaussian.Story()
    stepper = Aggressive(*pv.Variant(story, guide), ADAM, steps=5)
    before = values(story.parameters())
    with pytest.raises(ValueError, match="the guide has no parameters of its own"):
        stepper.step(x=batch())
    assert not any(moved(before, values(story.parameters())))


def test_the_state_of_another_stepper_is_refused():
    pair = gaussian.pair()
    with pytest.raises(ValueError, match=r"state: expected that of an Aggressive, found one of \['param_groups', 'sta"):
        Aggressive(*pair, ADAM, steps=3).load_state_dict(SVI(*pair, ADAM).state_dict())
