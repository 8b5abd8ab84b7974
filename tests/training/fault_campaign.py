"""Kill training again and again, and see that it ends as if nothing had happened.

    python tests/training/fault_campaign.py --kills 50 --folder runs/faults

Each kill comes while the process starts, between steps, or while a checkpoint is written. The last
line is one JSON object; the exit code is 1 if anything was lost.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from tiny import last_json, recorded_step, run, start

# Most steps, seconds and saves that a process lives to see.
STEPS, SECONDS, SAVES = 30, 8, 3

# By the clock there would be checkpoints between two records, whose means were of fewer steps then.
OFTEN = {
    "train__checkpoint_steps": "10",
    "train__checkpoint_seconds": "1000",
    "train__log_every": "5",
}


def campaign(folder: Path, kills: int, seed: int = 0) -> dict:
    """Train undisturbed, and with kills; what both runs came to.

    Args:
      folder: for both, data and compiled code.
      kills: how often the second one is killed and started again.
      seed: of when.
    """
    calm, disturbed = folder / "calm", folder / "disturbed"
    options = {**OFTEN, "train__steps": str(max(200, (STEPS + 10) * kills))}
    expected = _finish(folder, calm, options)
    generator, resumed_from, during_save = random.Random(seed), [0], 0
    for kill in range(kills):
        process = start("train.py", folder, f"--workdir={disturbed}", **options)
        _await_a_moment(process, disturbed, generator)
        assert process.poll() is None, process.communicate()[1]
        during_save += any(_unfinished(disturbed))
        process.kill()
        process.communicate()
        resumed_from.append(max(_checkpoints(disturbed), default=0))
        print(f"kill {kill + 1}: {resumed_from[-1]} steps kept", file=sys.stderr, flush=True)
    final = _finish(folder, disturbed, options)
    same = [key for key in expected if key.startswith("eval/")] + ["params_sha256"]
    return {
        "kills": kills,
        "kills_during_a_save": during_save,
        "kept_steps": resumed_from,
        "nothing_lost": resumed_from == sorted(resumed_from),
        "same_end": all(final[key] == expected[key] for key in same),
        "same_record": _losses(calm) == _losses(disturbed),
    }


def _finish(folder: Path, workdir: Path, options: dict[str, str]) -> dict:
    code, out, err = run("train.py", folder, f"--workdir={workdir}", **options)
    assert code == 0, err
    return last_json(out)


def _await_a_moment(process: subprocess.Popen, workdir: Path, generator: random.Random) -> None:
    """Return while a process starts, after some steps, or in the middle of a save."""
    moment = generator.choice(("start", "steps", "save"))
    most = {"start": 0, "steps": generator.randint(1, STEPS), "save": STEPS}[moment]
    saves = generator.randint(1, SAVES) if moment == "save" else SAVES
    end = time.monotonic() + (generator.uniform(0, SECONDS) if moment == "start" else 1000)
    first, seen = recorded_step(workdir), set()
    while process.poll() is None and time.monotonic() < end and len(seen) < saves:
        seen |= set(_unfinished(workdir))
        if recorded_step(workdir) > first + most:
            return
        time.sleep(0.001)


def _unfinished(workdir: Path) -> list[Path]:
    return [*workdir.glob("*/*.orbax-checkpoint-tmp*")]


def _checkpoints(workdir: Path) -> list[int]:
    return [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]


def _losses(workdir: Path) -> list[tuple[int, float]]:
    """What was recorded of training, but for times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report = campaign(options.folder, options.kills, options.seed)
    print(json.dumps(report))
    sys.exit(not (report["nothing_lost"] and report["same_end"] and report["same_record"]))
