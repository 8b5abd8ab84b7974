"""Time from the command to the first training step, with an empty and with a full cache.

It runs train.py on scikit-learn's digits, and needs the packages that training needs.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import report


def main(config: str = "digits", batch: int = 48, rounds: int = 1) -> None:
    """Print the seconds to the first line of metrics.

    Args:
      config: name of a file in configs.
      batch: number of images of a step.
      rounds: number of warm starts.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = [{"start": "cold", "s": _seconds_to_first_step(config, batch, folder, "cold")}]
        for i in range(rounds):
            name = f"warm {i + 1}"
            rows.append({"start": name, "s": _seconds_to_first_step(config, batch, folder, name)})
    report("start_up", rows, config=config, batch=batch)


def _seconds_to_first_step(config: str, batch: int, scratch: Path, name: str) -> float:
    command = [
        *(sys.executable, "train.py", "--config", f"configs/{config}.py"),
        *("--workdir", str(scratch / name), f"--config.data.batch_size={batch}"),
        *(
            "--config.train.log_every=1",
            "--config.train.steps=1",
            "--config.train.pretrain_steps=0",
        ),
        f"--config.data.dir={scratch / 'data'}",
    ]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(scratch / "cache")}
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 1/"):
                seconds = time.perf_counter() - start
                process.kill()
                return seconds
    raise RuntimeError(f"{' '.join(command)} ended without a step")
