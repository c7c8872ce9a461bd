"""The LoRA arm: adapters in the trunk, view conditioning and head are trained -> models/lora."""

from nightshift import lora, settings, training
from nightshift.errors import run


def main() -> None:
    chosen = settings.read()
    training.train_arm(
        "lora",
        chosen,
        start=lora.prefix_end(chosen.lora, chosen.preset.depth),
        adapt=lambda trunk: lora.add_adapters(trunk, chosen.lora),
        save=lora.save_adapters,
    )


if __name__ == "__main__":
    run(main)
