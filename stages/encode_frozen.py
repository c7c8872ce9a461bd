"""The trunk's output, or the neck's (`encode.level`), once per train and val case -> data/encoded/frozen."""

from nightshift.config import params as settings
from nightshift.console.errors import run
from nightshift.jobs.preconditions import require_ok


def main() -> None:
    require_ok("frozen")
    from nightshift.engine import distributed as ranks  # torch: seconds, after the gate

    ranks.run("stages.encode_frozen")


def work() -> None:
    from nightshift import feature_cache as encoding

    chosen = settings.read()
    encoding.encode_arm("frozen", chosen, end=chosen.preset.depth)


if __name__ == "__main__":
    run(main)
