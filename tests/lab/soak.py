#!/usr/bin/env python3
"""A day squeezed into minutes: a sender whose file changes every second, receivers that are killed
and come back. Samples memory, descriptors, threads and disk of every process, prints them at the
beginning, in the middle and at the end with their slope, and fails when one goes on growing.

No part of the usual run: it takes as long as it is told to."""
import argparse
import contextlib
import os
import random
import signal
import statistics
import time

from handout import Device, everyone_trusts_everyone, script, scratch, write_file
from lab import Loopback

PORT = 47860
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
    def __init__(self, lab, folder, receivers, seed):
        self.numbers, self.folder = random.Random(seed), folder
        self.lesson = os.path.join(folder, "lesson")
        os.makedirs(self.lesson)
        self.sent = self.delivered = self.kills = 0
        devices = []
        for n in range(receivers + 1):
            devices.append(Device(lab, 0, folder, "sender" if n == 0 else f"r{n}",
                                  discovery={"interfaces": [], "loopback_only": True, "enabled": False},
                                  network={"loopback": True, "ice_failed": "5s"}, signaling={"port": PORT + n, "bind": "127.0.0.1"},
                                  receive={"reserve": 0, "collision": "overwrite"},
                                  transfer={"retention": 200}))
        everyone_trusts_everyone(devices)
        sender = devices[0]
        sender.config["discovery"]["static_peers"] = [f"{d.id}@127.0.0.1:{PORT + n}" for n, d in enumerate(devices) if n]
        sender.write_config()
        self.lab, self.devices = lab, devices
        self.services = [Service(d, ["receive"]) for d in devices]
        for service in self.services:
            service.start()

    def change(self):
        """One of five files of the folder gets other bytes, 10 to 400 KiB."""
        name = os.path.join(self.lesson, f"part-{self.sent % 5}.bin")
        write_file(name + ".new", self.numbers.randrange(10 * KIB, 400 * KIB), self.numbers.random())
        os.replace(name + ".new", name)

    def send(self):
        """Sends the folder through the running service."""
        self.sent += 1
        to = [part for d in self.devices[1:] for part in ("--to", d.id)]
        return self.devices[0].start("send", self.lesson, *to, "--wait", "5s", "--json")

    def run(self, seconds, sampled):
        begin, sending = time.monotonic(), []
        next_sample = next_change = begin
        next_kill = begin + 7
        while (now := time.monotonic()) < begin + seconds:
            if now >= next_change:
                next_change = now + 1
                self.change()
                # What goes on longer than a second is a queue of its own; a person has no more
                # than a few open either.
                if len(sending) < 4:
                    sending.append((now, self.send()))
            for started, process in list(sending):
                if process.ended or now - started > 60:
                    if process.ended is None:
                        process.kill()
                        print(f"a send did not end within 60 s: {''.join(process.text[-3:])}")
                    done = process.find("summary")
                    states = [r["state"] for r in done["receivers"]] if done else []
                    self.delivered += states.count("complete")
                    sending.remove((started, process))
                    self.lab.processes.remove(process)
                    with contextlib.suppress(FileNotFoundError):  # another one's, of the same number
                        os.unlink(process.errors)
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
                    service.sample(now - begin)
            time.sleep(0.05)
        for _, process in sending:
            process.kill()


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
        dead = [s.device.name for s in day.services if s.process and s.process.ended]
        assert not dead, f"ended by themselves: {dead}"
        print(f"{args.minutes:g} minutes, {day.sent} broadcasts, {day.delivered} deliveries, {day.kills} kills")
        print(f"{'':10} {'':12} {'begin':>9} {'middle':>9} {'end':>9} {'most':>9} {'slope':>12}")
        grows = [what for service in day.services for what in verdicts(service)]
        for service in day.services[:2]:
            print(f"{service.device.name}'s state folder: {parts(os.path.join(service.device.folder, 'state'))}")
        assert day.delivered > 0, "nothing was delivered"
    assert not grows, f"these grow: {', '.join(grows)}"


if __name__ == "__main__":
    script(main)
