#!/usr/bin/env python3
"""Nothing is lost and little is sent twice: the receiver is killed at a random moment, then the
sender; each starts again, the file arrives identical, and at most 2 % of it crossed the wire twice.

What a round sends is counted at the sender's link, and compared with an undisturbed broadcast."""
import argparse
import os
import random
import shutil
import time

from handout import Device, everyone_trusts_everyone, same, script, scratch, summary, write_file
from lab import Lab

LIMIT = 0.02  # of the file


def until_received(lab, host, goal, sender):
    """Returns when a host's link has brought it so many bytes."""
    end = time.monotonic() + 120
    while lab.received(host) < goal:
        if sender.ended:
            sender.fail("ended before the moment to kill came")
        assert time.monotonic() < end, f"host {host} received {lab.received(host)} bytes, not {goal}, in 120 s"
        time.sleep(0.005)


def broadcast(lab, sender, receiver, file, kills):
    """One broadcast; `kills` are the two shares of the file after which something dies. Gives the bytes sent."""
    size, before, arrived = os.path.getsize(file), lab.sent(0), lab.received(1)
    receiving = receiver.receive()
    sending = sender.send(file, to=[receiver], wait="120s")
    if kills:
        until_received(lab, 1, arrived + kills[0] * size, sending)
        receiving.kill()
        receiving = receiver.receive()
        until_received(lab, 1, arrived + kills[1] * size, sending)
        sending.kill()
        sending = sender.send(file, to=[receiver], wait="120s")
    result = summary(sending, timeout=300)
    assert result[receiver.id]["state"] == "complete", result
    same(file, receiver)
    count = lab.sent(0) - before
    receiving.kill()
    shutil.rmtree(receiver.destination)
    os.mkdir(receiver.destination)
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--size", type=int, default=512, metavar="MIB")
    parser.add_argument("--rate", type=int, default=400, metavar="MBIT", help="of each link (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    worst = 0
    for number in range(args.rounds + 1):
        numbers = random.Random(f"{args.seed}/{number}")
        with scratch() as folder, Lab(2, rate=args.rate, logs=folder) as lab:
            # A round's file is its own, so that nothing kept from the last round can help.
            file = write_file(os.path.join(folder, "lesson.bin"), args.size << 20, f"kill/{args.seed}/{number}")
            sender, receiver = devices = [Device(lab, host, folder) for host in range(2)]
            everyone_trusts_everyone(devices)
            if number == 0:
                undisturbed = broadcast(lab, sender, receiver, file, None)
                print(f"undisturbed: {undisturbed / (args.size << 20):.3f} of the file sent")
                continue
            first = numbers.uniform(0.05, 0.45)
            second = numbers.uniform(first + 0.05, 0.9)
            count = broadcast(lab, sender, receiver, file, (first, second))
            twice = (count - undisturbed) / (args.size << 20)
            worst = max(worst, twice)
            print(f"round {number}: receiver killed at {first:.0%}, sender at {second:.0%}; {twice:+.2%} sent twice", flush=True)
            assert twice <= LIMIT, f"{twice:.2%} of the file was sent twice, more than {LIMIT:.0%} (seed {args.seed}, round {number})"
    print(f"{args.rounds} rounds, at most {worst:.2%} sent twice")


if __name__ == "__main__":
    script(main)
