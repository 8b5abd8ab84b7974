"""What tests read in compiled programs: their loops, and where devices talk to each other."""

import math
import re

_COLLECTIVES = r"(?:all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)"
COLLECTIVE = re.compile(rf"\b{_COLLECTIVES}")
_SHAPE = re.compile(r"\b[a-z]+(\d+)\[([\d,]*)\]")


def loop_bodies(hlo: str) -> list[str]:
    """Text of every computation that a while loop reaches."""
    heads = re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \()", hlo)
    computations = {re.match(r"(?:ENTRY )?%?([\w.\-]+)", head)[1]: head for head in heads[1:]}
    waiting = re.findall(r"(?:body|condition)=%?([\w.\-]+)", hlo)
    reached = set()
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        words = re.findall(r"%?([\w.\-]+)", computations[name])
        waiting += [word for word in words if word in computations]
    return [computations[name] for name in reached]


def exchanged_bytes(hlo: str) -> int:
    """Bytes that one device hands into collectives, each counted once."""
    # An instruction is NAME = SHAPES OPERATION(...); one that is asynchronous starts and ends.
    results = re.findall(rf"= (.*?) {_COLLECTIVES}(?:-start)?\(", hlo)
    shapes = [shape for result in results for shape in _SHAPE.findall(result)]
    sizes = [math.prod(int(side) for side in sides.split(",") if side) for _, sides in shapes]
    return sum(int(bits) // 8 * size for (bits, _), size in zip(shapes, sizes, strict=True))
