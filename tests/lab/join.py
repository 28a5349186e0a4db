#!/usr/bin/env python3
"""Thirty receivers, each a process with a key of its own that nobody knows, join with one invite and
then all receive one broadcast: without mDNS, by the address in the invite alone. Then a crowd joins
by an invite for half of it while the issuer is killed and started again: never too many are in."""
import argparse
import os
import time

from handout import PORT, Device, same, script, scratch, summary, write_file
from lab import Loopback

LIMIT = 60  # seconds for all to join


def device(lab, folder, name, port=0):
    return Device(lab, 0, folder, name, discovery={"enabled": False, "interfaces": [], "loopback_only": True},
                  signaling={"port": port, "bind": "127.0.0.1", "max_connections_per_address": 128},
                  receive={"reserve": 0})


def invite(issuer, folder, uses, group):
    """Has the running service make an invite; the file that holds its token."""
    process = issuer.start("invite", "--uses", uses, "--for", "10m", "--group", group, "--json")
    made = process.until("invite", 30)
    process.end(30)
    path = os.path.join(folder, f"{group}.invite")
    with open(path, "w") as file:
        file.write(made["url"] + "\n")
    return path


def fate(process, timeout=120):
    """Whether a receiver has come in: it says so, or ends with exit code 4 and a reason."""
    with process.news:
        process.news.wait_for(lambda: process.find("paired") or process.ended, timeout)
    if process.find("paired"):
        return True
    process.end(10, expect=4)
    reason = process.find("error")["message"]
    assert "used up" in reason, reason
    return False


def class_joins(lab, folder, count, size):
    issuer = device(lab, folder, "teacher", PORT)
    issuer.receive()
    token = invite(issuer, folder, count, "class-3b")
    receivers = [device(lab, folder, f"pupil-{n}") for n in range(count)]
    begin = time.monotonic()
    running = [receiver.receive("--invite", f"@{token}") for receiver in receivers]
    assert all([fate(process) for process in running]), "not everybody has joined"
    joined = time.monotonic() - begin
    assert joined < LIMIT, f"{count} receivers took {joined:.1f} s to join"
    late = device(lab, folder, "late")
    assert not fate(late.receive("--invite", f"@{token}")), "one too many has joined"

    file = write_file(os.path.join(folder, "lesson.bin"), size, "join")
    begin = time.monotonic()
    result = summary(issuer.send(file, to="class-3b"))
    sent = time.monotonic() - begin
    assert set(result) == {r.id for r in receivers}, f"the summary names {sorted(result)}"
    wrong = {r: s["state"] for r, s in result.items() if s["state"] != "complete"}
    assert not wrong, f"not complete: {wrong}"
    for process, receiver in zip(running, receivers):
        process.until("received", 60)
        same(file, receiver)
    print(f"{count} receivers joined with one invite in {joined:.1f} s, process start included; "
          f"then all received {size >> 20} MiB in {sent:.1f} s")
    lab.down()


def killed_while_they_join(lab, folder, uses, crowd):
    issuer = device(lab, folder, "crash", PORT)
    service = issuer.receive()
    token = invite(issuer, folder, uses, "crowd")
    joiners = [device(lab, folder, f"joiner-{n}") for n in range(crowd)]
    few = uses * 2 // 3  # fewer than may join: the kill always comes before the end
    begin = lambda joiner: joiner.start("receive", "--json", "--invite", f"@{token}")
    running = [begin(joiner) for joiner in joiners[:few]]
    with service.news:  # one is in, others are at it
        service.news.wait_for(lambda: service.find("joined"), 60)
    service.kill()
    before = sum(event["event"] == "joined" for event in service.events)
    running += [begin(joiner) for joiner in joiners[few:]]
    issuer.receive()
    fates = [fate(process) for process in running]
    joined = sum(fates)
    assert joined <= uses, f"{joined} have joined by an invite for {uses}"
    lab.down()
    known = [line for line in issuer.ask("peers", "--wait", "0s").splitlines() if " yes " in line]
    assert len(known) <= uses, f"the issuer has let {len(known)} in by an invite for {uses}"
    print(f"killed after {before} of {uses} had joined, and started again: {joined} of {crowd} are in")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--receivers", type=int, default=30)
    parser.add_argument("--size", type=int, default=16, metavar="MIB", help="of what is sent (%(default)s)")
    parser.add_argument("--uses", type=int, default=15)
    parser.add_argument("--crowd", type=int, default=30)
    args = parser.parse_args()
    with scratch() as folder, Loopback(logs=folder) as lab:
        class_joins(lab, folder, args.receivers, args.size << 20)
        killed_while_they_join(lab, folder, args.uses, args.crowd)


if __name__ == "__main__":
    script(main)
