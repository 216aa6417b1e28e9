"""`python bench/compare.py OLD.json NEW.json`: what changed between two results of `python -m bench`.

A change counts (`*`) when it is larger than 3 % and than what the rounds of either run differ among
themselves; a run of one round cannot tell, and is taken to differ by 10 %. It needs nothing but the two files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

__all__ = ["compare"]

SMALLEST_CHANGE = 0.03
SPREAD_UNKNOWN = 0.1
NOISY_CORES = 0.15
_ANSWERS = {True: "yes", False: "NO", None: "-"}

Result = dict[str, Any]


def compare(old: Result, new: Result) -> str:
    """Return what differs between two results, for people."""
    parts = [_setting(old, new), _cells(old, new), _values(old, new), _figures(old, new)]
    return "\n\n".join(part for part in parts if part)


def _setting(old: Result, new: Result) -> str:
    """Say what else changed: a figure means something only on the same machine and versions."""
    lines = [f"old: {old['suite']}, {old['started']}", f"new: {new['suite']}, {new['started']}"]
    before, after = _flat(old), _flat(new)
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    lines += [f"  {key}: {before.get(key, '-')} -> {after.get(key, '-')}" for key in changed]
    lines += [
        f"  NOISY {name}: others kept {result['others_busy_cores']} cores busy"
        for name, result in (("old", old), ("new", new))
        if result["others_busy_cores"] > NOISY_CORES
    ]
    return "\n".join(lines)


def _flat(result: Result) -> dict[str, Any]:
    flat = {f"machine {key}": value for key, value in result["machine"].items()}
    for server, facts in result["servers"].items():
        for group in ("versions", "build"):
            for key, value in facts.get(group, {}).items():
                flat[f"{server} {key}"] = value
    return flat


def _by(rows: list[Result], *keys: str) -> dict[tuple[Any, ...], Result]:
    return {tuple(row[key] for key in keys): row for row in rows}


def _cells(old: Result, new: Result) -> str:
    before, after = _by(old["cells"], "load", "server"), _by(new["cells"], "load", "server")
    lines = [f"{'CPU us per message':<58}{'old':>10}{'new':>10}{'change':>9}"]
    lines += [_cell(" ".join(key), before[key], after[key]) for key in sorted(before.keys() & after.keys())]
    lines += [f"only in old: {', '.join(key)}" for key in sorted(before.keys() - after.keys())]
    lines += [f"only in new: {', '.join(key)}" for key in sorted(after.keys() - before.keys())]
    return "\n".join(lines)


def _cell(name: str, old: Result, new: Result) -> str:
    change = new["cpu_us"] / old["cpu_us"] - 1
    mark = " *" if abs(change) > max(SMALLEST_CHANGE, _spread(old), _spread(new)) else ""
    return f"{name:<58}{old['cpu_us']:>10.3f}{new['cpu_us']:>10.3f}{change:>+9.1%}{mark}"


def _spread(cell: Result) -> float:
    return float(cell["spread"]) if cell["rounds"] > 1 else SPREAD_UNKNOWN


def _values(old: Result, new: Result) -> str:
    both = [key for key in old["values"] if key in new["values"]]
    if not both:
        return ""
    lines = [f"{'idle connections, the wheel, workers':<58}{'old':>10}{'new':>10}"]
    lines += [f"{key:<58}{old['values'][key]:>10.3f}{new['values'][key]:>10.3f}" for key in both]
    return "\n".join(lines)


def _figures(old: Result, new: Result) -> str:
    before, after = _by(old["figures"], "what"), _by(new["figures"], "what")
    lines = []
    for key in [key for key in before if key in after]:
        was, now = before[key]["met"], after[key]["met"]
        if was is not now:
            lines.append(f"  {key[0]} ({after[key]['goal']}): {_ANSWERS[was]} -> {_ANSWERS[now]}")
    return "\n".join(["figures whose answer changed:", *lines]) if lines else "no figure's answer changed"


def main() -> None:
    """Compare two files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    print(compare(json.loads(options.old.read_text()), json.loads(options.new.read_text())))


if __name__ == "__main__":
    main()
