#!/usr/bin/env python3
"""A lab whose config file is the whole user: config/examples/lab.toml, with the ids and the folder of
this room put in, hands a folder to six seats of which two come late and one only after the sender was
killed and started again. Then a file in it changes: all six have that, and hardly anything is sent
again. Nobody types a verb but `run`."""
import argparse
import csv
import io
import json
import os
import re
import time

from handout import Device, ROOT, digest, same, script, scratch, write_file, write_tree
from lab import Lab

SEATS = 6
EXAMPLE = os.path.join(ROOT, "config/examples/lab.toml")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--size", type=int, default=64, metavar="MIB", help="of the one large file (%(default)s)")
    parser.add_argument("--resent", type=float, default=5, metavar="PERCENT",
                        help="most of the folder's bytes that may be sent again for a change; 0 asks nothing (%(default)s)")
    args = parser.parse_args()
    with scratch() as folder, Lab(SEATS + 1, logs=folder) as lab:
        tree = write_tree(os.path.join(folder, "lessons"), args.files, "unattended")
        write_file(os.path.join(tree, "large.bin"), args.size << 20, "unattended/large")
        teacher, *seats = [Device(lab, host, folder) for host in range(SEATS + 1)]
        for seat in seats:
            seat.trust(teacher)
        hire(teacher, seats, tree)
        running = teacher.start("run", "--json")
        running.until("listening", 30)
        for seat in seats[:3]:
            serve(seat)
        wait("the first three have it", lambda: complete(teacher) == 3)
        for seat in seats[3:5]:
            serve(seat)
        wait("two came late and have it", lambda: complete(teacher) == 5)
        first = shown(teacher)
        running.kill()
        running = teacher.start("run", "--json")
        running.until("listening", 30)
        serve(seats[5])
        wait("the last one has it", lambda: complete(teacher) == 6)
        again = shown(teacher)
        assert (first["version"], first["broadcast"]) == (again["version"], again["broadcast"]), "a restart is no new version"
        asked_again = {r["transfer"] for r in first["receivers"] if r["state"] == "complete"} - {r["transfer"] for r in again["receivers"]}
        assert not asked_again, f"asked again after the restart: {asked_again}"
        for seat in seats:
            same(tree, seat)

        # A small file is written anew, and some bytes in the middle of the large one.
        before = [lab.received(seat.host) for seat in seats]
        write_file(os.path.join(tree, "changed.txt"), 5000, "unattended/changed")
        with open(os.path.join(tree, "large.bin"), "r+b") as file:
            file.seek(args.size << 19)
            file.write(b"changed")
        wanted = digest(tree)
        begin = time.monotonic()
        wait("all six have the change", lambda: all(digest_or_none(seat) == wanted for seat in seats))
        seconds = time.monotonic() - begin
        wait("the sender knows it", lambda: complete(teacher) == 6)
        assert shown(teacher)["version"] > again["version"], "a change is a new version"
        for seat in seats:
            assert [n for n in os.listdir(seat.destination) if not n.startswith(".")] == ["lessons"], os.listdir(seat.destination)
        size = sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(tree) for name in names)
        most = max(lab.received(seat.host) - was for seat, was in zip(seats, before))
        if args.resent:
            assert most < size * args.resent / 100, f"{most} bytes came again of {size}"
        report(teacher, seats)
        print(f"{SEATS} seats have {size / 1e6:.0f} MB; {seconds:.1f} s after a change all have that, "
              f"for which {most} bytes, {100 * most / size:.2f} %, came at most at a seat")


def hire(teacher, seats, tree):
    """The example, with the ids of this room in it and the folder of this test."""
    with open(EXAMPLE) as file:
        text = file.read()
    checked = teacher.lab.run(teacher.host, [*teacher._command([])[:1], "--config", EXAMPLE, "config", "check"], "check")
    checked.end(60)
    examples = re.findall(r'"(seat\w{28}) ', text)
    assert len(examples) == len(seats) == len({s.id for s in seats}), examples
    for example, seat in zip(examples, seats):
        text = text.replace(example, seat.id)
    assert '"~/lessons"' in text
    text = text.replace('"~/lessons"', json.dumps(tree)).replace("~/", teacher.folder + "/")
    teacher.write_config(text)  # after what says which interface and port
    teacher.start("config", "check").end(60)


def serve(seat):
    seat.start("run", "--json").until("listening", 30)


def shown(teacher):
    """What `handout broadcasts` says of the lessons."""
    process = teacher.start("broadcasts", "--json")
    process.end(60)
    found = [e for e in process.events if e.get("event") == "plan" and e["series"] == "lessons"]
    assert len(found) == 1, process.text
    return found[0]


def complete(teacher):
    return sum(r["state"] == "complete" for r in shown(teacher)["receivers"])


def digest_or_none(seat):
    try:
        return digest(os.path.join(seat.destination, "lessons"))
    except OSError:  # it is just being changed for the next version
        return None


def wait(what, is_so, timeout=240):
    end = time.monotonic() + timeout
    while not is_so():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(0.5)


def report(teacher, seats):
    """The CSV and the audit log say who has it."""
    process = teacher.start("report", "lessons", "--csv")
    process.end(60)
    rows = list(csv.DictReader(io.StringIO("".join(process.text))))
    assert len(rows) == len(seats), rows
    ids = {value for row in rows for value in row.values()}
    missing = [seat.name for seat in seats if seat.id not in ids]
    assert not missing, f"the report does not name {missing}: {rows}"
    with open(os.path.join(teacher.folder, "state/audit.jsonl")) as file:
        log = file.read()
    assert all(log.count(seat.id) >= 2 for seat in seats), "the audit log names each seat for both versions"


if __name__ == "__main__":
    script(main)
