"""Games: a pair that learns against a discriminator, behind the face of SVI."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae import checks, tracing
from pyro_vae.infer.aggregate import AggregateELBO, Draws
from pyro_vae.infer.mmd import exchanged, gram
from pyro_vae.infer.svi import SVI, Optimiser
from pyro_vae.nets import Discriminator

CHANCE, CERTAIN = 0.55, 0.99  # shares of right answers below and above which a game teaches nothing
OPENING = 500  # steps before anything is said of it
log = logging.getLogger("pyro_vae")


@dataclass
class Round:
    """What a pair plays in one step: its loss, summed over the batch, and two samples for the discriminator."""

    loss: Tensor
    drawn: Tensor
    reference: Tensor


class Adversarial(SVI):
    r"""T = argmax E_drawn[log s(T)] + E_reference[log(1 - s(T))],   s the logistic function

    The face of the games, in which a pair is trained by a loss that depends on a discriminator T, and T to tell two
    samples apart: at its best T(z) = log p_drawn(z) - log p_reference(z). Each step moves the pair at the present T,
    then T at the codes of that step. A class below says what is played (:meth:`play`).

    ``step`` returns the pair's loss summed over the batch, in nats. A game that teaches nothing is warned of, once, in
    the log ``pyro_vae``: one whose discriminator is always right, or was never better than chance though the samples
    differ.

    Args:
        model, guide, optim, clip: as those of :class:`SVI`.
        discriminator: a module from what is told apart, (batch, ...), to (batch, 1), T; by default a
            :class:`pyro_vae.nets.Discriminator`, built when the first batch comes by.
        weight: of what the discriminator says in the loss of the pair, in nats per datum.
        discriminator_optim: ``parameters -> torch.optim.Optimizer``; Adam with the paces of ``discriminator_lr`` and
            (0.5, 0.9) where nothing is said. Its step size follows that of the pair, in proportion.
        discriminator_lr: its step size.
        penalty: weight of E |grad T|^2 / 2 over both samples, which keeps T smooth where they do not overlap.

    Raises:
        ValueError: where a setting is out of range; in use, where the discriminator does not fit what it is to tell
            apart.
        FloatingPointError: where the loss is not finite, before anything has moved.

    Source: Goodfellow et al. 2014, arXiv:1406.2661; the penalty, Mescheder, Geiger & Nowozin 2018, arXiv:1801.04406.
    """

    kl = 1.0  # the weight of the KL of each datum in what is played

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: Optimiser | PyroOptim,
        discriminator: nn.Module | None = None,
        *,
        weight: float,
        discriminator_optim: Optimiser | None = None,
        discriminator_lr: float = 1e-3,
        penalty: float = 0.0,
        clip: float | None = None,
    ) -> None:
        super().__init__(model, guide, optim, AggregateELBO(self.kl), clip=clip)
        self.weight = checks.real("weight", weight, least=0)
        self.penalty = checks.real("penalty", penalty, least=0)
        self.discriminator_lr = checks.real("discriminator_lr", discriminator_lr, above=0)
        usual = partial(torch.optim.Adam, lr=self.discriminator_lr, betas=(0.5, 0.9))
        self._make_opponent = discriminator_optim or usual
        self._restored: dict[str, Any] | None = None
        self.discriminator: Any = None
        if discriminator is not None:
            self._seat(discriminator)
        self._met: list[tuple[Tensor, Tensor]] = []
        self._right, self._asked = torch.zeros(()), 0  # since the figures were last taken
        self._recent = self._most = torch.full((), 0.5)  # a running average of right answers, and its largest value
        self._taken, self._warned = 0, False

    def play(self, batch: Mapping[str, Tensor]) -> Round:
        """What the pair plays on a batch."""
        raise NotImplementedError

    def draws(self, batch: Mapping[str, Tensor]) -> Draws:
        """One run of both programs."""
        return self.loss.draws(self.model, self.guide, **batch)

    def _seat(self, discriminator: nn.Module) -> None:
        """Give the discriminator its place and its optimiser."""
        checks.instance("discriminator", discriminator, nn.Module)
        if not any(parameter.requires_grad for parameter in discriminator.parameters()):
            raise ValueError("discriminator: has no parameters to train")
        self.discriminator = discriminator
        self.opponent = self._make_opponent(discriminator.parameters())
        if self._restored is not None:  # which was read before the first batch came by
            self.load_state_dict(self._restored)

    def _usual(self, shape: tuple[int, ...]) -> nn.Module:
        return Discriminator(shape)

    def ready(self, x: Tensor) -> None:
        """See to it that there is a discriminator for samples such as ``x``."""
        if self.discriminator is None:
            self._seat(self._usual(tuple(x.shape[1:])).to(x))

    def tell(self, x: Tensor) -> Tensor:
        """T of each datum of a sample, (batch,), for the loss of the pair: the discriminator stands still."""
        self.ready(x)
        with still(self.discriminator):
            return self._answers(x)

    def _answers(self, x: Tensor) -> Tensor:
        name = type(self).__name__
        try:
            t = self.discriminator(x)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            what = (
                f"{name}: discriminator: cannot read samples of shape {tuple(x.shape)} ({str(error).splitlines()[0]})"
            )
            raise ValueError(what) from None
        if t.shape != (len(x), 1):
            raise ValueError(f"{name}: discriminator: expected ({len(x)}, 1) for as many data, found {tuple(t.shape)}")
        return t[:, 0]

    def _gradients(self, parts: Sequence[tuple[float, Mapping[str, Tensor]]]) -> float:
        self._met.clear()
        return super()._gradients(parts)

    def _backward(self, batch: Mapping[str, Tensor]) -> float:
        played = self.play(batch)
        played.loss.backward()
        self._met.append((played.drawn.detach(), played.reference.detach()))
        return played.loss.item()

    def update(self) -> None:
        """A step of the pair, and one of the discriminator on what the pair has played."""
        super().update()
        drawn, reference = (torch.cat(side) for side in zip(*self._met, strict=True))
        x = torch.cat([drawn, reference]).requires_grad_(self.penalty > 0)
        t = self._answers(x)
        ours, theirs = t[: len(drawn)], t[len(drawn) :]
        loss = softplus(-ours).mean() + softplus(theirs).mean()
        if self.penalty:
            (slope,) = torch.autograd.grad(t.sum(), x, create_graph=True)
            loss = loss + self.penalty / 2 * slope.flatten(1).square().sum(1).mean()
        self.opponent.zero_grad(set_to_none=True)
        loss.backward()
        self._keep_pace()
        self.opponent.step()
        with torch.no_grad():
            self._note((ours.sign().mean() - theirs.sign().mean()) / 4 + 0.5, drawn, reference)

    def _keep_pace(self) -> None:
        """Where the pair's step size is on a schedule, the discriminator's falls and rises with it."""
        assert self.optimizer is not None
        told, now = self.optimizer.defaults["lr"], self.optimizer.param_groups[0]["lr"]
        for group in self.opponent.param_groups if told else ():
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * now / told

    def _note(self, right: Tensor, drawn: Tensor, reference: Tensor) -> None:
        """Keep the score, and warn of a game that is lost."""
        self._right, self._asked = self._right.to(right) + right, self._asked + 1
        self._recent = 0.98 * self._recent.to(right) + 0.02 * right
        self._most = torch.maximum(self._most.to(right), self._recent)
        self._taken += 1
        if self._warned or self._taken % OPENING:
            return
        # where the samples are alike, chance is how a game ends that is won
        if self._most < CHANCE and _differ(drawn, reference):
            self._warn("has been at chance from the start, and teaches the pair nothing", "larger discriminator_lr")
        elif self._recent > CERTAIN:
            self._warn("is always right, so that the pair learns little from it", "smaller discriminator_lr")

    def _warn(self, what: str, pace: str) -> None:
        self._warned = True
        share, name = float(self._recent), type(self).__name__
        log.warning(
            "%s: after %d steps the discriminator %s (%.0f %% right); a %s, or another penalty or net, may help",
            *(name, self._taken, what, 100 * share, pace),
        )

    def figures(self) -> dict[str, float]:
        """The share of right answers of the discriminator since it was last asked for; 0.5 is chance."""
        share = float(self._right) / self._asked if self._asked else float("nan")
        self._right, self._asked = torch.zeros(()), 0
        return {"discriminator": share}

    def evaluate_loss(self, **batch: Tensor) -> float:
        """The pair's loss summed over the batch; moves nothing."""
        net = nn.ModuleList(filter(None, [self.discriminator]))  # which may have running averages
        with tracing.resting(net), torch.no_grad(), self._adopting():
            return float(self.play(batch).loss)

    def state_dict(self) -> dict[str, Any]:
        """What both optimisers remember, the discriminator, and the score of the game."""
        if self.discriminator is None:
            raise ValueError(f"{type(self).__name__}: nothing was played yet; take a step, or pass a discriminator")
        return {
            "optimizer": super().state_dict(),
            "opponent": self.opponent.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "score": {"recent": float(self._recent), "most": float(self._most), "taken": self._taken},
            "warned": self._warned,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the game of another run."""
        if state.keys() != {"optimizer", "opponent", "discriminator", "score", "warned"}:
            raise ValueError(f"state: expected that of a game, found one of {sorted(map(str, state))}")
        if self.discriminator is None:
            self._restored = state
            return
        self._restored = None
        super().load_state_dict(state["optimizer"])
        self.opponent.load_state_dict(state["opponent"])
        self.discriminator.load_state_dict(state["discriminator"])
        score = state["score"]
        self._recent, self._most = torch.tensor(score["recent"]), torch.tensor(score["most"])
        self._taken, self._warned = score["taken"], state["warned"]


def _differ(drawn: Tensor, reference: Tensor) -> bool:
    """Whether two samples are further apart than any of 19 others that they can be divided into: a test at 5 %."""
    if min(len(drawn), len(reference)) < 2:
        return False
    both = torch.cat([drawn.flatten(1), reference.flatten(1)])
    found = exchanged(gram(both, both, scale=max(float(both.std()), 1e-6)), len(drawn), 19)
    return bool(found[0] > found[1:].max())


@contextmanager
def still(net: nn.Module) -> Iterator[None]:
    """Without gradients of the parameters of a net, which pass through it all the same."""
    moving = [p for p in net.parameters() if p.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)
