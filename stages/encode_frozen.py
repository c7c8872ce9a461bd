"""The trunk's output, or the neck's (`encode.level`), once per train and val case -> data/encoded/frozen."""

from nightshift import settings
from nightshift.errors import run
from nightshift.gate import require_ok


def main() -> None:
    require_ok("frozen")
    from nightshift import ranks  # torch: seconds, after the gate

    ranks.run("stages.encode_frozen")


def work() -> None:
    from nightshift import encoding

    chosen = settings.read()
    encoding.encode_arm("frozen", chosen, end=chosen.preset.depth)


if __name__ == "__main__":
    run(main)
