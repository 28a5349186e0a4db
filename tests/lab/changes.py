#!/usr/bin/env python3
"""A service that works by its config file, while that file, the clock and the files that it hands out
change: hours that end and begin again in the middle of a transfer, a schedule that sends always, a
broadcast that is new, faster, or of another path, a device that is put into a group and one that is
taken out, a mistake, and files that are written while they are sent. What holds is what the file says
now, what was received is kept, and what arrives is one version and no mix."""
import argparse
import datetime
import glob
import json
import os
import time

from handout import Device, digest, script, scratch, write_file
from lab import Loopback

MB = 1_000_000
PORT = 31870  # below those that the system gives to outgoing connections


class Room:
    """A teacher whose config file is changed, and seats, each as `run`."""

    def __init__(self, lab, folder, seats, faked=None, **sections):
        self.lab, self.folder, self.faked, self.running, self.seen = lab, folder, faked, {}, {}
        places = []
        for n in range(seats + 1):
            places.append(Device(lab, 0, folder, f"seat{n}" if n else "teacher",
                                 discovery={"interfaces": [], "loopback_only": True, "enabled": False},
                                 network={"loopback": True}, signaling={"port": PORT + n, "bind": "127.0.0.1", "max_clock_skew": "1d"},
                                 receive={"reserve": 0}, log={"level": "info"}, **({} if n else sections)))
        self.teacher, *self.seats = places
        for seat in self.seats:
            seat.trust(self.teacher)
        static = [f"{seat.id}@127.0.0.1:{PORT + n}" for n, seat in enumerate(self.seats, 1)]
        self.teacher.config["discovery"]["static_peers"] = static

    def start(self, device):
        command = device._command(["run", "--json"])
        if self.faked:
            command = faked(self.faked) + command
        process = self.lab.run(0, command, f"{device.name}-run")
        process.until("listening", 60)
        self.running[device.name] = process
        return process

    def reload(self, *parts):
        """Puts a new config file in the teacher's place while it runs; what the service says of it."""
        self.teacher.write_config(*parts)
        return self.next("reloaded", "not_reloaded")

    def next(self, *names, device=None):
        """The next event of these names that was not asked for before."""
        process = self.running[(device or self.teacher).name]
        after = self.seen.get(process.pid, 0)
        found = until(lambda: next(((n, e) for n, e in enumerate(list(process.events)) if n >= after and e.get("event") in names), None),
                      f"an event {names}", process)
        self.seen[process.pid] = found[0] + 1
        return found[1]

    def plan(self, name):
        """What `handout broadcasts` says of one."""
        process = self.teacher.start("broadcasts", "--json")
        process.end(60)
        found = [e for e in process.events if e.get("event") == "plan" and e["series"] == name]
        return found[0] if found else None

    def seat_of(self, name, seat):
        """Where a seat stands with one."""
        plan = self.plan(name) or {"receivers": []}
        return next((r for r in plan["receivers"] if r["device_id"] == seat.id), None)

    def report(self, name, code=None):
        """The rows of `handout report`, by device."""
        process = self.teacher.start("report", name, "--json")
        process.end(60, code)
        return {seat["device_id"]: seat for seat in process.find("report")["seats"]}

    def peer(self, device):
        """What the teacher's service knows of another device."""
        process = self.teacher.start("peers", "--json", "--wait", "0s")
        process.end(60)
        return next(e for e in process.events if e.get("device_id") == device.id)

    def has(self, seat, name, source):
        path = os.path.join(seat.destination, name)
        try:
            return digest(path) == digest(source)
        except OSError:
            return False

    def log(self, device=None):
        with open(self.running[(device or self.teacher).name].errors, errors="replace") as file:
            return file.read()


def faked(clock):
    """The words that start a program with another clock, and only that: timers run as they do."""
    library = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    assert library, "libfaketime is missing: apt-get install libfaketime"
    return ["env", "TZ=UTC", f"LD_PRELOAD={library[0]}", f"FAKETIME={clock}", "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"]


def group(*seats, name="class"):
    members = ", ".join(f'"{seat.id} {seat.name}"' for seat in seats)
    return f'[[group]]\nname = "{name}"\nroles = ["receive"]\nmembers = [{members}]\n'


def broadcast(name, path, *more, to="class"):
    lines = [f'[[broadcast]]\nname = "{name}"\npath = {json.dumps(path)}\nto = ["{to}"]', 'settle = "200ms"', 'rescan = "1s"', *more]
    return "\n".join(lines) + "\n"


def until(is_so, what, process, timeout=60):
    """Polls for what other processes bring about."""
    end = time.monotonic() + timeout
    while True:
        found = is_so()
        if found:
            return found
        if process.ended or time.monotonic() > end:
            process.fail(f"{what}: not within {timeout} s")
        time.sleep(0.1)


def the_clock(lab, folder):
    """A clock that goes eight times as fast: hours end and begin, and a schedule fires."""
    room = Room(lab, folder, 2, faked="@2026-03-02 07:59:52 x8")
    late, often = room.seats
    film = write_file(os.path.join(folder, "film.bin"), 15 * MB, "film")
    bell = write_file(os.path.join(folder, "bell.bin"), 10 * MB, "bell")
    # A minute is 7.5 seconds: neither gets through in one.
    room.teacher.write_config(
        group(late), group(often, name="often"),
        broadcast("film", film, 'rate = "1500kB/s"', 'time_zone = "UTC"', 'hours = "08:00-08:01,08:02-08:10"'),
        broadcast("bell", bell, 'rate = "1MB/s"', 'schedule = "* * * * *"', 'repeat = "always"', to="often"))
    for device in (*room.seats, room.teacher):
        room.start(device)
    teacher = room.running["teacher"]
    begun = until(lambda: room.seat_of("bell", often), "it has begun", teacher)
    rests = until(lambda: (r := room.seat_of("film", late)) and r["state"] == "paused" and r, "it rests", teacher)
    assert 3 * MB < rests["bytes"] < 15 * MB and "outside of its hours" in rests["reason"], rests
    assert room.plan("film")["state"] == "resting", room.plan("film")
    until(lambda: (r := room.seat_of("film", late)) and r["state"] == "complete", "it goes on and ends", teacher)
    assert room.has(late, "film.bin", film)
    sent = room.report("film")[late.id]["sent"]
    assert sent < 17 * MB, f"{sent} bytes were sent of 15 MB: what was received is kept while it rests"
    received = room.next("received", device=often)
    fired = room.log().count("the schedule has fired; the content is the same")
    assert fired and received["transfer"] == begun["transfer"], "a round goes on when the next begins"
    os.remove(os.path.join(often.destination, "bell.bin"))
    room.next("received", device=often)
    assert room.has(often, "bell.bin", bell), os.listdir(often.destination)
    print(f"hours ended at {rests['bytes'] / MB:.1f} of 15 MB and began again, {sent / MB:.1f} MB were sent; "
          "a schedule that always sends got through, and brought again what was removed", flush=True)


def the_file(lab, folder):
    """The config file, changed again and again under a service."""
    room = Room(lab, folder, 3)
    first, second, third = room.seats
    size = 20 * MB
    old, new, big = (write_file(os.path.join(folder, f"{name}.bin"), n, name) for name, n in (("old", 9000), ("new", 8000), ("big", size)))
    room.teacher.write_config(group(first), broadcast("film", old))
    for device in (first, second, room.teacher):
        room.start(device)
    teacher = room.running["teacher"]
    room.next("received", device=first)

    # A new one, put before the one that is there, and a new device.
    said = room.reload(group(first, second, third), broadcast("paper", new), broadcast("film", old))
    keys = [c["key"] for c in said["changes"]]
    assert 'broadcast["paper"].path' in keys and not any("film" in key for key in keys), keys
    until(lambda: room.has(first, "new.bin", new), "the new one", teacher)
    until(lambda: room.has(second, "new.bin", new) and room.has(second, "old.bin", old), "the new device gets both", teacher)

    # Another path, slowly: with the hours the transfer rests, without them and faster it ends soon.
    closed = (datetime.date.today() + datetime.timedelta(days=3)).strftime("%a")
    people, paper, slow = group(first, second, third), broadcast("paper", new), 'rate = "300kB/s"'
    room.reload(people, paper, broadcast("film", big, slow))
    until(lambda: all((r := room.seat_of("film", s)) and r["bytes"] > 200_000 for s in (first, second)), "both are under way", teacher)
    room.reload(people, paper, broadcast("film", big, slow, f'hours = "{closed}"'))
    for seat in (first, second):
        until(lambda: (r := room.seat_of("film", seat)) and r["state"] == "paused", "it rests", teacher)
    teacher.kill()  # and the power goes meanwhile
    teacher = room.start(room.teacher)

    # One is taken out while others wait.
    said = room.reload(group(first), paper, broadcast("film", big, slow))
    assert [c["key"] for c in said["changes"]] == ['group["class"].members', 'broadcast["film"].hours'], said
    for seat in (second, third):
        until(lambda: (r := room.seat_of("film", seat)) and r["state"] == "cancelled", "it is not for it any more", teacher)
    until(lambda: not room.peer(second)["connected"], "its link ends", teacher)
    begin = time.monotonic()
    room.reload(group(first), paper, broadcast("film", big, 'rate = "100MB/s"'))
    until(lambda: (r := room.seat_of("film", first)) and r["state"] == "complete", "it is fast now", teacher, 30)
    took = time.monotonic() - begin
    assert room.has(first, "big.bin", big) and not room.has(second, "big.bin", big)
    sent = room.report("film")[first.id]["sent"]
    assert sent < size + 2 * MB, f"{sent} bytes were sent of {size}: what was received before is kept"
    assert list(room.report("film", 0)) == [first.id], "whoever was taken out misses nothing"

    # Mistakes: the old settings hold. A port needs a restart.
    said = room.reload(group(first), broadcast("paper", new, 'at_most = "many"'), broadcast("film", old, 'hour = "Mon"'))
    text = open(room.teacher.config_file).read().split("\n")
    lines = [text[m["line"] - 1] for m in said["mistakes"]]
    assert lines == ['at_most = "many"', 'hour = "Mon"'], said
    warned = [line for line in room.log().splitlines() if "the settings are wrong" in line]
    assert len(warned) == 1 and "at_most" in warned[0] and "hour" in warned[0], warned
    write_file(big + ".new", MB, "another")
    os.replace(big + ".new", big)
    until(lambda: room.has(first, "big.bin", big), "the settings from before still hold", teacher)
    room.teacher.config["signaling"]["port"] = PORT + 99
    said = room.reload(group(first, second), paper)
    assert [c["key"] for c in said["changes"] if c["restart"]] == ["signaling.port"], said
    assert room.plan("film") is None, "it was taken out"
    until(lambda: room.peer(second)["authorized"], "it is let in again", teacher)
    print(f"reloads: a new broadcast and a new device, other paths, hours and speeds, a device less; {took:.1f} s once it might be fast", flush=True)


def the_content(lab, folder):
    """Files that change while they are sent, watched and not: what arrives is one version."""
    room = Room(lab, folder, 2)
    watched, other = room.seats
    trees = [os.path.join(folder, name) for name in ("watched", "other")]

    def fill(tree, names, seed):
        for name, size in (("a.bin", 2 * MB), ("b.bin", 40 * MB), ("c.bin", 4 * MB)):
            if name in names:
                # As most programs write: a new file in the place of the old one.
                os.replace(write_file(tree + ".new", size, f"{seed} {name}"), os.path.join(tree, name))

    for tree in trees:
        os.makedirs(tree)
        fill(tree, ["a.bin", "b.bin", "c.bin"], 1)
    versions = [[digest(tree)] for tree in trees]
    room.teacher.write_config(
        group(watched, name="watched"), group(other, name="other"),
        broadcast("watched", trees[0], 'rate = "8MB/s"', to="watched"),
        broadcast("other", trees[1], 'rate = "8MB/s"', "watch = false", to="other"))
    for device in (*room.seats, room.teacher):
        room.start(device)
    teacher = room.running["teacher"]
    for seat, name in ((watched, "watched"), (other, "other")):
        until(lambda: (r := room.seat_of(name, seat)) and r["bytes"] > 3 * MB, "it is under way", teacher)
    # The first has been sent, the last one not even read.
    for tree, known in zip(trees, versions):
        fill(tree, ["a.bin", "c.bin"], 2)
        known.append(digest(tree))
    for seat, tree, known in zip(room.seats, trees, versions):
        name = os.path.basename(tree)
        room.next("received", device=seat)
        arrived = digest(os.path.join(seat.destination, name))
        assert arrived in known, f"{name}: what arrived is a mix of both versions"
        assert arrived == known[1], f"{name}: what arrived is the version before"
        until(lambda: (r := room.seat_of(name, seat)) and r["state"] == "complete", "the sender knows it", teacher)
    begun = [line for line in room.log().splitlines() if "a version begins" in line]
    assert len(begun) == 4, begun
    changed = [e["state"] for e in teacher.events if e.get("event") == "transfer" and e["state"].get("code") == "changed"]
    assert changed and "changed while it was being sent" in changed[0]["reason"], "the sender says which file changed"
    assert "changed while it was being sent" in room.log(), "and its log, too"
    print("files that were replaced while they were sent: one version arrives, watched or not", flush=True)


def main():
    scenes = {"clock": the_clock, "file": the_file, "content": the_content}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", choices=[*scenes, []], help="only these")
    args = parser.parse_args()
    for name in args.scenes or scenes:
        with scratch() as folder, Loopback(logs=folder) as lab:
            scenes[name](lab, folder)


if __name__ == "__main__":
    script(main)
