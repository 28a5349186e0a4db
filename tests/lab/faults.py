#!/usr/bin/env python3
"""What goes wrong around a machine that nobody sits at, and rights itself: its clock is 10 years
ahead after a start, and then 10 years behind; the disk that it receives on, and the one with its
state, fill up and are freed; its network interface goes away and comes back with another address.
Each time everything that was handed out arrives in the end, without help, and the log has a line
that says what happened."""
import argparse
import glob
import json
import os
import re
import subprocess
import time

from handout import Device, digest, script, scratch, write_file, write_tree
from lab import Lab, sh

RECEIVERS = 2


class Room:
    """A sender that watches a folder, and receivers, each as `run`."""

    def __init__(self, lab, folder, **more):
        self.lab = lab
        self.lesson = write_tree(os.path.join(folder, "lesson"), 20, "faults")
        self.sender, *self.receivers = [Device(lab, host, folder, **more) for host in range(RECEIVERS + 1)]
        for receiver in self.receivers:
            receiver.trust(self.sender)
        members = json.dumps([r.id for r in self.receivers])
        self.sender.write_config(f'[[group]]\nname = "room"\nmembers = {members}\n\n[[broadcast]]\nname = "lesson"\n'
                                 f'path = "{self.lesson}"\nto = ["room"]\nwatch = true\nsettle = "300ms"\nrescan = "5s"')
        self.changes, self.running = 0, {}

    def start(self, device, faked=None):
        """Starts a device; `faked` moves its clock, and only that: time passes as it does."""
        command = device._command(["run", "--json"])
        if faked:
            library = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
            assert library, "libfaketime is missing: apt-get install libfaketime"
            command = ["env", f"LD_PRELOAD={library[0]}", f"FAKETIME={faked}", "FAKETIME_DONT_FAKE_MONOTONIC=1",
                       "DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1", *command]
        process = self.lab.run(device.host, command, f"{device.name}-run")
        process.until("listening", 60)
        self.running[device.name] = process
        return process

    def start_all(self, faked=None):
        for device in [self.sender, *self.receivers]:
            self.start(device, faked)

    def kill_all(self):
        for process in self.running.values():
            process.kill()

    def change(self, size=20_000):
        self.changes += 1
        write_file(os.path.join(self.lesson, "changing.bin"), size, f"change {self.changes}")

    def everybody_has_it(self, what, receivers=None, timeout=120):
        wanted, begin = digest(self.lesson), time.monotonic()
        for receiver in receivers or self.receivers:
            while self.has(receiver) != wanted:
                if time.monotonic() > begin + timeout:
                    self.running[receiver.name].fail(f"does not have it within {timeout} s: {what}")
                time.sleep(0.2)
        return time.monotonic() - begin

    def has(self, receiver):
        try:
            return digest(os.path.join(receiver.destination, "lesson"))
        except OSError:
            return None

    def log_says(self, device, pattern, timeout=30):
        """The line of a device's log that says so."""
        path, end = self.running[device.name].errors, time.monotonic() + timeout
        while True:
            with open(path, errors="replace") as file:
                found = [line.strip() for line in file if re.search(pattern, line)]
            if found:
                return re.sub(r"\x1b\[[0-9;]*m", "", found[0])[:200]
            if time.monotonic() > end:
                self.running[device.name].fail(f"has no line like {pattern!r} in its log")
            time.sleep(0.2)


def clock(lab, folder):
    """All clocks are moved, then that of one device alone, and back."""
    room = Room(lab, folder)
    room.start_all()
    room.everybody_has_it("at first")
    for faked, says in (("+10y", "ahead"), ("-10y", "back")):
        room.kill_all()
        room.change()
        room.start_all(faked)
        took = room.everybody_has_it(f"all clocks {faked}")
        print(f"clock {faked} for all: {took:.1f} s; {room.log_says(room.sender, 'clock')}", flush=True)
    room.kill_all()
    room.start_all()
    room.change()
    took = room.everybody_has_it("all clocks right again")
    print(f"clock right again: {took:.1f} s", flush=True)
    # One clock alone: others do not believe its messages while it is wrong, and do when it is right.
    alone = room.receivers[0]
    room.running[alone.name].kill()
    room.start(alone, "+10y")
    room.change()
    room.everybody_has_it("the others, while one clock is wrong", room.receivers[1:])
    time.sleep(3)
    room.running[alone.name].kill()
    room.start(alone)
    took = room.everybody_has_it("the one clock right again")
    print(f"one clock +10y and right again: {took:.1f} s after it was", flush=True)


def disk(lab, folder):
    """The receiver's disk, then the sender's disk with the state, fill up and are freed."""
    room = Room(lab, folder, receive={"destination": os.path.join(folder, "small", "received"), "reserve": "1MiB"},
                transfer={"disk_retry": "1s"})
    # Only the first receiver's destination is on the small disk.
    small, state = room.receivers[0], os.path.join(room.sender.folder, "state")
    for device in room.receivers[1:] + [room.sender]:
        device_destination = os.path.join(device.folder, "received")
        with open(device.config_file) as file:
            text = file.read()
        with open(device.config_file, "w") as file:
            file.write(text.replace(os.path.join(folder, "small", "received"), device_destination))
    mounted = os.path.join(folder, "small")
    os.makedirs(mounted)
    sh("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", mounted)
    try:
        small.destination = os.path.join(mounted, "received")
        os.makedirs(small.destination)
        filler = os.path.join(mounted, "filler")
        write_file(filler, 40 << 20, "filler")
        room.start_all()
        room.everybody_has_it("while there is room")
        room.change(40 << 20)
        room.everybody_has_it("those with room", room.receivers[1:])
        said = room.log_says(small, "(?i)space|room|full|disk")
        assert room.has(small) != digest(room.lesson)
        os.unlink(filler)
        took = room.everybody_has_it("the disk was freed")
        print(f"a receiver's disk was full and freed: {took:.1f} s after that it had it; {said}", flush=True)
        room.kill_all()
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)
    aside = state + ".aside"
    os.rename(state, aside)
    os.makedirs(state, mode=0o700)
    sh("mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", state)
    try:
        sh("cp", "-a", aside + "/.", state)
        # The first receiver's disk is gone, and with it what it had confirmed.
        room.receivers.remove(small)
        room.start_all()
        room.everybody_has_it("before the state's disk fills")
        filler = os.path.join(state, "filler")
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        # What the database has set aside for itself serves for a while.
        said = None
        while said is None:
            room.change()
            try:
                said = room.log_says(room.sender, "No space left|cannot be written", timeout=3)
            except AssertionError:
                assert room.changes < 40, "the state's disk is full, and nothing is said of it"
        os.unlink(filler)
        room.change()
        took = room.everybody_has_it("the state's disk was freed")
        alive = room.running[room.sender.name].ended is None
        print(f"the disk with the sender's state was full and freed: {took:.1f} s; "
              f"{'the process went on' if alive else 'the process ended'}; {said}", flush=True)
        assert alive, "the process went on"
        room.kill_all()
    finally:
        subprocess.run(["umount", "-l", state], check=True)


def interface(lab, folder):
    """The sender's interface, then a receiver's, goes away and comes back with another address."""
    room = Room(lab, folder, log={"level": "info"})
    room.start_all()
    room.everybody_has_it("at first")
    for device, address in ((room.sender, "10.77.0.210"), (room.receivers[0], "10.77.0.211")):
        name = lab.namespace(device.host)
        sh("ip", "-n", name, "link", "set", "eth0", "down")
        sh("ip", "-n", name, "addr", "flush", "dev", "eth0")
        room.change()
        time.sleep(15)  # long enough for links to be given up
        sh("ip", "-n", name, "addr", "add", f"{address}/24", "brd", "+", "dev", "eth0")
        sh("ip", "-n", name, "link", "set", "eth0", "up")
        took = room.everybody_has_it(f"{device.name} has another address")
        said = room.log_says(device, "addresses of this machine have changed|no network address")
        print(f"{device.name}'s interface was away for 15 s and came back as {address}: {took:.1f} s after that; {said}", flush=True)


def blackhole(lab, folder):
    """Only small packets reach a receiver any more: its connection stands, and nothing arrives."""
    room = Room(lab, folder, log={"level": "info"}, network={"stall_timeout": "3s"})
    room.start_all()
    room.everybody_has_it("at first")
    cut, *others = room.receivers
    nft = ["ip", "netns", "exec", lab.namespace(cut.host), "nft"]
    sh(*nft, "add table inet hole")
    sh(*nft, "add chain inet hole in { type filter hook input priority 0 ; }")
    sh(*nft, "add rule inet hole in meta l4proto udp meta length > 600 drop")
    # Less than a window: the sender has said it all, and waits.
    room.change(20_000)
    room.everybody_has_it("the others", others)
    said = room.log_says(room.sender, "has taken nothing for 3 s")
    sh(*nft, "delete table inet hole")
    took = room.everybody_has_it("large packets pass again")
    print(f"only small packets reached {cut.name}: {took:.1f} s after that all have it; {said}", flush=True)


def main():
    scenes = {"clock": clock, "disk": disk, "interface": interface, "blackhole": blackhole}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", choices=[*scenes, []], help="only these")
    args = parser.parse_args()
    for name in args.scenes or scenes:
        with scratch() as folder, Lab(RECEIVERS + 1, logs=folder) as lab:
            scenes[name](lab, folder)


if __name__ == "__main__":
    script(main)
