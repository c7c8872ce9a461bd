"""Ten evenings in a row: a night in DVC's queue while LoRA is changed, run and committed, then collected.

    python -m benchmarks.evenings

Each with other settings, in one clone of the miniature. Ends with status 1 if any command fails or says it is blocked.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nightshift.console.progress import bar

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import test_chain as chain

EVENINGS, EPOCHS = 10, 300
WHO = ("-c", "user.name=bench", "-c", "user.email=bench@example.invalid")


def main() -> None:
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = chain.clone(Path(temporary) / "nightshift")

        def said(*command: str) -> str:
            done = chain.run(folder, *command)
            if done.returncode or "busy" in done.stderr or "blocked" in done.stderr:
                failed.append(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")
            return done.stdout

        for evening in bar("evenings", "evening")(range(EVENINGS)):
            said("stages.night", "start", "-S", f"frozen.epochs={EPOCHS + evening}")
            for rank in (3, 4):
                chain.edit(folder, "params.yaml", {"lora.rank": rank + 2 * evening})
                said("dvc", "repro", "train_lora")
            subprocess.run(["git", *WHO, "commit", "-q", "-a", "-m", f"evening {evening}"], cwd=folder, check=True)
            while any(state in said("stages.night", "status") for state in ("running", "queued")):
                time.sleep(2)
            said("stages.night", "collect")
    print("\n".join([*failed, f"{EVENINGS} evenings, {len(failed)} commands failed or were blocked"]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
