"""Every block of the encoder, once per train and val case -> data/encoded/frozen: in the frozen arm all is prefix."""

from nightshift import encoding, settings
from nightshift.errors import run


def main() -> None:
    chosen = settings.read()
    encoding.encode_arm("frozen", chosen, end=chosen.preset.depth)


if __name__ == "__main__":
    run(main)
