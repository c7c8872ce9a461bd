"""The frozen arm on the test cases -> reports/evaluation/frozen."""

from nightshift.evaluation.evaluate import evaluate as evaluation
from nightshift.jobs import gpu_lock as leases
from nightshift.config import params as settings
from nightshift.console.errors import run


def main() -> None:
    with leases.leased("evaluate_frozen"):
        evaluation.evaluate_arm("frozen", settings.read(), merge=evaluation.nothing)


if __name__ == "__main__":
    run(main)
