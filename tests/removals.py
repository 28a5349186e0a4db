#!/usr/bin/env python3
"""Usage: tests/removals.py [WORD...]

Takes each security check out of the code, one at a time, and shows that its test then fails: a
test that passes without the check it names would be worth nothing. The checks are listed in
tests/removals/*.toml: where one stands, what the code is without it, and the test that must
notice. With words, only the checks in whose name, test's name, or list's name, one of them stands.

Works on a copy of the tree below target/, so the tree itself stays as it is. Imports go downwards
only, so for a test of a lower layer the copy is built without the layers above it: that takes
seconds instead of a minute. A test of the whole program is `tests/NAME::...`. All of it takes half an hour or so, and is not part of tests/run; that
every pattern still fits the code is: tests/removals.rs.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

TREE = Path(__file__).resolve().parent.parent
LISTS = TREE / "tests" / "removals"
COPY = TREE / "target" / "removals" / "tree"
BUILD = TREE / "target" / "removals" / "build"
# What a layer needs besides itself, as in tests/layers.rs; the least of it first.
BELOW = {
    "protocol": [],
    "net": ["protocol"],
    "content": ["protocol"],
    "store": ["protocol"],
    "config": ["protocol"],
    "dataplane": ["protocol", "net", "content", "store", "config"],
    "actors": ["protocol", "net", "content", "store", "config", "dataplane"],
    "web": ["protocol", "net", "content", "store", "config", "dataplane", "actors"],
    "rendezvous": ["protocol", "net", "config"],
    "cli": ["protocol", "net", "content", "store", "config", "dataplane", "actors", "web", "rendezvous"],
    "tests/rendezvous": ["protocol", "net", "content", "store", "config", "dataplane", "actors", "web", "rendezvous", "cli"],
}
# Only a hang takes longer than this, in seconds; building included.
LIMIT = 900


class Removal(NamedTuple):
    """A check, where it stands, what the code is without it, and the test that must notice. Where
    two checks stand for one thing, `more` holds the others as [file, old, new]."""

    check: str
    file: str
    old: str
    new: str
    test: str
    more: list[list[str]] = []
    listed_in: str = ""

    @property
    def layer(self) -> str:
        return self.test.split("::")[0]


def copy_tree() -> None:
    """A copy of what the build needs, with times kept so that only changes are built."""
    ignore = shutil.ignore_patterns("target", ".git", "corpus")
    if COPY.exists():
        shutil.rmtree(COPY)
    shutil.copytree(TREE, COPY, ignore=ignore, copy_function=shutil.copy2)


def cut_to(layer: str) -> None:
    """Leaves only the layers in the copy that the tests of this one need."""
    kept = [*BELOW[layer], layer]
    lines = (TREE / "src" / "lib.rs").read_text().splitlines(keepends=True)
    module = re.compile(r"pub mod (\w+);")
    cut = [line for line in lines if not (found := module.match(line)) or found[1] in kept]
    (COPY / "src" / "lib.rs").write_text("".join(cut))


def run(tests: list[str]) -> tuple[set[str], str]:
    """Runs tests; those that passed, and all that was said."""
    target = tests[0].split("::")[0].removeprefix("tests/") if tests[0].startswith("tests/") else None
    of = ["--test", target] if target else ["--lib"]
    names = [test.split("::", 1)[1] for test in tests] if target else tests
    command = ["cargo", "test", "--locked", *of, "--target-dir", str(BUILD), "--", "--exact", *names]
    process = subprocess.Popen(
        command, cwd=COPY, stdin=subprocess.DEVNULL, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "CARGO_PROFILE_DEV_DEBUG": "0", "RUST_BACKTRACE": "0"},
    )
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0] + f"\nit did not end within {LIMIT} s"
    passed = re.findall(r"^test (\S+) \.\.\. ok$", output, re.M)
    return {f"tests/{target}::{name}" if target else name for name in passed}, output


def why(output: str) -> str:
    """How a test failed, in a line."""
    if "it did not end within" in output:
        return "HUNG: " + output.splitlines()[-1]
    if "1 failed" not in output:
        errors = re.findall(r"^error.*", output, re.M)
        return "DID NOT RUN: " + (errors[0] if errors else output[-300:])
    output = re.sub(r"\[(?:\d+, ){4}[\d, ]+\]", "[…]", output)  # keys and hashes
    panics = re.findall(r"panicked at ([^\n]*?):\n(.*?)(?=\nnote:|\n\n|\nthread |\nfailures:|\Z)", output, re.S)
    # A test's own words count more than those of a thread that it watches.
    panics.sort(key=lambda panic: "test" not in panic[0])
    return " ".join(panics[0][1].split())[:240] + f" ({panics[0][0]})" if panics else "it failed"


def restore(kept: dict[Path, str]) -> None:
    """Puts the code back as it was."""
    for source, text in kept.items():
        source.write_text(text)


def try_one(removal: Removal, passing: set[str], said: str) -> str:
    """What happens without a check."""
    if removal.test not in passing:
        return f"NOT TRIED: the test does not pass with the check: {said[-300:]}"
    kept: dict[Path, str] = {}
    for file, old, new in [[removal.file, removal.old, removal.new], *removal.more]:
        source = COPY / file
        text = source.read_text()
        kept.setdefault(source, text)
        if text.count(old) != 1:
            restore(kept)
            return f"NOT TRIED: {text.count(old)} places look like the check in {file}"
        source.write_text(text.replace(old, new))
    passed, output = run([removal.test])
    restore(kept)
    return "NOT NOTICED" if removal.test in passed else why(output)


def main(words: list[str]) -> int:
    lists = {file.stem: tomllib.loads(file.read_text()) for file in sorted(LISTS.glob("*.toml"))}
    everything = [Removal(**entry, listed_in=name) for name, found in lists.items() for entry in found["removal"]]
    removals = [r for r in everything if not words or any(w in (r.check + r.test + r.listed_in) for w in words)]
    if not removals:
        sys.exit("no check has such a name; there are: " + ", ".join(r.check for r in everything))
    copy_tree()
    wrong = 0
    for layer in BELOW:
        here = [r for r in removals if r.layer == layer]
        if not here:
            continue
        cut_to(layer)
        passing, said = run(sorted({r.test for r in here}))
        for removal in here:
            begin = time.monotonic()
            verdict = try_one(removal, passing, said)
            wrong += verdict.startswith(("NOT", "DID NOT", "HUNG"))
            seconds = time.monotonic() - begin
            print(f"{removal.check}\n  {removal.test}\n  {verdict} [{seconds:.0f} s]", flush=True)
    print(f"{len(removals)} checks taken out, {len(removals) - wrong} noticed")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
