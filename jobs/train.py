"""Run one training, or one sweep, from a YAML file of settings, by hand or as a Ray job.

    ray job submit --working-dir . -- python jobs/train.py --config jobs/smoke.yaml

The file holds settings as `secauditai train config` writes them. One that leaves settings open (search spaces) is
a sweep and goes to `train tune`, any other to `train start`; further options are theirs.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

from secauditai.cli.app import main
from secauditai.config.files import read_layer, spaces_of
from secauditai.errors import ConfigError


def complete(arguments: list[str]) -> list[str]:
    """The command line of `secauditai` that these arguments stand for."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    known, _ = parser.parse_known_args(arguments)
    return ["train", "tune" if _is_sweep(known.config) else "start", *arguments]


def _is_sweep(config: str | None) -> bool:
    try:
        return config is not None and Path(config).is_file() and bool(spaces_of(read_layer(Path(config))))
    except ConfigError:
        return False  # `train start` reads it again and says what is wrong


if __name__ == "__main__":
    sys.argv[1:] = complete(sys.argv[1:])
    main()
