"""What every recipe must do. A variant joins by being registered in ``pv.RECIPES``.

Each check takes a recipe; data are the variant's own draws, so that a recipe needs no words here.
"""

import copy
import pickle

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

import pyro_vae as pv
from pyro_vae import cli, families, saving, tracing

SHAPE = (1, 8, 8)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def make(recipe, seed=0):
    torch.manual_seed(seed)
    return recipe(SHAPE)


def batch_of(pair, n, seed=1):
    """A batch that the model itself dreamt, conditions included."""
    trace = pair.draw(n, seed)
    return {name: site["value"] for name, site in tracing.sites(trace).items() if name in pair.arguments}


def trained(pair, batch):
    """Both programs as they are trained, where the batch is all the data."""
    return pair.trained(pv.infer.minibatch(len(next(iter(batch.values()))))) if pair.shares else pair


def step_size(pair):
    """Of Adam on sums over a batch; categories fall asleep at one that other codes bear."""
    codes = {name: fn for name, fn in pair.latent_sites().items() if name not in pair.given}
    categorical = any(map(families.is_discrete, codes.values()))
    return 3e-3 if categorical else 1e-2


def learns(step, batch, steps=150):
    losses = [step(**batch) for _ in range(steps)]
    first, last = sum(losses[:10]), sum(losses[-10:])
    assert last < first - 0.02 * abs(first), f"loss {first / 10:.2f} -> {last / 10:.2f}"


def plain_svi(recipe):
    """Two pairs in one process, a deep copy and a pickled one all learn under Pyro's own SVI."""
    first = make(recipe, 0)
    batch = batch_of(first, 32)
    untrained = copy.deepcopy(first)
    others = [make(recipe, 1), copy.deepcopy(first), pickle.loads(pickle.dumps(first))]
    for pair in (first, *others):
        learns(SVI(*trained(pair, batch), Adam({"lr": step_size(pair)}), Trace_ELBO()).step, batch)
    for a, b in zip(untrained.parameters(), make(recipe, 0).parameters(), strict=True):
        assert torch.equal(a, b), "training a pair moved its copy"


def bare_pair_under_svi(recipe):
    """The bare programs are Pyro programs as well, if slow ones where codes have the score function alone."""
    pair = make(recipe)
    batch = batch_of(pair, 32)
    pathwise = all(q.has_rsample for q in pair.encode(**batch).values())
    lr, steps = (1e-2, 150) if pathwise else (3e-3, 400)
    learns(SVI(pair.model, pair.guide, Adam({"lr": lr}), Trace_ELBO()).step, batch, steps)


def vectorised_particles(recipe):
    pair = make(recipe)
    batch = batch_of(pair, 16)
    losses = {}
    for vectorize in (True, False):
        loss = Trace_ELBO(num_particles=400, vectorize_particles=vectorize, max_plate_nesting=1)
        with torch.no_grad():
            losses[vectorize] = loss.loss(pair.model, pair.guide, **batch) / 16
    spread = torch.stack([pair.elbo(seed=s, **batch) for s in range(20)]).mean(1).std() / 400**0.5
    # where all probability is at one code, nothing but rounding is left
    assert abs(losses[True] - losses[False]) < 6 * spread + 1e-5 * abs(losses[True])
    learns(
        SVI(*pair, Adam({"lr": step_size(pair)}), Trace_ELBO(2, vectorize_particles=True, max_plate_nesting=1)).step,
        batch,
    )


def fit_learns(recipe):
    """fit improves the ELBO, but not by a game, repeats itself under one seed, and leaves global state as it was."""
    weights = []
    for _ in range(2):
        pair = make(recipe)
        batch = batch_of(pair, 50)
        untrained = pair.elbo(particles=100, seed=0, **batch).mean()
        pyro.clear_param_store()
        before = torch.get_rng_state()
        run = pv.fit(pair, batch, validation=batch, epochs=12, batch_size=16, device="cpu", progress=False)
        assert torch.equal(before, torch.get_rng_state()), "fit moved the global random generator"
        assert not list(pyro.get_param_store().keys()), "fit wrote into the global parameter store"
        if pair.discriminator is None:
            assert run.history["validation_elbo"][run.best_epoch - 1] == max(run.history["validation_elbo"])
            assert pair.elbo(particles=100, seed=0, **batch).mean() > untrained
        else:
            assert run.best_epoch == run.epochs
        weights.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
    assert torch.equal(*weights), "two trainings from one seed differ"


def verbs(recipe):
    for n in (1, 7):
        pair = make(recipe)
        batch = batch_of(pair, n)
        given = {k: v for k, v in batch.items() if k in pair.given}
        data = {k: v for k, v in batch.items() if k not in pair.given}
        (name,) = data if len(data) == 1 else (None,)
        shape = data[name].shape[1:] if name else None

        def only(result, name=name, data=data):
            return result if name else result[next(iter(data))]

        for draw in (pair.sample(n, **given), pair.sample(n, mean=True, **given), pair.reconstruct(**batch)):
            assert name is None or draw.shape == (n, *shape)
        codes = pair.encode(**batch)
        assert all(q.batch_shape == (n,) for q in codes.values())
        for bound in (pair.elbo(**batch), pair.log_likelihood(particles=3, **batch)):
            assert bound.shape == (n,)
            assert torch.isfinite(bound).all()
        assert torch.equal(pair.elbo(seed=4, **batch), pair.elbo(seed=4, **batch))
        path = only(pair.interpolate(data, data, steps=3, **given))
        assert path.shape[:2] == (3, n)
        torch.testing.assert_close(path[0], path[2])
        site = next(iter(codes))
        one = {k: v[:1] for k, v in batch.items()}
        assert only(pair.traverse(site, units=[0], **one)).shape[0] == 1
        assert only(pair.traverse(site, units=[0], values=[0, 1, 1], **one)).shape[:2] == (1, 3)
        assert "p(" in str(pair)
        assert "q(" in str(pair)


def chunks_do_not_change_what_is_computed(recipe):
    pair = make(recipe)
    batch = batch_of(pair, 30)
    whole, parts = (pair.encode(ancestors="mean", rows=rows, **batch) for rows in (None, 7))
    for site, q in whole.items():
        torch.testing.assert_close(q.mean, parts[site].mean)
    # the ELBO, whose error has a bound: before training, weights may have no variance
    single = torch.stack([pair.elbo(seed=s, **batch) for s in range(40)]).std(0).square().mean().sqrt()
    particles = 3000 if single else 300  # of which all are alike where all probability is at one code
    many = [pair.elbo(particles=particles, seed=1, rows=r, **batch) for r in (100, 100_000)]
    spread = single / particles**0.5
    assert (many[0] - many[1]).square().mean().sqrt() < 3 * spread + 1e-5 * many[0].abs().mean()


def save_and_load(recipe, folder):
    pair = make(recipe)
    batch = batch_of(pair, 20)
    pv.fit(pair, batch, epochs=2, device="cpu", progress=False)
    again = pv.load(pair.save(folder / "pair"))
    assert saving.config(again.recipe) == saving.config(pair.recipe)  # partials are equal to none but themselves
    assert repr(again) == repr(pair)
    assert torch.equal(again.elbo(seed=0, **batch), pair.elbo(seed=0, **batch))
    filled = pv.load(folder / "pair", into=make(recipe, 5))
    assert torch.equal(filled.elbo(seed=0, **batch), pair.elbo(seed=0, **batch))
    learns(SVI(*trained(again, batch), Adam({"lr": step_size(again)}), Trace_ELBO()).step, batch)


def copies_of_a_trained_pair(recipe, folder):
    """Trained under a weight on the KL, a pair and its copies can still be saved, moved and trained on."""
    pair = make(recipe)
    batch = batch_of(pair, 20)
    pv.fit(pair, batch, epochs=2, temper=0.5, device="cpu", out=folder / "first", progress=False)
    game = {"stepper": pair.stepper, "discriminator": pair.discriminator}
    wrapped = pv.Variant(pair.model, pair.guide, pair.conditions, pair.labels, handler=pv.temper(2.0), **game)
    for i, other in enumerate((pair, copy.deepcopy(pair), pickle.loads(pickle.dumps(pair)), wrapped)):
        before = [p.detach().clone() for p in other.parameters()]
        pv.fit(other, batch, epochs=1, device="cpu", progress=False)
        assert not all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))
        other.to("cpu").save(folder / str(i))
        again = make(recipe, 3)
        pv.load(folder / str(i), into=again)
        assert torch.equal(again.elbo(seed=0, **batch), other.elbo(seed=0, **batch))


def odd_batch_sizes(recipe):
    pair = make(recipe)
    for n, batch_size in ((1, 1), (5, 3), (5, 64)):
        run = pv.fit(pair, batch_of(pair, n), epochs=1, batch_size=batch_size, device="cpu", progress=False)
        assert run.epochs == 1
        report = pv.evaluate(pair, batch_of(pair, n), particles=2)
        assert report.data == n
        assert report.elbo == pytest.approx(report.reconstruction - sum(report.kl.values()), abs=1e-4)


def devices(recipe):
    reference = make(recipe)
    batch = batch_of(reference, 20)
    for device in DEVICES:
        pair = copy.deepcopy(reference)
        pv.fit(pair, batch, epochs=1, device=device, progress=False)
        assert {p.device.type for p in pair.parameters()} == {device}
        draws = pair.sample(2)
        assert (draws if torch.is_tensor(draws) else next(iter(draws.values()))).device.type == device
        assert pair.elbo(**batch).device.type == device
        assert pv.evaluate(pair, batch, particles=2).data == 20


def command_line(recipe, folder):
    """Trained in two goes, evaluated, sampled and drawn by words alone."""
    options = ["--epochs", "1", "--no-progress", "--out", str(folder / "run")]
    run = str(folder / "run")
    commands = [["train", recipe.__name__, *options], ["train", "--resume", run, "--epochs", "2", "--no-progress"]]
    commands += [["evaluate", run, "--particles", "2"], ["sample", run, "-n", "4"], ["plot", run]]
    for words in commands:
        assert cli.main(words) == 0, words
    report = pv.evaluate(pv.load(run), pv.data.load("digits", "test", binarise="threshold"), particles=2)
    assert report.data == 270
    assert (folder / "run" / "draws.png").stat().st_size > 100
    pictures = {path.stem for path in (folder / "run").glob("*.png")}
    assert {"samples", "reconstructions", "traversals", "latents", "learning_curves"} <= pictures


def hidden_entries(recipe):
    """Trained, evaluated and filled in with a third of the data hidden, whatever stands there."""
    pair = make(recipe)
    batch = batch_of(pair, 30)
    data = [name for name in batch if name not in pair.given]
    generator = torch.Generator().manual_seed(2)
    there = {name: torch.rand(batch[name].shape, generator=generator) > 0.3 for name in data}
    holed = batch | {name: batch[name].masked_fill(~there[name], torch.nan) for name in data}
    # features are of whole data
    objective = Trace_ELBO() if getattr(pair.stepper, "func", None) is pv.infer.VAEGAN else None
    with pv.infer.observed(**dict.fromkeys(data, torch.isfinite)):
        pv.fit(pair, holed, objective=objective, epochs=1, batch_size=16, device="cpu", progress=False)
        assert pv.evaluate(pair, holed, particles=2).data == 30
        whole = pair.impute(seed=0, **holed)
        bound = pair.elbo(seed=0, **holed)
    for name in data:
        value = whole if torch.is_tensor(whole) else whole[name]
        assert torch.equal(value[there[name]], batch[name][there[name]])
        assert torch.isfinite(value).all()
    other = batch | {name: torch.where(there[name], batch[name], 1 - batch[name]) for name in data}
    with pv.infer.observed(**there):
        assert torch.equal(pair.elbo(seed=0, **other), bound)
    assert not torch.equal(pair.elbo(seed=0, **batch), bound)


def double_precision(recipe):
    pair = make(recipe).double()
    batch = batch_of(pair, 4)
    assert pair.elbo(**batch).dtype == torch.float64


CHECKS = [
    plain_svi,
    bare_pair_under_svi,
    vectorised_particles,
    fit_learns,
    verbs,
    chunks_do_not_change_what_is_computed,
    save_and_load,
    copies_of_a_trained_pair,
    odd_batch_sizes,
    devices,
    hidden_entries,
    double_precision,
    command_line,
]
