"""The command line, `python -m ast_hf`. Results go to stdout, everything else to stderr.

A verb imports what it needs when it runs, so that `--help` answers at once.
"""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

from ast_hf.cli import predict, publish, train
from ast_hf.cli.options import LOG
from ast_hf.errors import ASTError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit status: 0, or 1 where a picture could not be used, or 2 where nothing could be done; 130 after
        Ctrl-C, and 141 where nobody reads the rows any more.
    """
    if sys.stdout is None:  # closed, as by `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (as long as the process)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that it has no letters for
    parser = argparse.ArgumentParser(prog="python -m ast_hf", description="AST: industrial anomaly detection.")
    verbs = parser.add_subparsers(required=True, metavar="train|update|predict|evaluate|push|convert|export")
    for module in (train, predict, publish):
        module.register(verbs)
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("ast_hf").setLevel(logging.INFO)  # and nothing of what exporters and others tell themselves
    try:
        return options.run(options) or 0
    except BrokenPipeError:  # whoever read the rows has seen enough; closing stdout must not fail as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as shells have it
    except (ASTError, OSError) as error:
        LOG.error("%s", error)
        return 2
    except KeyboardInterrupt:
        LOG.error("Stopped; what was written so far is whole.")
        return 130
