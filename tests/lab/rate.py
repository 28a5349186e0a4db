#!/usr/bin/env python3
"""Limits as they come out: how fast a file goes from a sender to receivers on this machine, over
loopback, with each kind of limit; and that at most so many transfers send at a time.

What is too fast fails. What is too slow fails only beyond --slack, since a busy machine is slow."""
import argparse
import datetime
import os
import time

from handout import Device, everyone_trusts_everyone, same, script, scratch, summary, write_file
from lab import Loopback

MB = 1_000_000
PORT = 31830  # below those that the system gives to outgoing connections


class Room:
    """A sender and receivers that know each other's addresses, without mDNS."""

    def __init__(self, lab, folder, receivers, sender=None, receiver=None):
        self.devices = []
        for n in range(receivers + 1):
            own = (receiver if n else sender) or {}
            self.devices.append(Device(lab, 0, folder, f"d{n}", discovery={"interfaces": [], "loopback_only": True, "enabled": False},
                                       network={"loopback": True}, signaling={"port": PORT + n, "bind": "127.0.0.1"},
                                       receive={"reserve": 0}, **own))
        everyone_trusts_everyone(self.devices)
        self.sender, *self.receivers = self.devices
        self.sender.config["discovery"]["static_peers"] = [f"{d.id}@127.0.0.1:{PORT + n}" for n, d in enumerate(self.devices) if n]
        self.sender.write_config()
        self.running = [device.receive() for device in self.receivers]

    def send(self, path, *options):
        begin = time.monotonic()
        process = self.sender.start("send", path, *[part for d in self.receivers for part in ("--to", d.id)], "--wait", "60s", "--json", *options)
        result = summary(process, timeout=600)
        assert all(r["state"] == "complete" for r in result.values()), result
        for device in self.receivers:
            same(path, device)
        return process, result, time.monotonic() - begin


def measure(folder, name, receivers, rate, size, counted, slack, options=(), rules="", **own):
    """Sends, and holds the rate to the limit; `counted` says of how many receivers it is."""
    home = os.path.join(folder, name.replace(" ", "-"))
    os.makedirs(home)
    file = write_file(os.path.join(home, "lesson.bin"), size, name)
    with Loopback(logs=home) as lab:
        room = Room(lab, home, receivers, **own)
        room.sender.write_config(rules.replace("FIRST", room.receivers[0].id))
        process, result, _ = room.send(file, *options)
        active = [e["_at"] for e in process.events if e["event"] == "transfer" and e["state"]["is"] == "active"]
        done = [e["_at"] for e in process.events if e["event"] == "transfer" and e["state"]["is"] == "complete"]
        took = max(done) - min(active)
        got = sum(r["sent"] for r in result.values()) / took * counted / receivers
        lab.down()
    low = 1 - slack
    verdict = "ok" if low * rate <= got <= 1.1 * rate else "WRONG"
    print(f"{name:34} limit {rate / MB:6.1f} MB/s, came out {got / MB:6.2f} ({got / rate:4.0%}) over {took:5.1f} s  {verdict}", flush=True)
    return verdict == "ok"


def hours(now, later):
    """Rules: one for the first receiver that holds now, one that holds in three days."""
    day = (datetime.date.today() + datetime.timedelta(days=3)).strftime("%a")
    return (f'[[limits.at]]\nhours = "Mon-Sun"\nwho = ["FIRST"]\nrate = "{now}"\n'
            f'[[limits.at]]\nhours = "{day} 00:00-24:00"\nrate = "{later}"\n')


def places(folder):
    """Five receivers, at most two at a time: no third is ever active, and all get it in the end."""
    home = os.path.join(folder, "places")
    os.makedirs(home)
    file = write_file(os.path.join(home, "lesson.bin"), 4 * MB, "places")
    with Loopback(logs=home) as lab:
        room = Room(lab, home, 5, sender={"transfer": {"at_most": 2}, "limits": {"rate": "8MB/s"}})
        process, _, _ = room.send(file)
        lab.down()
    active, most, waited = set(), 0, set()
    for event in process.events:
        if event["event"] == "transfer":
            state = event["state"]["is"]
            (active.add if state in ("active", "offered") else active.discard)(event["transfer"])
            if "at most 2" in event.get("waits", ""):
                waited.add(event["transfer"])
            most = max(most, len(active))
    print(f"{'at most 2 of 5':34} {most} at a time, {len(waited)} waited and were told why")
    return most == 2 and len(waited) >= 3


def changed(folder, mb):
    """A service sends at a limit at which it would take minutes; the file of settings loses the limit, and gets it back."""
    home = os.path.join(folder, "changed")
    os.makedirs(home)
    file = write_file(os.path.join(home, "lesson.bin"), 20 * mb, "changed")
    with Loopback(logs=home) as lab:
        room = Room(lab, home, 1, sender={"limits": {"rate": "16kB/s"}})
        service = room.sender.start("run", "--json")
        service.until("listening", 30)
        process = room.sender.start("send", file, "--to", room.receivers[0].id, "--wait", "60s", "--json")
        process.until("progress", 60)
        room.sender.config["limits"]["rate"] = f"{4 * mb}B/s"
        room.sender.write_config()
        begin = time.monotonic()
        room.sender.ask("reload")
        assert summary(process, timeout=300)
        took = time.monotonic() - begin
        lab.down()
    print(f"{'a limit that is changed':34} {20 * mb / MB:.0f} MB at {4 * mb / MB:.1f} MB/s took {took:.1f} s after the change, and would have taken {20 * mb / 16_000:.0f} s without it")
    return 20 * mb / (4 * mb) * 0.9 <= took < 20 * mb / 16_000 / 3


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slack", type=float, default=0.1, help="how far below the limit it may stay (%(default)s)")
    parser.add_argument("--scale", type=float, default=1, help="all rates and sizes times this: a debug build cannot do 20 MB/s (%(default)s)")
    args = parser.parse_args()
    mb = round(MB * args.scale)
    rate = lambda n: f"{n * mb}B/s"
    limits = lambda **keys: {"limits": keys}
    with scratch() as folder:
        results = [
            measure(folder, "whole device", 1, 20 * mb, 60 * mb, 1, args.slack, sender=limits(rate=rate(20))),
            measure(folder, "whole device 3 receivers", 3, 20 * mb, 40 * mb, 3, args.slack, sender=limits(rate=rate(20))),
            measure(folder, "each of 3 devices", 3, 5 * mb, 20 * mb, 1, args.slack, sender=limits(rate_per_device=rate(5))),
            measure(folder, "one broadcast", 2, 8 * mb, 20 * mb, 2, args.slack, options=("--rate", rate(8))),
            measure(folder, "at these hours, for one device", 1, 4 * mb, 16 * mb, 1, args.slack, rules=hours(rate(4), rate(1))),
            measure(folder, "slow", 1, MB // 5, 2 * MB, 1, args.slack, sender=limits(rate="200kB/s")),
            measure(folder, "what a receiver takes", 1, 10 * mb, 40 * mb, 1, args.slack, receiver=limits(receive_rate=rate(10))),
            changed(folder, mb),
            places(folder),
        ]
    assert all(results), "not as it should be"


if __name__ == "__main__":
    script(main)
