#!/usr/bin/env python3
"""One slow receiver costs the others nothing: of four receivers one has a tenth of the others' rate.

Prints the time of the other three with it over their time without it; --check holds that to 1.10."""
import argparse
import os
import time

from handout import Device, everyone_trusts_everyone, same, script, scratch, summary, write_file
from lab import Lab

LIMIT = 1.10


def run(args, with_slow):
    """Seconds from the command until each of the three quick receivers has ended."""
    with scratch() as folder, Lab(5 if with_slow else 4, logs=folder) as lab:
        lab.rate(0, args.rate * 10)  # the sender's uplink is not what is measured
        for host in range(1, 4):
            lab.rate(host, args.rate)
        if with_slow:
            lab.rate(4, args.rate // 10)
        file = write_file(os.path.join(folder, "lesson.bin"), args.size << 20, "slow")
        sender, *receivers = devices = [Device(lab, host, folder) for host in range(lab.hosts)]
        everyone_trusts_everyone(devices)
        running = [device.receive("--once") for device in receivers]
        begin = time.monotonic()
        result = summary(sender.send(file, to=receivers))
        assert all(r["state"] == "complete" for r in result.values()) and len(result) == len(receivers), result
        for process, device in zip(running, receivers):
            process.end(60)
            same(file, device)
        return [process.ended - begin for process in running]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=48, metavar="MIB")
    parser.add_argument("--rate", type=int, default=100, metavar="MBIT", help="of each quick receiver's link (%(default)s)")
    parser.add_argument("--check", action="store_true", help=f"fail when the ratio is over {LIMIT}")
    args = parser.parse_args()
    without = run(args, False)
    *quick, slow = run(args, True)
    ratio = max(quick) / max(without)
    shown = lambda times: ", ".join(f"{t:.1f}" for t in times)
    print(f"three alone: {shown(without)} s; beside a slow one: {shown(quick)} s; the slow one: {slow:.1f} s; ratio {ratio:.2f}")
    assert not args.check or ratio <= LIMIT, f"the slow receiver cost the others {ratio - 1:.0%}, more than {LIMIT - 1:.0%}"


if __name__ == "__main__":
    script(main)
