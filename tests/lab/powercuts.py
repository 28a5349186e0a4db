#!/usr/bin/env python3
"""Power cuts: a sender whose config file watches a folder, and two receivers, all of which start by
themselves. Again and again everything, or a part of it, is killed at a random moment while the
folder changes and devices are authorized and revoked; in every third round a file of a state folder
is cut short or has bits flipped before the next start.

After each start the device has the same id and exactly the authorizations that were acknowledged,
and what a receiver has under its final name is a version that the folder once was, whole. In the
end all have the last one."""
import argparse
import json
import os
import random
import time

from handout import Device, digest, script, scratch, write_file, write_tree
from lab import Lab

START = 60  # seconds that a start may take


class Service:
    """`handout run` on a host, started as often as it takes, and what it must remember."""

    def __init__(self, device, more):
        self.device, self.process = device, None
        device.write_config(more)
        self.state = os.path.join(device.folder, "state")
        self.authorized, self.revoked = set(), set()

    def start(self):
        self.process = self.device.start("run", "--json")
        listening = self.process.until("listening", START)
        assert listening["device_id"] == self.device.id, f"{self.device.name} is another device: {listening}"

    def kill(self):
        self.process.kill()
        self.process.end(10, expect=None)

    def decide(self, numbers):
        """Authorizes a device, or revokes one of those, and notes it once that is acknowledged."""
        if self.authorized and numbers.random() < 0.3:
            who = numbers.choice(sorted(self.authorized))
            verb, goal, other = "revoke", self.revoked, self.authorized
        else:
            who = "".join(numbers.choices("abcdefghijklmnopqrstuvwxyz234567", k=31)) + "a"
            verb, goal, other = "authorize", self.authorized, self.revoked
        process = self.device.start(verb, who, "--json")
        process.end(60)
        goal.add(who)
        other.discard(who)

    def check(self, companions):
        process = self.device.start("peers", "--json", "--wait", "0s")
        process.end(60)
        found = {e["device_id"] for e in process.events if e.get("event") == "peer" and e["authorized"]}
        wanted = self.authorized | companions
        assert found == wanted, (f"{self.device.name}: lost {sorted(wanted - found)}, "
                                 f"not acknowledged {sorted(found - wanted)}")


def damage(state, numbers):
    """Damages one file of a state folder, or two of which none is the other's copy. Says what it did."""
    files = [os.path.join(folder, name) for folder, _, names in os.walk(state) for name in names]
    files = sorted(f for f in files if os.path.isfile(f) and os.path.getsize(f) and ".damaged" not in f)
    first = numbers.choice(files)
    others = [f for f in files if f.removesuffix(".copy") != first.removesuffix(".copy")]
    hurt = [first] if numbers.random() < 0.5 or not others else [first, numbers.choice(others)]
    return " and ".join(spoil(path, state, numbers) for path in hurt)


def spoil(path, state, numbers):
    """Cuts a file short, or flips some of its bits. Says what it did."""
    size, about = os.path.getsize(path), os.path.relpath(path, state)
    if numbers.random() < 0.5:
        length = numbers.randrange(size)
        os.truncate(path, length)
        return f"{about} cut from {size} to {length} bytes"
    flips = numbers.randrange(1, 20)
    with open(path, "r+b") as file:
        for _ in range(flips):
            at = numbers.randrange(size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << numbers.randrange(8)]))
    return f"{flips} bits of {about} ({size} bytes) flipped"


def change(folder, number, numbers):
    """A new version of the watched folder."""
    write_file(os.path.join(folder, "changing.txt"), numbers.randrange(1, 50_000), f"version {number}")
    if number % 4 == 0:
        write_file(os.path.join(folder, "large.bin"), 24 << 20, f"large {number}")


def look(services, versions):
    """What the receivers show is whole. Gives the versions that they have."""
    shown = []
    for service in services:
        path = os.path.join(service.device.destination, "lesson")
        for name in os.listdir(service.device.destination):
            assert name in ("lesson", ".handout"), f"{service.device.name} has {name}"
        got = digest(path) if os.path.exists(path) else None
        if got is not None:
            known = [n for n, version in enumerate(versions) if version == got]
            assert known, f"{service.device.name} has a folder that never was"
            shown.append(known[-1])
        else:
            shown.append(None)
    return shown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=int, default=100, metavar="MBIT", help="of each link (%(default)s)")
    args = parser.parse_args()
    numbers = random.Random(args.seed)
    with scratch() as folder, Lab(3, rate=args.rate, logs=folder) as lab:
        lesson = write_tree(os.path.join(folder, "lesson"), 60, "powercuts")
        sender, *receivers = devices = [Device(lab, host, folder) for host in range(3)]
        for receiver in receivers:
            receiver.trust(sender)
        members = json.dumps([r.id for r in receivers])
        plan = f'[[group]]\nname = "room"\nmembers = {members}\n\n[[broadcast]]\nname = "lesson"\n' \
               f'path = "{lesson}"\nto = ["room"]\nwatch = true\nsettle = "300ms"\nrescan = "5s"\n'
        services = [Service(sender, plan)] + [Service(receiver, "") for receiver in receivers]
        companions = [{r.id for r in receivers}] + [{sender.id}] * 2
        versions, damages, begin = [], 0, time.monotonic()
        for service in services:
            service.start()
        for number in range(1, args.rounds + 1):
            change(lesson, number, numbers)
            versions.append(digest(lesson))
            for service in services:
                service.decide(numbers)
            time.sleep(numbers.uniform(0, 4))  # the moment is the test's point
            victims = [s for s in services if numbers.random() < 0.6] or services
            for service in victims:
                service.kill()
            did = ""
            if number % 3 == 0:
                damages += 1
                hurt = numbers.choice(victims)
                did = f"; {hurt.device.name}: {damage(hurt.state, numbers)}"
            names = ", ".join(s.device.name for s in victims)
            print(f"round {number}: killed {names}{did}; versions {look(services[1:], versions)} of {number - 1}", flush=True)
            for service in victims:
                service.start()
            for service, known in zip(services, companions):
                service.check(known)
        deadline = time.monotonic() + 180
        while set(shown := look(services[1:], versions)) != {len(versions) - 1}:
            assert time.monotonic() < deadline, f"the receivers have the versions {shown} of {len(versions) - 1}"
            time.sleep(0.5)
        kept = sum(len(s.authorized) for s in services)
        print(f"{args.rounds} power cuts, {damages} of them with damage to a state folder: every start by itself, "
              f"{kept} acknowledged authorizations kept and none that was not, all have the last version, "
              f"{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    script(main)
