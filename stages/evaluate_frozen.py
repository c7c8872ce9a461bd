"""The frozen arm on the test cases -> reports/evaluation/frozen."""

from nightshift import evaluation, leases, settings
from nightshift.errors import run


def main() -> None:
    with leases.leased("evaluate_frozen"):
        evaluation.evaluate_arm("frozen", settings.read(), merge=evaluation.nothing)


if __name__ == "__main__":
    run(main)
