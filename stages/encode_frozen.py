"""Every block of the encoder, once per train and val case -> data/encoded/frozen: in the frozen arm all is prefix."""

from nightshift import settings
from nightshift.errors import run
from nightshift.gate import require_ok


def main() -> None:
    require_ok("frozen")
    from nightshift import encoding  # torch and sam3: seconds, after the gate

    chosen = settings.read()
    encoding.encode_arm("frozen", chosen, end=chosen.preset.depth)


if __name__ == "__main__":
    run(main)
