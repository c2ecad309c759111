"""``python -m taskiq_sources_postgres.ddl``: print the SQL script that makes the tables, for ``psql`` or for a review."""

from __future__ import annotations

import argparse
import sys

from taskiq_sources.errors import ScheduleValidationError
from taskiq_sources_postgres.schema import ddl


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(prog="python -m taskiq_sources_postgres.ddl", description=main.__doc__)
    parser.add_argument("--schema", default="public", help="where the tables are (default: %(default)s)")
    parser.add_argument("--prefix", default="taskiq_", help="how their names begin (default: %(default)s)")
    try:
        sys.stdout.write(ddl(**vars(parser.parse_args())))
    except ScheduleValidationError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
