#!/usr/bin/env python3
"""Usage: tests/removals.py [WORD...]

Takes each security check out of the code, one at a time, and shows that its test then fails: a
test that passes without the check it names would be worth nothing. With words, only the checks
whose names contain one of them. Works on a copy of the tree below target/, so the tree itself
stays as it is. Minutes, and not part of tests/run.
"""
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

TREE = Path(__file__).resolve().parent.parent
COPY = TREE / "target" / "removals" / "tree"
BUILD = TREE / "target" / "removals" / "build"


class Removal(NamedTuple):
    """A check, where it stands, what the code is without it, and the test that must notice."""

    check: str
    file: str
    old: str
    new: str
    test: str


REMOVALS = [
    Removal(
        "signature of an offer or answer",
        "src/protocol/proof.rs",
        ".map_err(|_| ProofError::BadSignature)?;",
        ".ok();",
        "protocol::proof::tests::changing_any_field_of_the_proof_is_noticed",
    ),
    Removal(
        "id belongs to the key, in the SDP",
        "src/protocol/proof.rs",
        "if actual != *from {",
        "if false && actual != *from {",
        "protocol::proof::tests::changing_any_field_of_the_proof_is_noticed",
    ),
    Removal(
        "id belongs to the key, on the channel",
        "src/protocol/handshake.rs",
        "if hello.key.device_id() != hello.id {",
        "if false {",
        "protocol::handshake::tests::a_wrong_id_key_nonce_or_version_is_refused",
    ),
    Removal(
        "fingerprint is the signed one",
        "src/protocol/proof.rs",
        "            &said.facts.fingerprint,\n",
        "            &[0; 32],\n",
        "protocol::proof::tests::changing_any_signed_fact_of_the_sdp_is_noticed",
    ),
    Removal(
        "freshness",
        "src/protocol/proof.rs",
        "if now > last {",
        "if false && now > last {",
        "protocol::proof::tests::a_proof_is_good_within_its_time_and_the_skew_only",
    ),
    Removal(
        "replay cache",
        "src/protocol/proof.rs",
        "spent.spend((*line.key.as_bytes(), line.nonce), last, now)?;",
        "let _ = (&spent, last);",
        "protocol::proof::tests::a_proof_is_good_once",
    ),
    Removal(
        "channel handshake: signature",
        "src/protocol/handshake.rs",
        "match peer.key.verify(&said, &sig) {",
        "match peer.key.verify(&said, &sig).or(Ok::<(), ()>(())) {",
        "protocol::handshake::tests::a_proof_of_another_key_or_another_nonce_is_refused",
    ),
    Removal(
        "channel handshake: the certificate that DTLS brought",
        "src/protocol/handshake.rs",
        "            writer.cert,\n            reader.cert,\n",
        "            &[0; 32],\n            &[0; 32],\n",
        "protocol::handshake::tests::a_relayed_handshake_fails_on_both_sides_because_the_certificates_differ",
    ),
]


def copy_tree() -> None:
    """A copy of what the build needs, with times kept so that only changes are built."""
    ignore = shutil.ignore_patterns("target", ".git")
    if COPY.exists():
        shutil.rmtree(COPY)
    shutil.copytree(TREE, COPY, ignore=ignore, copy_function=shutil.copy2)


def run(test: str) -> tuple[bool, str]:
    """Runs one test; whether it ran and passed, and what it said."""
    command = ["cargo", "test", "--locked", "--lib", "--", "--exact", test]
    done = subprocess.run(
        [*command[:3], "--target-dir", str(BUILD), *command[3:]],
        cwd=COPY, stdin=subprocess.DEVNULL, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "CARGO_PROFILE_DEV_DEBUG": "0", "RUST_BACKTRACE": "0"},
    )
    return done.returncode == 0 and "1 passed" in done.stdout, done.stdout


def why(output: str) -> str:
    """How a test failed, in a line."""
    if "1 failed" not in output:
        errors = re.findall(r"^error.*", output, re.M)
        return "DID NOT RUN: " + (errors[0] if errors else output[-300:])
    panic = re.search(r"panicked at ([^\n]*?):\n(.*?)(?:\nnote:|\n\n|\nfailures:)", output, re.S)
    return " ".join(panic[2].split())[:160] + f" ({panic[1]})" if panic else "it failed"


def main(words: list[str]) -> int:
    removals = [r for r in REMOVALS if not words or any(w in r.check for w in words)]
    if not removals:
        sys.exit("no check has such a name; there are: " + ", ".join(r.check for r in REMOVALS))
    copy_tree()
    wrong = 0
    for removal in removals:
        source = COPY / removal.file
        text = source.read_text()
        begin = time.monotonic()
        passes, output = run(removal.test)
        if text.count(removal.old) != 1:
            verdict = f"NOT TRIED: {text.count(removal.old)} places look like the check in {removal.file}"
        elif not passes:
            verdict = f"NOT TRIED: {removal.test} does not pass with the check: {output[-300:]}"
        else:
            source.write_text(text.replace(removal.old, removal.new))
            passes, output = run(removal.test)
            verdict = "NOT NOTICED" if passes else why(output)
            source.write_text(text)
        wrong += passes or verdict.startswith(("NOT", "DID NOT"))
        print(f"{removal.check}\n  {removal.test}\n  {verdict} [{time.monotonic() - begin:.0f} s]", flush=True)
    print(f"{len(removals)} checks taken out, {len(removals) - wrong} noticed")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
