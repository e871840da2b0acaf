"""Bad input gets one clear error that names the argument, before any training time is spent."""

import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyro_vae as pv
from pyro_vae.infer import IWAE, SVI, Cyclical, FreeBits, WarmUp
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.nets import MLP, Conv
from pyro_vae.posteriors import DiagonalNormal


def pair():
    return pv.vae((1, 8, 8), latent=2, hidden=(8,))


def binary(n=10):
    return (torch.rand(n, 1, 8, 8) > 0.5).float()


def grey(n=10):
    return torch.rand(n, 1, 8, 8)


def with_nan():
    x = torch.randn(10, 4)
    x[3, 1] = math.nan
    return x


def gaussian():
    return pv.vae(4, latent=2, likelihood=Normal)


def fit(train=None, *, of=pair, **options):
    return pv.fit(of(), binary() if train is None else train, **{"epochs": 1, "progress": False, **options})


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1, 8, 8)


def misnamed_guide():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("code", dist.Normal(torch.zeros(2), 1).to_event(1))

    return pv.Variant(pair().model, guide)


def global_site():
    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(x):
        pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(4), 1).to_event(1))

    return pv.Variant(model, guide)


def misnamed_argument():
    def model(batch=None, n=1):
        pair_of_x.model(x=batch, n=n)

    def guide(batch):
        pair_of_x.guide(x=batch)

    pair_of_x = pair()
    pv.fit(pv.Variant(model, guide), binary(), epochs=1)


def classes():
    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1).to_event(1))
            pyro.sample("x", dist.Categorical(logits=z), obs=x)

    return pv.Variant(model, lambda x: None)


CASES = {
    # recipes
    "data_shape empty": (lambda: pv.vae(()), "data_shape: expected a shape"),
    "data_shape text": (lambda: pv.vae("28"), "data_shape: expected a shape"),
    "data_shape zero": (lambda: pv.vae((1, 0, 28)), r"data_shape\[1\]: expected a whole number of at least 1, found 0"),
    "data_shape float": (lambda: pv.vae((1, 2.5)), r"data_shape\[1\].*found 2.5"),
    "nets given twice": (
        lambda: pv.vae(4, latent=2, encoder=nn.Linear(4, 4), decoder=nn.Linear(2, 4), hidden=(3,)),
        "net, hidden: encoder and decoder are given",
    ),
    "latent zero": (lambda: pv.vae(4, latent=0), "latent: expected a whole number of at least 1, found 0"),
    "latent float": (lambda: pv.vae(4, latent=2.0), "latent: .*found 2.0"),
    "latent bool": (lambda: pv.vae(4, latent=True), "latent: .*found True"),
    "hidden zero": (lambda: pv.vae(4, hidden=(0,)), r"hidden\[0\].*found 0"),
    "encoder too narrow": (
        lambda: pv.vae(4, latent=3, encoder=nn.Linear(4, 3)),
        r"encoder: expected \(batch, 6\) from an input of \(batch, 4\), found \(2, 3\)",
    ),
    "encoder of other data": (lambda: pv.vae(4, latent=3, encoder=nn.Linear(5, 6)), r"encoder: fails on an input"),
    "decoder too wide": (lambda: pv.vae(4, decoder=nn.Linear(20, 5)), r"decoder: expected \(batch, 4\)"),
    "decoder no tensor": (lambda: pv.vae(4, decoder=nn.LSTM(20, 4)), "decoder: expected .* found tuple"),
    "beta negative": (lambda: pv.beta_vae(4, beta=-1), "beta: expected a finite number of at least 0, found -1"),
    "beta nan": (lambda: pv.beta_vae(4, beta=math.nan), "beta: .*found nan"),
    "unknown option": (lambda: pv.beta_vae(4, widths=(3,)), "widths"),
    "scale zero": (lambda: Normal(nn.Linear(2, 4), 2, 4, scale=0), "scale: .*greater than 0, found 0"),
    "scale word": (
        lambda: Normal(nn.Linear(2, 4), 2, 4, scale="free"),
        "scale: unknown 'free', expected one of learned",
    ),
    "net word": (lambda: pv.vae((1, 8, 8), net="conv"), "net: expected a class or a function.*found 'conv'"),
    "likelihood word": (lambda: pv.vae(4, likelihood="normal"), "likelihood: expected a class.*found 'normal'"),
    "likelihood net": (lambda: pv.vae(4, likelihood=nn.Linear(2, 4)), "likelihood: expected a class"),
    "hidden word": (lambda: pv.vae(4, hidden="wide"), "hidden: expected a shape.*found 'wide'"),
    "conv width": (lambda: Conv((1, 8, 8), 4, width=0), "width: .*found 0"),
    "image too small": (lambda: Conv((1, 7, 9), 4), "at least 8 x 8, found 7 x 9"),
    "no image": (lambda: Conv(9, 4), "exactly one image"),
    "posterior latent": (lambda: DiagonalNormal(nn.Linear(4, 4), 4, 0), "latent: .*found 0"),
    "mlp shape": (lambda: MLP(4, -1), r"outside: expected .*found -1"),
    # Variant
    "model no program": (lambda: pv.Variant(3, lambda x: x), "model: expected a function or a module, found int"),
    "conditions text": (lambda: pv.Variant(pair().model, pair().guide, conditions="x"), "conditions: expected a tuple"),
    "conditions unknown": (lambda: pv.Variant(pair().model, pair().guide, ("c",)), "conditions: .*no argument 'c'"),
    "guide lacks site": (lambda: misnamed_guide().elbo(x=binary()), r"guide: lacks the latent sites \['z'\]"),
    "global site": (lambda: global_site().elbo(x=torch.randn(3, 4)), "site 'scale': stands outside the data plate"),
    # verbs
    "no batch": (lambda: pair().elbo(), "batch: empty"),
    "unknown site": (lambda: pair().elbo(y=binary()), "y: no such site; the model takes x"),
    "empty data": (lambda: pair().elbo(x=binary(0)), r"x: expected \(batch, ...\) with at least one datum"),
    "scalar": (lambda: pair().elbo(x=3.0), "x: expected .batch"),
    "text": (lambda: pair().elbo(x="digits"), "x: expected numbers, found str"),
    "complex": (lambda: pair().elbo(x=binary() * 1j), "x: expected real numbers"),
    "wrong shape": (lambda: pair().encode(x=torch.zeros(5, 64)), r"found \(5, 64\)"),
    "missing channel": (lambda: pair().elbo(x=torch.zeros(5, 8, 8)), r"expected data of shape \(batch, 1, 8, 8\)"),
    "grey pixels": (lambda: pair().elbo(x=grey()), "binarise"),
    "particles zero": (lambda: pair().log_likelihood(particles=0, x=binary()), "particles: .*found 0"),
    "rows zero": (lambda: pair().elbo(x=binary(), rows=0), "rows: .*found 0"),
    "rows negative": (lambda: pair().sample(3, rows=-1), "rows: .*found -1"),
    "rows float": (lambda: pv.evaluate(pair(), binary(), rows=2.5), "rows: .*found 2.5"),
    "decode tensor": (lambda: pair().decode(torch.zeros(2, 2)), "latents: expected a mapping.*found Tensor"),
    "sample none": (lambda: pair().sample(0), "n: .*found 0"),
    "sample condition": (lambda: pair().sample(2, c=1), "c: not a condition of this pair"),
    "no n": (lambda: pv.Variant(lambda x: x, lambda x: x).sample(2), "cannot be asked for data without a batch"),
    "traverse two": (lambda: pair().traverse(x=binary(2)), "traverse: expected one datum, found 2"),
    "traverse site": (lambda: pair().traverse("w", x=binary(1)), "site: unknown 'w', expected one of z"),
    "traverse unit": (lambda: pair().traverse(units=[2], x=binary(1)), "units: 'z' has units 0 to 1, found 2"),
    "interpolate lengths": (lambda: pair().interpolate(binary(2), binary(3)), "2 data to start from, 3 to end at"),
    "interpolate steps": (lambda: pair().interpolate(binary(2), binary(2), steps=0), "steps: .*found 0"),
    "decode site": (
        lambda: pair().decode({"w": torch.zeros(2, 2)}),
        r"latents: the model has no latent site 'w'; it has \['z'\]",
    ),
    "decode width": (
        lambda: pair().decode({"z": torch.zeros(2, 5)}),
        r"latents: z: expected \(n, 2\) codes.*found \(2, 5\)",
    ),
    "traverse nothing": (lambda: pair().traverse(units=[], x=binary(1)), "at least one unit and one value"),
    "ancestors": (lambda: pair().encode(ancestors="mode", x=binary()), "ancestors: unknown 'mode'"),
    "mean of classes": (lambda: classes().sample(2, mean=True), "mean: x, Categorical, has no mean"),
    # fit
    "no pair": (lambda: pv.fit(tuple(pair()), binary()), "variant: expected a Variant, found tuple"),
    "data set empty": (lambda: fit(TensorDataset(binary(0))), "train: empty, a TensorDataset of 0 data"),
    "dynamic range": (lambda: fit(pv.data.Data(255 * grey(), dynamic=True)), r"dynamic: expected probabilities in \[0"),
    "epochs zero": (lambda: fit(epochs=0), "epochs: .*found 0"),
    "batch_size zero": (lambda: fit(batch_size=0), "batch_size: .*found 0"),
    "lr negative": (lambda: fit(lr=-1.0), "lr: .*greater than 0, found -1"),
    "clip zero": (lambda: fit(clip=0), "clip: .*found 0"),
    "patience alone": (lambda: fit(patience=3), "patience: needs validation data"),
    "device": (lambda: fit(device="quantum"), "device: 'quantum'"),
    "train none": (lambda: pv.fit(pair(), None, epochs=1), "train: expected an array"),
    "train frame": (lambda: fit(pd.DataFrame({"a": [1.0]})), r"train: a DataFrame; pass pv.data.load\(frame\)"),
    "no particles": (lambda: fit(objective=Trace_ELBO(num_particles=0)), "objective: num_particles: .*found 0"),
    "meta device": (lambda: fit(device="meta"), "device: 'meta' is not to be had here"),
    "train text": (lambda: fit("digits"), "train: expected an array"),
    "train shape": (lambda: fit(torch.zeros(5, 64)), r"found \(5, 64\)"),
    "train empty": (lambda: fit(binary(0)), "with at least one datum"),
    "train lengths": (lambda: fit({"x": binary(3), "y": binary(3)}), "y: no such site"),
    "train grey": (lambda: fit(grey()), "train: x: .*outside the support of Bernoulli.*binarise"),
    "train late grey": (lambda: fit(torch.cat([binary(300), grey(1)])), "train: x: .*outside the support of Bernoulli"),
    "validation grey": (lambda: fit(validation=grey()), "validation: x: .*outside the support"),
    "train nan": (lambda: fit(with_nan(), of=gaussian), "train: x: 1 of 40 values.*NaN.*missing values"),
    "train infinite": (lambda: fit(with_nan().nan_to_num(math.inf), of=gaussian), "train: x: 1 of 40 values"),
    "endless": (lambda: fit(Endless()), "train: expected a data set of known length"),
    "loader empty": (lambda: fit(DataLoader(TensorDataset(binary(0)))), "train: empty"),
    "objective": (lambda: fit(objective="elbo"), "objective: expected a pyro.infer.ELBO or a stepper"),
    "stepper with lr": (lambda: fit(objective=SVI(*pair(), torch.optim.Adam), lr=1e-3), "lr: a stepper brings its own"),
    "warm-up too long": (lambda: fit(temper=WarmUp(epochs=5)), "later than training ends"),
    "cycle too long": (lambda: fit(temper=Cyclical(period=5)), "later than training ends"),
    "temper site": (lambda: fit(temper={"w": 2.0}), r"temper: no site 'w' in the program; it has \['z'\]"),
    "stepper of another pair": (
        lambda: fit(objective=SVI(*pair(), torch.optim.Adam)),
        "objective: this SVI trains another pair",
    ),
    "schedule of stock svi": (
        lambda: fit(
            objective=pyro.infer.SVI(*pair(), pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO()),
            lr_schedule=torch.optim.lr_scheduler.ConstantLR,
        ),
        "lr_schedule: SVI has no torch optimizer",
    ),
    "misnamed argument": (
        misnamed_argument,
        r"train: batch: the model observes no site of that name; it observes \['x'\]",
    ),
    "loader without batches": (
        lambda: fit(DataLoader(TensorDataset(binary(3)), batch_size=8, drop_last=True)),
        "train: empty, 3 data in 0 batches",
    ),
    # objectives
    "temper negative": (lambda: pv.temper(-1.0), "temper: .*at least 0, found -1"),
    "temper word": (lambda: pv.temper("slow"), "temper: .*found 'slow'"),
    "temper nan": (lambda: pv.temper({"z": math.nan}), "temper: z: .*found nan"),
    "warm-up zero": (lambda: WarmUp(epochs=0), "WarmUp: epochs: .*found 0"),
    "ramp": (lambda: Cyclical(period=4, ramp=2), r"ramp: expected a fraction of the period in \(0, 1\], found 2"),
    "free bits negative": (lambda: FreeBits(-0.5), "nats: .*at least 0, found -0.5"),
    "free bits per": (lambda: FreeBits(0.5, per="pixel"), "per: unknown 'pixel'"),
    "iwae one": (lambda: IWAE(particles=1), "particles: IWAE takes at least 2"),
    "pyro optimiser per parameter": (
        lambda: SVI(*pair(), pyro.optim.Adam(lambda name: {"lr": 1e-3})),
        "optim: settings per parameter",
    ),
    # evaluate
    "evaluate particles": (lambda: pv.evaluate(pair(), binary(), particles=-1), "particles: .*found -1"),
    "evaluate no pair": (lambda: pv.evaluate(None, binary()), "variant: expected a Variant, found NoneType"),
    "evaluate empty": (lambda: pv.evaluate(pair(), binary(0)), "with at least one datum"),
    "evaluate grey": (lambda: pv.evaluate(pair(), grey()), "outside the support of Bernoulli"),
    # data
    "data name": (lambda: pv.data.load("minst"), "name: unknown 'minst', .*did you mean 'mnist'"),
    "data tensor": (lambda: pv.data.load(binary()), "name_or_path: expected a name or a file, found Tensor"),
    "data split": (lambda: pv.data.load("digits", "trian"), "split: unknown 'trian', .*did you mean 'train'"),
    "data binarise": (lambda: pv.data.load("digits", binarise="yes"), "binarise: unknown 'yes'"),
    "data missing": (lambda: pv.data.load("mnist", root="nowhere"), "root: no MNIST under nowhere; pass download=True"),
    "static missing": (lambda: pv.data.load("mnist-static", root="nowhere"), "root: neither binarized_mnist.npz"),
    "file missing": (lambda: pv.data.load("nowhere.npy"), "nowhere.npy: no such file"),
    # load
    "load nothing": (lambda: pv.load("nowhere"), "nowhere.*config.json: no such file"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_error(name):
    act, message = CASES[name]
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=f"(?s){message}") as caught:
        act()
    assert "\n" not in str(caught.value)


def write(path, array):
    np.save(path, array, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: write(d / "a.npy", np.array([{"a": 1}], dtype=object)), "a.npy: not an array of numbers"),
        (lambda d: write(d / "b.npy", np.arange(6.0) * 100), r"binarise: expected values in \[0, 1\], found 0 to 500"),
        (lambda d: (d / "c.npy").write_bytes(b"not numpy") and d / "c.npy", "c.npy: not an array of numbers"),
        (lambda d: np.savez(d / "d.npz", train=np.zeros(3)) or d / "d.npz", r"d.npz: holds the arrays \['train'\]"),
    ],
)
def test_files_that_are_no_data(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pv.data.load(make(tmp_path), "test" if "d.npz" in message else "train", binarise="threshold")


def test_errors_come_before_training(monkeypatch):
    """No step is taken, and the folder of the run holds nothing, when an input is bad."""
    monkeypatch.setattr(SVI, "step", lambda *_, **__: pytest.fail("trained on bad input"))
    for options in ({"train": grey()}, {"validation": grey()}, {"temper": WarmUp(epochs=9)}, {"temper": {"w": 1.0}}):
        with pytest.raises(ValueError, match=r"x:|temper"):
            fit(**options)


def test_a_stream_is_checked_as_it_comes():
    loader = DataLoader(TensorDataset(torch.cat([binary(100), grey(1)])), batch_size=10)
    with pytest.raises(ValueError, match="binarise"):
        fit(loader)


def test_plain_pyro_svi_gives_the_same_advice():
    svi = pyro.infer.SVI(*pair(), pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    with pytest.raises(ValueError, match=r"(?s)site 'x'.*outside the support of Bernoulli.*binarise"):
        svi.step(x=grey())


class Exploding(nn.Module):
    """A decoder whose logits become infinite after a few steps."""

    def __init__(self, after):
        super().__init__()
        self.linear, self.left = nn.Linear(2, 64), after

    def forward(self, z):
        self.left -= self.training
        return self.linear(z) / (1 if self.left > 0 else 0)


@pytest.mark.filterwarnings("ignore:Encountered")
def test_a_loss_that_is_not_finite_stops_with_step_site_and_cause():
    variant = pv.vae((1, 8, 8), latent=2, decoder=Exploding(after=4))
    with pytest.raises(
        FloatingPointError, match=r"epoch 1, step \d: the loss is (nan|inf).*site 'x' of the model.*logits"
    ):
        pv.fit(variant, binary(64), epochs=3, batch_size=8, progress=False)
    assert all(torch.isfinite(p).all() for p in variant.parameters())


@pytest.mark.filterwarnings("ignore:Encountered")
def test_a_huge_step_is_named_as_the_cause():
    variant = pv.vae(4, latent=2, likelihood=Normal)
    with torch.no_grad():
        next(variant.guide.parameters()).fill_(math.inf)
    with (
        pyro.validation_enabled(False),
        pytest.raises(FloatingPointError, match=r"the guide's parameter .* is no longer finite.*lower lr"),
    ):
        SVI(*variant, torch.optim.Adam).step(x=torch.randn(5, 4))


def test_free_bits_name_the_site_that_does_not_fit():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(4), torch.eye(4)))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    with pytest.raises(ValueError, match="the site 'z' does not factorise into units"):
        FreeBits(0.5, per="unit").loss_and_grads(model, guide, x=torch.randn(3, 4))


def test_temper_refuses_enumeration_in_the_model():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(2 * k, 1.0), obs=x)

    def in_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(probs=torch.full_like(x, 0.4)), infer={"enumerate": "parallel"})

    loss, x = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1), torch.randn(5)
    with pytest.raises(ValueError, match="'k' is enumerated in the model"):
        loss.loss(pv.temper(2.0)(model), pv.temper(2.0)(lambda x: None), x)
    values = [loss.loss(pv.temper(b)(model), pv.temper(b)(in_guide), x) for b in (0.0, 1.0, 3.0)]
    assert values[1] == pytest.approx(loss.loss(model, in_guide, x), rel=1e-6)
    assert values[2] - values[0] == pytest.approx(3 * (values[1] - values[0]), rel=1e-5)


def test_bernoulli_counts_what_is_wrong():
    likelihood = Bernoulli(nn.Linear(2, 4), 2, 4)
    with pytest.raises(ValueError, match=r"2 of 12 values lie outside the support of Bernoulli.*from 0 to 3"):
        likelihood(torch.zeros(3, 2)).log_prob(torch.tensor([[0, 1, 0, 3.0], [0, 0, 0, 0.5], [1, 1, 1, 1]]))
