"""``python -m taskiq_sources_conformance.servers [--only redis,postgres] -- command …``: run a command with servers.

The servers' URLs are in the environment of the command, so one environment that has the wheels can serve the tests of others.
Servers that the environment names already are left alone. Ends with the exit code of the command.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from taskiq_sources_conformance.servers.base import Server
from taskiq_sources_conformance.servers.errors import ServerUnavailable
from taskiq_sources_conformance.servers.redis import RedisCluster
from taskiq_sources_conformance.servers.session import KINDS

_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h: a service is unavailable


def main(arguments: list[str]) -> int:
    """Start servers, run the command, stop the servers, return the exit code of the command."""
    options = _options(arguments)
    started: dict[str, Server | RedisCluster] = {}
    missing = []
    try:
        with ThreadPoolExecutor() as pool:
            wanted = {kind: pool.submit(KINDS[kind].start) for kind in options.only if not os.environ.get(KINDS[kind].variable)}
        for kind in options.only:
            try:
                if kind in wanted:
                    started[kind] = wanted[kind].result()
            except ServerUnavailable as error:
                missing.append(kind)
                _say(f"{kind}: not available ({error})")
            else:
                _say(f"{kind}: {started[kind].version}" if kind in started else f"{kind}: as given by {KINDS[kind].variable}")
        if missing and options.require:
            return _UNAVAILABLE
        return _run(options.command, {KINDS[kind].variable: server.url for kind, server in started.items()})
    finally:
        for server in started.values():
            server.close()


def _options(arguments: list[str]) -> argparse.Namespace:
    about = "Run a command with servers: their URLs are in its environment. Ends with its exit code."
    parser = argparse.ArgumentParser(prog="python -m taskiq_sources_conformance.servers", description=about)
    only = f"of {', '.join(KINDS)}; all by default"
    parser.add_argument("--only", type=_kinds, default=list(KINDS), metavar="KIND,…", help=only)
    parser.add_argument("--require", action="store_true", help=f"exit with {_UNAVAILABLE} if one of them cannot be had")
    parser.add_argument("command", nargs="+", help="what to run, after --")
    return parser.parse_args(arguments)


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    for kind in kinds:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"{kind!r} is not known; choose from {', '.join(KINDS)}")
    return kinds


def _run(command: list[str], urls: dict[str, str]) -> int:
    # The terminal says Ctrl-C to the command as well, which decides. (SIG_IGN would make the command ignore it, too.)
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        process = subprocess.Popen(command, env={**os.environ, **urls})  # noqa: S603
    except OSError as error:
        _say(str(error))
        return 127  # as shells do
    signal.signal(signal.SIGTERM, lambda number, _frame: process.send_signal(number))
    returncode = process.wait()
    return returncode if returncode >= 0 else 128 - returncode  # as shells do: 128 + signal


def _say(text: str) -> None:
    sys.stderr.write(f"servers: {text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
