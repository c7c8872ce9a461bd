"""The blocks before the first adapted one, once per train and val case -> data/encoded/lora."""

from nightshift import encoding, lora, settings
from nightshift.errors import run


def main() -> None:
    chosen = settings.read()
    encoding.encode_arm("lora", chosen, end=lora.prefix_end(chosen.lora, chosen.preset.depth))


if __name__ == "__main__":
    run(main)
