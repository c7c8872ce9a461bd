"""The LoRA arm: adapters in the trunk, view conditioning and head are trained -> models/lora."""

from nightshift import settings
from nightshift.errors import run
from nightshift.gate import require_ok


def main() -> None:
    require_ok("lora")
    from nightshift import ranks  # torch: seconds, after the gate

    ranks.run("stages.train_lora")


def work() -> None:
    from nightshift import lora, training

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
