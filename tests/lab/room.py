#!/usr/bin/env python3
"""A room without a router: a sender and four receivers find each other by mDNS, and a folder of 500
files with one file of 1 GiB in it arrives identical everywhere."""
import argparse
import os
import time

from handout import Device, everyone_trusts_everyone, same, script, scratch, summary, write_file, write_tree
from lab import Lab


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--receivers", type=int, default=4)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the one large file (%(default)s)")
    args = parser.parse_args()
    with scratch() as folder, Lab(args.receivers + 1, logs=folder) as lab:
        tree = write_tree(os.path.join(folder, "lesson"), args.files, "room")
        write_file(os.path.join(tree, "large.bin"), args.size << 20, "room/large")
        sender, *receivers = devices = [Device(lab, host, folder) for host in range(args.receivers + 1)]
        everyone_trusts_everyone(devices)
        running = [device.receive("--once") for device in receivers]
        begin = time.monotonic()
        result = summary(sender.send(tree, to=receivers), timeout=800)
        seconds = time.monotonic() - begin
        assert set(result) == {d.id for d in receivers}, f"the summary names {sorted(result)}"
        wrong = {r: s["state"] for r, s in result.items() if s["state"] != "complete"}
        assert not wrong, f"not complete: {wrong}"
        for process, device in zip(running, receivers):
            process.end(60)
            same(tree, device)
        total = args.receivers * (args.size << 20) / 1e6
        print(f"{args.receivers} receivers have {args.files} files and {args.size} MiB in {seconds:.1f} s from the command to its end, {total / seconds:.0f} MB/s in all")


if __name__ == "__main__":
    script(main)
