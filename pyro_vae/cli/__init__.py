"""The command line, ``pyro-vae``: train, evaluate, sample, plot, list."""

import sys
from collections.abc import Sequence


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code.

    >>> main(["evaluate", "nowhere"])
    2
    """
    try:
        from pyro_vae.cli.commands import run  # the libraries take seconds to load, and may be interrupted

        return run(words)
    except KeyboardInterrupt as stop:
        print(f"pyro-vae: error: {stop or 'interrupted'}", file=sys.stderr)
        return 130


__all__ = ["main"]
