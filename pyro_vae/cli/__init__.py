"""The command line, ``pyro-vae``: train, evaluate, sample, plot, list."""

from pyro_vae.cli.commands import main

__all__ = ["main"]
