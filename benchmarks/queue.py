"""Ten runs in DVC's queue, one after the other, each while LoRA is changed, run and committed; then it is collected.

    python -m benchmarks.queue

Each with other settings, in one clone of the miniature. Ends with status 1 if any command fails or says it is blocked.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nightshift.console.progress import bar

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers import chain

RUNS, EPOCHS = 10, 300
WHO = ("-c", "user.name=bench", "-c", "user.email=bench@example.invalid")


def main() -> None:
    """Print the commands that failed, and how many of them."""
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = chain.clone(Path(temporary) / "nightshift")

        def output(*command: str) -> str:
            done = chain.run(folder, *command)
            if done.returncode or "busy" in done.stderr or "blocked" in done.stderr:
                failed.append(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")
            return done.stdout

        for run in bar("runs", "run")(range(RUNS)):
            plus = "" if run else "+"  # collect has set the key in params.yaml
            output("nightshift", "queue", "start", "frozen", "-S", f"{plus}arms.frozen.epochs={EPOCHS + run}")
            for rank in (3, 4):
                chain.edit(folder, "params.yaml", {"arms.lora.rank": rank + 2 * run})
                output("dvc", "repro", "train@lora")
            subprocess.run(["git", *WHO, "commit", "-q", "-a", "-m", f"run {run}"], cwd=folder, check=True)
            while any(state in output("nightshift", "queue", "status") for state in ("  running", "  queued")):
                time.sleep(2)
            output("nightshift", "queue", "collect")
    print("\n".join([*failed, f"{RUNS} runs, {len(failed)} commands failed or were blocked"]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
