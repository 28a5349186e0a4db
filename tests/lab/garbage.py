#!/usr/bin/env python3
"""Nothing that reaches the signaling port before a proof costs much: while one host sends noise, a
gigabyte without a newline, deep JSON, false messages and idle connections, an honest broadcast
arrives, and the program stays under 100 MB."""
import argparse
import json
import os
import socket
import sys
import time

from handout import PORT, Device, everyone_trusts_everyone, same, script, scratch, summary, write_file
from lab import Lab

LIMIT = 100 * 1000 * 1000
HERE = os.path.abspath(__file__)


def say(event, **keys):
    print(json.dumps({"event": event} | keys), flush=True)


def connect(target):
    return socket.create_connection(target, timeout=10)


def write_all(target, pieces):
    """Writes until the other side closes; gives the bytes that were taken."""
    taken = 0
    try:
        with connect(target) as line:
            for piece in pieces:
                line.sendall(piece)
                taken += len(piece)
    except OSError:
        pass
    return taken


def flood(target):
    """Every kind of nonsense, round after round, until killed."""
    offer = lambda **k: json.dumps({"kind": "offer", "peer_id": "a" * 32, "data": "v=0\r\n"} | k).encode() + b"\n"
    megabyte = b"a" * (1 << 20)
    say("gigabyte", taken=write_all(target, [b'{"kind":"offer","data":"'] + [megabyte] * 1024))
    say("spaces", taken=write_all(target, [b" " * (1 << 20)] * 1024))
    rounds = 0
    while True:
        write_all(target, [os.urandom(65536)] * 16)
        write_all(target, [b"[" * 200_000, b"]" * 200_000, b"\n"])
        write_all(target, [b'{"a":' * 100_000, b"1", b"}" * 100_000, b"\n"])
        write_all(target, [offer(kind=k) for k in ("", "OFFER", "x" * 1000, None, 7, ["offer"], {})] * 20)
        write_all(target, [offer(peer_id=p) for p in ("", "../..", "\x1b[2J", "é", "a" * 65, None, 0, "b" * 64)] * 20)
        write_all(target, [offer(data=d) for d in ("", "v=0", "v=0\r\n" + "a=x\r\n" * 10_000, None, 3, "m=" * 5000)] * 5)
        write_all(target, [offer(kind="ice", data=f"candidate:{n} 1 udp 1 10.77.0.{n % 250} 9 typ host") for n in range(2000)])
        write_all(target, [offer(kind=k) for k in ("answer", "error")] * 200)
        write_all(target, [b'{"kind":"offer","kind":"offer",}\n', b"\xff\xfe\n", b"{}\n", b"\0" * 4096])
        rounds += 1
        say("round", number=rounds)


def idle(target, count):
    """Holds connections open, some silent and some in the middle of an object, and replaces the closed ones."""
    held = []
    while True:
        for line in list(held):
            try:
                if line.recv(4096, socket.MSG_DONTWAIT) == b"":
                    held.remove(line)
                    line.close()
            except BlockingIOError:
                pass
            except OSError:
                held.remove(line)
                line.close()
        while len(held) < count:
            try:
                line = connect(target)
                if len(held) % 2:
                    line.sendall(b'{"kind":"of')
                held.append(line)
            except OSError:
                break
        say("idle", held=len(held))
        time.sleep(0.2)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attack", nargs=2, metavar=("HOW", "HOST"), help="be an attacker, flood or idle (the script starts itself with this)")
    parser.add_argument("--broadcasts", type=int, default=3)
    args = parser.parse_args()
    if args.attack:
        how, host = args.attack
        return flood((host, PORT)) if how == "flood" else idle((host, PORT), 500)
    with scratch() as folder, Lab(4, logs=folder) as lab:
        receiver, sender = devices = [Device(lab, host, folder) for host in (0, 1)]
        everyone_trusts_everyone(devices)
        receiving = receiver.receive()
        # Two hosts, since the connections of one address are limited, and one flood must not shield from the other.
        flooder, idler = [lab.run(host, [sys.executable, "-B", HERE, "--attack", how, lab.address(0)], how) for host, how in ((2, "flood"), (3, "idle"))]
        taken = [flooder.until(event, 120)["taken"] for event in ("gigabyte", "spaces")]
        held = idler.until("idle")["held"]
        for number in range(args.broadcasts):
            file = write_file(os.path.join(folder, f"lesson-{number}.bin"), 20 << 20, f"garbage/{number}")
            result = summary(sender.send(file, to=[receiver]), timeout=120)
            assert result[receiver.id]["state"] == "complete", result
            same(file, receiver)
        flooder.until("round", 120)
        for process in (receiving, flooder, idler):
            if process.ended:
                process.fail("ended")
        most, rounds = receiving.memory(), sum(e["event"] == "round" for e in flooder.events)
        print(f"{rounds} rounds of nonsense; {held} of 500 idle connections held; of 1 GiB in one line {taken[0] / 1e6:.1f} MB were taken, of 1 GiB of spaces {taken[1] / 1e6:.1f} MB; "
              f"{args.broadcasts} broadcasts arrived; at most {most / 1e6:.0f} MB of memory")
        assert most < LIMIT, f"{most / 1e6:.0f} MB of memory, more than {LIMIT / 1e6:.0f}"


if __name__ == "__main__":
    script(main)
