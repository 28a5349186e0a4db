#!/usr/bin/env python3
"""The units for systemd: `systemd-analyze verify` has nothing to say about them nor about the drop-ins,
and `systemd-analyze security` judges them OK or better. Where no systemd runs that is said offline."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
UNITS = os.path.join(ROOT, "config/systemd")
PROGRAM = os.environ.get("HANDOUT", os.path.join(ROOT, "target/release/handout"))
MOST = 2.0  # exposure, of 10; systemd calls up to 4.9 OK


def analyze(*words):
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, env=os.environ | {"SYSTEMD_COLORS": "0"})
    return done.returncode, done.stdout + done.stderr


def judge(name, drop_ins):
    with tempfile.TemporaryDirectory(prefix="handout-test-") as folder:
        unit = os.path.join(folder, name)
        with open(os.path.join(UNITS, name)) as file:
            text = file.read()
        # The program is not installed here; its verb and options are tried by tests/deb.py.
        begin = text.count("ExecStart=/usr/bin/handout ")
        assert begin == 1, f"ExecStart is there {begin} times"
        with open(unit, "w") as file:
            file.write(text.replace("/usr/bin/handout", PROGRAM))
        for drop_in in [None, *drop_ins]:
            if drop_in:
                os.makedirs(unit + ".d", exist_ok=True)
                shutil.copy(os.path.join(UNITS, drop_in), unit + ".d")
            code, said = analyze("verify", "--man=no", unit)
            said = [line for line in said.splitlines() if "handout" in line]
            assert code == 0 and not said, f"verify, with {drop_in}: {code}: {said}"
            print(f"{name}: verify, with {drop_in or 'no drop-in'}: nothing to say")
            if drop_in:
                shutil.rmtree(unit + ".d")
        # A mistake in the unit does not pass.
        with open(unit, "a") as file:
            file.write("[Service]\nProtectSystme=strict\n")
        _, said = analyze("verify", "--man=no", unit)
        assert "ProtectSystme" in said, f"verify sees no mistake: {said}"
        with open(unit, "w") as file:
            file.write(text.replace("/usr/bin/handout", PROGRAM))
        code, said = analyze("security", "--offline=true", f"--threshold={int(MOST * 10)}", unit)
        found = re.search(rf"exposure level for {name}: ([0-9.]+) (\w+)", said)
        assert found, said
        print(f"{name}: security: exposure {found[1]}, {found[2]}")
        assert code == 0 and float(found[1]) <= MOST, said


def main():
    if not shutil.which("systemd-analyze"):
        sys.exit("systemd-analyze is missing: apt-get install systemd")
    if not os.access(PROGRAM, os.X_OK):
        sys.exit(f"{PROGRAM} is not there: run cargo build --release, or set HANDOUT")
    for name, drop_ins in [("handout.service", ["folders.conf", "one-network.conf"]), ("handout-rendezvous.service", [])]:
        judge(name, drop_ins)


if __name__ == "__main__":
    main()
