"""All ratios, one after the other -> a table on stdout and reports/benchmark.json; with CUDA the GPU's rows too.

python -m benchmarks
"""

from nightshift.engine.device import seed_everything
from nightshift.core.io import write_json
from nightshift.console.progress import say

from benchmarks import arms, gpu, pipeline, probe  # isort: skip


def main() -> None:
    seed_everything(0)
    found = []
    for part in (pipeline, probe, arms, gpu):
        for row in part.rows():
            found.append(row)
            say(f"{row['name']:36} {row['value']:10.4f} {row['unit']:6} {row['device']}, torch {row['torch']}")
    write_json("reports/benchmark.json", found)
    print("benchmarks: reports/benchmark.json")


if __name__ == "__main__":
    main()
