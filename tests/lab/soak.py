#!/usr/bin/env python3
"""A day squeezed into minutes: a sender whose file changes every second, receivers that are killed
and come back. Samples memory, descriptors, threads and disk of every process, prints them at the
beginning, in the middle and at the end with their slope, and fails when one goes on growing.

No part of the usual run: it takes as long as it is told to."""
import argparse
import json
import os
import random
import signal
import statistics
import time

from handout import Device, digest, everyone_trusts_everyone, script, scratch, write_file
from lab import Loopback

PORT = 31860  # below those that the system gives to outgoing connections
KIB, MIB = 1 << 10, 1 << 20
# What may be added from the second to the last third of the run, whatever the slope: caches that
# fill, a broadcast under way, the allocator's arenas.
ROOM = {"memory": 12 * MIB, "descriptors": 24, "threads": 8, "state": 6 * MIB, "destination": 24 * MIB}
SHOWN = {"memory": MIB, "descriptors": 1, "threads": 1, "state": MIB, "destination": MIB}


def disk(folder):
    """Bytes on disk below a folder, and how many files they are."""
    used = files = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                used += os.lstat(os.path.join(where, name)).st_blocks * 512
                files += 1
            except FileNotFoundError:
                pass
    return used, files


def parts(folder):
    """What is in a state folder: each entry with its bytes and files."""
    found = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        used, files = disk(path) if os.path.isdir(path) else (os.lstat(path).st_blocks * 512, 1)
        found.append(f"{name} {used / MIB:.2f} MiB in {files}")
    return ", ".join(found)


class Service:
    """One device's service, that can be killed and started again. Samples count from each start."""

    def __init__(self, device, verb):
        self.device, self.verb, self.process, self.samples, self.starts = device, verb, None, [], 0

    def start(self):
        # Events are not read: thousands of them would be the script's leak.
        self.process = self.device.lab.run(0, self.device._command(self.verb), f"{self.device.name}-service")
        self.starts += 1

    def kill(self):
        self.process.kill(signal.SIGKILL)
        self.device.lab.processes.remove(self.process)
        self.process = None

    def sample(self, at):
        if self.process is None or self.process.ended:
            return
        base = f"/proc/{self.process.pid}"
        try:
            with open(f"{base}/status") as status:
                lines = dict(line.split(":", 1) for line in status)
            row = {"at": at, "memory": int(lines["VmRSS"].split()[0]) * KIB, "threads": int(lines["Threads"]),
                   "descriptors": len(os.listdir(f"{base}/fd"))}
        except (FileNotFoundError, ProcessLookupError, KeyError):
            return
        row["state"], _ = disk(os.path.join(self.device.folder, "state"))
        row["destination"], _ = disk(self.device.destination)
        self.samples.append(row)


def slope(samples, what):
    """Least squares, per hour."""
    xs, ys = [s["at"] for s in samples], [s[what] for s in samples]
    if len(xs) < 3 or max(xs) == min(xs):
        return 0.0
    return statistics.linear_regression(xs, ys).slope * 3600


def verdicts(service):
    """A line for each thing that is counted; which of them grow."""
    # The first sixth is warming up.
    samples = service.samples[len(service.samples) // 6:]
    grows = []
    third = max(1, len(samples) // 3)
    for what, unit in SHOWN.items():
        begin, middle, end = (statistics.median(s[what] for s in part) for part in (samples[:third], samples[third:2 * third], samples[2 * third:]))
        most = max(s[what] for s in samples)
        # Growing is to have more at the end than in the middle, and in the middle than in the
        # beginning: a plateau is none.
        flat = end - middle <= max(ROOM[what] / 4, 0.05 * middle) or end - begin <= ROOM[what]
        if not flat:
            grows.append(f"{service.device.name}: {what}")
        print(f"{service.device.name:10} {what:12} {begin / unit:9.1f} {middle / unit:9.1f} {end / unit:9.1f} {most / unit:9.1f} {slope(samples, what) / unit:+10.1f}/h  {'flat' if flat else 'GROWS'}")
    return grows


class Day:
    """A teacher whose config file hands out a watched folder, and receivers that come and go."""

    def __init__(self, lab, folder, receivers, seed):
        self.numbers, self.folder = random.Random(seed), folder
        self.lesson = os.path.join(folder, "lesson")
        os.makedirs(self.lesson)
        self.changes = self.kills = 0
        devices = []
        for n in range(receivers + 1):
            devices.append(Device(lab, 0, folder, "sender" if n == 0 else f"r{n}",
                                  discovery={"interfaces": [], "loopback_only": True, "enabled": False},
                                  network={"loopback": True, "ice_failed": "5s"}, signaling={"port": PORT + n, "bind": "127.0.0.1"},
                                  receive={"reserve": 0}, transfer={"retention": 200, "unfinished": 3}))
        everyone_trusts_everyone(devices)
        sender = devices[0]
        sender.config["discovery"]["static_peers"] = [f"{d.id}@127.0.0.1:{PORT + n}" for n, d in enumerate(devices) if n]
        sender.config["[broadcast]"] = {"name": "lesson", "path": self.lesson, "to": ["all"], "settle": "200ms", "settle_max": "1s", "rescan": "5s"}
        sender.write_config()
        self.devices = devices
        for _ in range(5):
            self.change()
        self.services = [Service(d, ["run"]) for d in devices]
        for service in self.services:
            service.start()

    def change(self):
        """One of five files of the folder gets other bytes, 10 to 400 KiB."""
        name = os.path.join(self.lesson, f"part-{self.changes % 5}.bin")
        write_file(name + ".new", self.numbers.randrange(10 * KIB, 400 * KIB), self.numbers.random())
        os.replace(name + ".new", name)
        self.changes += 1

    def run(self, seconds, sampled):
        begin = time.monotonic()
        next_sample = next_change = begin
        next_kill = begin + 7
        while (now := time.monotonic()) < begin + seconds:
            if now >= next_change:
                next_change = now + 1
                self.change()
            if now >= next_kill:
                next_kill = now + 5
                service = self.numbers.choice(self.services[1:])
                if service.process is None:
                    service.start()
                else:
                    service.kill()
                    self.kills += 1
            if now >= next_sample:
                next_sample = now + sampled
                for service in self.services:
                    if service.process and service.process.ended is not None:
                        service.process.fail("ended by itself")
                    service.sample(now - begin)
            time.sleep(0.05)

    def has_it(self, device):
        try:
            return digest(os.path.join(device.destination, "lesson")) == digest(self.lesson)
        except OSError:  # it is just being put in its place
            return False

    def evening(self):
        """Nothing changes any more, all are there: all have what is in the folder. Seconds until then."""
        begin = time.monotonic()
        for service in self.services:
            if service.process is None:
                service.start()
        while lacking := [d.name for d in self.devices[1:] if not self.has_it(d)]:
            assert time.monotonic() < begin + 60, f"a minute after the last change these do not have it: {lacking}"
            time.sleep(0.2)
        return time.monotonic() - begin

    def delivered(self):
        """Versions that arrived, and how many there were, by the sender's audit log."""
        arrived, versions = 0, set()
        state = os.path.join(self.devices[0].folder, "state")
        for name in os.listdir(state):
            if name.startswith("audit"):
                with open(os.path.join(state, name)) as log:
                    for line in map(json.loads, log):
                        if line["what"] == "transfer" and line["ended"] == "complete":
                            arrived += 1
                            versions.add(line["series"]["version"])
        return arrived, len(versions)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=30)
    parser.add_argument("--receivers", type=int, default=6)
    parser.add_argument("--every", type=float, default=3, metavar="SECONDS", help="between samples (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with scratch() as folder, Loopback(logs=folder) as lab:
        day = Day(lab, folder, args.receivers, args.seed)
        day.run(args.minutes * 60, args.every)
        seconds = day.evening()
        arrived, versions = day.delivered()
        print(f"{args.minutes:g} minutes, {day.changes} changes, {versions} versions that arrived {arrived} times, {day.kills} kills; "
              f"{seconds:.1f} s after the last change all had it")
        print(f"{'':10} {'':12} {'begin':>9} {'middle':>9} {'end':>9} {'most':>9} {'slope':>12}")
        grows = [what for service in day.services for what in verdicts(service)]
        for service in day.services[:2]:
            print(f"{service.device.name}'s state folder: {parts(os.path.join(service.device.folder, 'state'))}")
        left = [os.path.join(s.device.destination, ".handout") for s in day.services[1:]]
        left = [len(os.listdir(folder)) if os.path.isdir(folder) else 0 for folder in left]
        print(f"bundles that lie unfinished at the receivers: {left}")
        assert arrived > day.changes / 4, "hardly anything was delivered"
    assert not grows, f"these grow: {', '.join(grows)}"


if __name__ == "__main__":
    script(main)
