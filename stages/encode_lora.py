"""The blocks before the first adapted one, once per train and val case -> data/encoded/lora."""

from nightshift.config import params as settings
from nightshift.console.errors import run
from nightshift.jobs.preconditions import require_ok


def main() -> None:
    require_ok("lora")
    from nightshift.engine import distributed as ranks  # torch: seconds, after the gate

    ranks.run("stages.encode_lora")


def work() -> None:
    from nightshift import feature_cache as encoding
    from nightshift.model.segmentation import lora

    chosen = settings.read()
    encoding.encode_arm("lora", chosen, end=lora.prefix_end(chosen.lora, chosen.preset.depth))


if __name__ == "__main__":
    run(main)
