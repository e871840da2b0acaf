"""Training: what fit takes, what it keeps, and what it promises."""

import csv
from functools import partial

import gaussian
import numpy as np
import pyro
import pytest
import torch
from torch.optim.lr_scheduler import MultiStepLR, StepLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_vae as pv
from pyro_vae.infer import IWAE, SVI, Cyclical, FreeBits, WarmUp


def pair(seed=0):
    torch.manual_seed(seed)
    return pv.vae((4,), latent=2, hidden=(16,), likelihood=pv.likelihoods.Normal)


@pytest.fixture
def x():
    return torch.randn(64, 4) @ torch.tensor([[2.0, 1, 0, 0], [0, 0.1, 0, 0], [0, 0, 2, 1], [0, 0, 0, 0.1]])


def weights(variant):
    return torch.cat([p.detach().flatten() for p in variant.parameters()])


class Pairs(Dataset):
    """As torchvision's sets do: a datum and a label."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], 7


def forms(x):
    return {
        "tensor": x,
        "array": x.numpy(),
        "double array": x.double().numpy(),
        "mapping": {"x": x},
        "dataset": Pairs(x),
        "tensor dataset": TensorDataset(x),
        "loader": DataLoader(TensorDataset(x), batch_size=16, shuffle=True),
        "loader of mappings": DataLoader([{"x": row} for row in x], batch_size=16),
        "loader of tensors": DataLoader(x, batch_size=16),
        "list": x.tolist(),
    }


@pytest.mark.parametrize("form", forms(torch.zeros(2, 4)))
def test_every_form_of_data_trains_and_is_evaluated(form, x):
    variant, data = pair(), forms(x)[form]
    run = pv.fit(variant, data, validation=data, epochs=8, batch_size=16, lr=1e-2, progress=False)
    assert run.history["elbo"][-1] > run.history["elbo"][0] + 0.3
    assert pv.evaluate(variant, data, particles=20).elbo == pytest.approx(
        float(variant.elbo(x=x, particles=20, seed=0).mean()), abs=0.2
    )


def test_a_seed_fixes_everything_but_the_first_weights(x):
    runs = []
    for seed in (0, 0, 1):
        variant = pair()
        pv.fit(variant, x, epochs=3, batch_size=10, seed=seed, progress=False)
        runs.append(weights(variant))
        torch.randn(3)  # the caller's own draws change nothing
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_loaders_repeat_themselves_too(x):
    runs = []
    for _ in range(2):
        variant = pair()
        pv.fit(variant, DataLoader(TensorDataset(x), batch_size=16, shuffle=True), epochs=3, progress=False)
        runs.append(weights(variant))
    assert torch.equal(*runs)


def test_the_order_of_a_loader_depends_on_the_seed_of_the_epoch_alone(x):
    orders = []
    for state, seed in ((1, 7), (2, 7), (1, 8)):
        torch.manual_seed(state)
        data = pv.data.batches(pair(), DataLoader(TensorDataset(x), batch_size=16, shuffle=True), 16, None)
        torch.manual_seed(state)
        orders.append(torch.cat([batch["x"] for [(_, batch)] in data.epoch(seed)]))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_history_is_the_honest_elbo_whatever_is_optimised(x):
    for options in ({}, {"temper": 5.0}, {"objective": FreeBits(2.0)}, {"objective": IWAE(5)}):
        variant = pair()
        run = pv.fit(variant, x, epochs=3, batch_size=16, progress=False, **options)
        last = {k: v[-1] for k, v in run.history.items()}
        assert last["elbo"] == pytest.approx(last["reconstruction"] - last["kl_z"], abs=1e-4)
        draws = torch.stack([variant.elbo(x=x, seed=s).mean() for s in range(50)])
        assert abs(last["elbo"] - float(draws.mean())) < 6 * float(draws.std())


def test_best_weights_are_kept_and_training_stops_early(x):
    variant = pair()
    far = x + 50  # the better the fit to x, the worse to this
    run = pv.fit(variant, x, validation=far, epochs=50, batch_size=16, lr=1e-2, patience=3, progress=False)
    curve = run.history["validation_elbo"]
    assert run.best_epoch == int(np.argmax(curve)) + 1
    assert run.epochs == run.best_epoch + 3 < 50
    assert "no better validation ELBO for 3 epochs" in run.stopped
    draws = torch.stack([variant.elbo(x=far, seed=s).mean() for s in range(50)])
    assert abs(float(draws.mean()) - max(curve)) < 6 * float(draws.std())


def test_without_validation_the_last_weights_stay(x):
    first, second = pair(), pair()
    pv.fit(first, x, epochs=4, progress=False)
    run = pv.fit(second, x, epochs=4, progress=False)
    assert run.best_epoch == 4
    assert torch.equal(weights(first), weights(second))


def test_the_folder_of_a_run(x, tmp_path):
    variant = pair()
    run = pv.fit(variant, x, validation=x, epochs=3, out=tmp_path / "run", progress=False)
    again = pv.load(tmp_path / "run")
    assert torch.equal(weights(again), weights(variant))
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [float(r["validation_elbo"]) for r in rows] == run.history["validation_elbo"]
    assert [r["epoch"] for r in rows] == ["1", "2", "3"]
    names = {p.name.partition(".out.")[0] for p in (tmp_path / "run").iterdir()}
    assert names == {".lock", "checkpoint.safetensors", "config.json", "events", "metrics.csv", "weights.safetensors"}


def test_the_bar_moves(x, monkeypatch):
    shown = []
    monkeypatch.setattr("pyro_vae.train.loop.tqdm.update", lambda bar, n=1: shown.append((bar.total, n)))
    pv.fit(pair(), x, epochs=3, progress=False)
    assert shown == [(3, 1)] * 3


def test_a_folder_that_is_a_file_is_refused_before_training(x, tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(FileExistsError, match="expected a folder, found a file"):
        pv.fit(pair(), x, epochs=1, out=tmp_path / "run", progress=False)
    assert (tmp_path / "run").read_text() == "precious"


def test_learning_rate_schedules(x):
    run = pv.fit(
        pair(), x, epochs=5, lr=1e-2, lr_schedule=partial(MultiStepLR, milestones=[2, 4], gamma=0.1), progress=False
    )
    assert run.history["lr"] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4])


def test_clipping_limits_the_gradient_of_all_parameters_together(x):
    svi = SVI(*pair(), partial(torch.optim.SGD, lr=1.0), clip=0.01)
    before = weights(svi.model)
    svi.step(x=100 * x)
    moved = torch.cat([weights(svi.model) - before] + [p.grad.flatten() for p in svi.guide.parameters()])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def test_the_gradient_is_that_of_the_mean(x):
    """One step size serves every batch size: doubling the batch leaves the gradient as it was."""
    variant = gaussian.pair(shift=0.3)
    data = variant.sample(8, seed=0)
    norms = []
    for batch in (data, data.repeat(50, 1)):
        svi = SVI(*variant, partial(torch.optim.SGD, lr=0.0), pyro.infer.TraceMeanField_ELBO(num_particles=400))
        svi.gradients(x=batch)
        norms.append(torch.cat([p.grad.flatten() for p in variant.parameters()]))
    assert float((norms[0] - norms[1]).norm() / norms[1].norm()) < 0.1


def test_stock_svi_is_a_stepper(x):
    variant = pair()
    stepper = pyro.infer.SVI(*variant, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO())
    run = pv.fit(variant, x, objective=stepper, epochs=8, batch_size=16, progress=False)
    assert run.history["elbo"][-1] > run.history["elbo"][0] + 0.3


def test_our_svi_reads_the_settings_of_a_pyro_optimiser(x):
    mine, theirs = pair(), pair()
    SVI(*mine, pyro.optim.Adam({"lr": 1e-2, "betas": (0.5, 0.9)})).step(x=x)
    optimizer = SVI(*theirs, pyro.optim.Adam({"lr": 1e-2, "betas": (0.5, 0.9)})).optimizer
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["lr"] == 1e-2
    assert optimizer.defaults["betas"] == (0.5, 0.9)
    assert not torch.equal(weights(mine), weights(theirs))


def test_warm_up_and_cycles_follow_the_epoch(x):
    run = pv.fit(pair(), x, epochs=4, batch_size=16, temper=WarmUp(epochs=2, to=3.0), progress=False)
    assert run.history["weight"] == pytest.approx([1.5, 3.0, 3.0, 3.0])  # at the last step of each epoch
    run = pv.fit(pair(), x, epochs=4, batch_size=16, temper={"z": Cyclical(period=2, ramp=1)}, progress=False)
    assert run.history["weight_z"] == pytest.approx([0.5, 1.0, 0.5, 1.0])


def test_a_schedule_of_the_variant_itself_is_driven_and_checked(x):
    variant = pair()
    warm = pv.Variant(variant.model, variant.guide, handler=pv.temper(WarmUp(epochs=2)))
    with pytest.raises(ValueError, match="later than training ends"):
        pv.fit(warm, x, epochs=1, progress=False)
    run = pv.fit(warm, x, epochs=2, batch_size=64, progress=False)
    assert run.history["weight"] == pytest.approx([0.5, 1.0])
    run = pv.fit(warm, x, epochs=2, batch_size=64, temper=3.0, progress=False)
    assert run.history["weight"] == pytest.approx([1.5, 3.0])  # both handlers weigh


def test_weights_multiply(x):
    variant = pair()
    twice = pv.Variant(variant.model, variant.guide, handler=pv.temper(2.0))
    losses = {}
    for name, programs in {"both": twice.trained(pv.temper(3.0)), "once": variant.trained(pv.temper(6.0))}.items():
        torch.manual_seed(0)
        losses[name] = pyro.infer.Trace_ELBO().loss(*programs, x=x)
    assert losses["both"] == pytest.approx(losses["once"])


def test_temper_as_a_context_around_a_step(x):
    variant = pair()
    loss = pyro.infer.Trace_ELBO()
    torch.manual_seed(0)
    with pv.temper(2.0):
        inside = loss.loss(variant.model, variant.guide, x=x)
    torch.manual_seed(0)
    assert inside == pytest.approx(loss.loss(*variant.trained(pv.temper(2.0)), x=x))


def test_free_bits_hold_the_channel_open(x):
    noise = torch.randn(256, 4)  # nothing to code
    kl = {}
    for name, objective in {"elbo": None, "free": FreeBits(1.0)}.items():
        run = pv.fit(pair(), noise, epochs=30, batch_size=32, lr=1e-2, objective=objective, progress=False)
        kl[name] = run.history["kl_z"][-1]
    assert kl["elbo"] < 0.3
    assert 0.7 < kl["free"] < 1.6


def test_dynamic_binarisation_draws_anew_each_time():
    p = torch.full((1000, 1, 4, 4), 0.3)
    data = pv.data.Data(p, dynamic=True)
    seen = []

    class Watching:
        def step(self, x):
            seen.append(x.clone())
            return 0.0

        def evaluate_loss(self, x):
            return 0.0

    pv.fit(pv.vae((1, 4, 4), latent=2), data, objective=Watching(), epochs=2, batch_size=1000, progress=False)
    assert all(set(x.unique().tolist()) == {0.0, 1.0} for x in seen)
    assert not torch.equal(seen[0], seen[1])
    assert seen[0].mean() == pytest.approx(0.3, abs=0.02)


def test_batch_norm_and_dropout_train_and_rest():
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 4)
    )
    variant = pv.vae((4,), latent=2, likelihood=pv.likelihoods.Normal, encoder=net)
    x = torch.randn(64, 4) * 3 + 5
    pv.fit(variant, x, epochs=3, batch_size=16, progress=False)
    assert net[1].running_mean.abs().max() > 0.1
    assert torch.equal(variant.encode(x=x)["z"].mean, variant.encode(x=x)["z"].mean)
    assert variant.elbo(x=x[:1]).shape == (1,)


def test_the_run_says_what_it_was(x):
    run = pv.fit(pair(), x, epochs=2, lr_schedule=partial(StepLR, step_size=1), seed=3, progress=False)
    assert (run.epochs, run.seed, run.device) == (2, 3, "cpu")
    assert run.seconds == pytest.approx(sum(run.history["seconds"]))
    assert "2 epochs" in repr(run)


def test_training_learns_real_digits(mnist_root):
    """Two epochs on MNIST pass the ELBO of the untrained pair by 300 nats (about -550 to below -200)."""
    train = pv.data.load("mnist-static", "train", mnist_root).x[:10_000]
    variant = pv.vae((1, 28, 28), latent=10, hidden=(100,))
    run = pv.fit(variant, train, epochs=2, batch_size=100, progress=False)
    assert -250 < run.history["elbo"][-1] < -120


def test_validation_is_the_mean_over_what_the_loader_yields(x):
    some = DataLoader(
        TensorDataset(x), batch_size=10, sampler=torch.utils.data.SubsetRandomSampler(range(25)), drop_last=True
    )
    run = pv.fit(pair(), x, validation=some, epochs=1, progress=False)
    draws = [float(run.variant.elbo(x=x[:25], seed=s).mean()) for s in range(20)]
    assert run.history["validation_elbo"][0] == pytest.approx(np.mean(draws), abs=1.0)


def test_evaluation_draws_dynamic_data_once():
    data = pv.data.Data(torch.full((3000, 16), 0.3), dynamic=True)
    variant = pv.vae((16,), latent=2)
    with torch.no_grad():
        for p in variant.model.likelihood.parameters():
            p.zero_()
        variant.model.likelihood.decoder.net[-2].bias.fill_(-1.0)  # log p(x) then depends on the draw of x alone
    fixed = data.drawn(5)
    expected = float(torch.distributions.Bernoulli(logits=torch.tensor(-1.0)).log_prob(fixed.x).sum(1).mean())
    for particles in (1, 7):
        report = pv.evaluate(variant, data, particles=particles, seed=5, batch_size=999)
        assert report.reconstruction == pytest.approx(expected, abs=1e-4)


def test_one_datum_has_no_verdict(x):
    report = pv.evaluate(pair(), x[:1], particles=2)
    assert report.active_units == {}
    assert report.verdicts == []
    assert report.to_dict()["standard_error"] is None


def test_a_collapsed_pair_is_called_so(x):
    variant = pair()
    with torch.no_grad():
        for p in variant.guide.parameters():
            p.zero_()
    report = pv.evaluate(variant, x, particles=2)
    assert report.active_units == {"z": 0}
    assert "z has COLLAPSED: none of its 2 units follows the data" in str(report)


@pytest.mark.filterwarnings("ignore:Encountered")
def test_a_validation_elbo_that_is_not_finite_stops_training(x):
    with pytest.raises(FloatingPointError, match="the validation ELBO is -inf"):
        pv.fit(pair(), x, validation=x * 1e30, epochs=1, progress=False)
