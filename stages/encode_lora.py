"""The blocks before the first adapted one, once per train and val case -> data/encoded/lora."""

from nightshift import settings
from nightshift.errors import run
from nightshift.gate import require_ok


def main() -> None:
    require_ok("lora")
    from nightshift import ranks  # torch: seconds, after the gate

    ranks.run("stages.encode_lora")


def work() -> None:
    from nightshift import encoding, lora

    chosen = settings.read()
    encoding.encode_arm("lora", chosen, end=lora.prefix_end(chosen.lora, chosen.preset.depth))


if __name__ == "__main__":
    run(main)
