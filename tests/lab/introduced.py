#!/usr/bin/env python3
"""Two receivers that have never met, B and C: no mDNS, and each has a firewall that lets nothing of
the other in unasked. The origin introduces them, and C gets chunks from B. Then, in the middle of
another broadcast, the origin's person revokes B: B's links end on every side, and no byte more goes
from C to B."""
import argparse
import os
import subprocess
import time

from handout import PORT, Device, same, script, scratch, summary, write_file
from lab import Lab, sh

LIMIT = 5  # seconds from the command to the end of all links
RATE = 80  # Mbit/s of each link: 10 MB/s, so that a broadcast takes a while


def device(lab, host, folder, name, **config):
    config = {"discovery": {"enabled": False, "interfaces": ["eth0"]}, "receive": {"reserve": 0}} | config
    return Device(lab, host, folder, name, **config)


def firewall(lab, host, stranger):
    """Lets nothing of another host in but what answers this one."""
    rules = f"""table inet lab {{
        chain input {{
            type filter hook input priority 0; policy accept;
            ip saddr {lab.address(stranger)} udp dport 1-65535 counter name from_it
            ct state established,related accept
            ip saddr {lab.address(stranger)} drop
        }}
        counter from_it {{ }}
    }}"""
    path = os.path.join(lab.logs, f"firewall-{host}")
    with open(path, "w") as file:
        file.write(rules)
    sh(*lab.enter(host), "nft", "-f", path)


def is_open(lab, host, target):
    """Whether a host can connect to another one's signaling port."""
    dial = f"exec 3<>/dev/tcp/{lab.address(target)}/{PORT}"
    return subprocess.run([*lab.enter(host), "timeout", "1", "bash", "-c", dial], capture_output=True).returncode == 0


def came(lab, host):
    """Bytes that the other receiver's host has sent to this one."""
    shown = sh(*lab.enter(host), "nft", "list", "counter", "inet", "lab", "from_it").split()
    return int(shown[shown.index("bytes") + 1])


def linked(device):
    """Devices that this one's service has a link to, by id."""
    process = device.start("peers", "--json")
    process.end(20)
    return {event["device_id"] for event in process.events if event["event"] == "peer" and event["connected"]}


def until(what, condition, timeout=30):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {timeout} s"
        time.sleep(0.05)


def relayed(process, origin):
    """Bytes of finished bundles that came from another device than their origin."""
    return {e["device_id"]: e["bytes"] for e in process.events if e["event"] == "relayed" and e["device_id"] != origin}


def chunks_from_a_stranger(lab, folder, room, size):
    (origin, b, c), (_, _, at_c) = room
    file = write_file(os.path.join(folder, "lesson.bin"), size, "introduced")
    summary(origin.send(file, to=[b]))
    before = came(lab, 2)
    result = summary(origin.send(file, to=[b, c]))
    assert result[c.id]["state"] == "complete", result
    at_c.until("received", 30)
    same(file, c)
    introduced = at_c.find("introduced") or at_c.fail("was not introduced to anybody")
    assert (introduced["device_id"], introduced["by"]) == (b.id, origin.id), introduced
    from_b, over = relayed(at_c, origin.id), came(lab, 2) - before
    # How much is a matter of the origin's and B's shares of C's link.
    assert from_b.get(b.id, 0) > size // 16, f"from B came {from_b} of {size} bytes"
    assert over >= from_b[b.id], f"{from_b} bytes came, but only {over} over the link to B"
    assert result[c.id]["sent"] < size, f"the origin sent all of it again: {result[c.id]}"
    print(f"C got {from_b[b.id] / 1e6:.0f} of {size / 1e6:.0f} MB from B, whom it had never met; "
          f"the origin sent C {result[c.id]['sent'] / 1e6:.0f} MB")


def revoked_in_the_middle(lab, folder, room, size):
    (origin, b, c), (_, at_b, at_c) = room
    file = write_file(os.path.join(folder, "exam.bin"), size, "revoked")
    sending = origin.send(file, to=[b, c])
    until("B and C have a link, and both get something", lambda: b.id in linked(c) and c.id in linked(b))
    marks = came(lab, 1), came(lab, 2)
    until("bytes go to B and to C from each other",
          lambda: came(lab, 1) > marks[0] + 500_000 or came(lab, 2) > marks[1] + 500_000)
    begin = time.monotonic()
    process = origin.start("revoke", b.id, "--json")
    process.end(20)
    until("C has no link to B", lambda: b.id not in linked(c), LIMIT)
    until("the origin has no link to B", lambda: b.id not in linked(origin), LIMIT)
    until("B has no link at all", lambda: not linked(b), LIMIT)
    ended = time.monotonic() - begin
    quiet = came(lab, 1), came(lab, 2), lab.received(1)
    assert ended < LIMIT, f"the links ended after {ended:.1f} s"
    time.sleep(3)
    later = came(lab, 1), came(lab, 2), lab.received(1)
    grown = [after - before for after, before in zip(later, quiet)]
    assert all(more < 20_000 for more in grown), f"bytes to B from C, to C from B, to B in all: {grown}"
    result = summary(sending, expect=3)
    states = {r["name"]: (r["state"], r["code"]) for r in result.values()}
    assert result[b.id]["state"] == "cancelled" and result[b.id]["code"] == "unauthorized", states
    assert result[c.id]["state"] == "complete", states
    at_c.until("received", 30)
    same(file, c)
    assert not os.path.exists(os.path.join(b.destination, "exam.bin")), "B has it although it was revoked"
    print(f"all links of B had ended {ended:.1f} s after the command `revoke` was started; in the 3 s after that "
          f"B got {grown[2]} bytes, none of the file; C got the rest from the origin")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32, metavar="MIB", help="of what is sent first (%(default)s)")
    parser.add_argument("--second", type=int, default=96, metavar="MIB", help="of what is sent then (%(default)s)")
    args = parser.parse_args()
    with scratch() as folder, Lab(3, rate=RATE, logs=folder) as lab:
        firewall(lab, 1, 2)
        firewall(lab, 2, 1)
        b, c = device(lab, 1, folder, "b"), device(lab, 2, folder, "c")
        known = [f"{d.id}@{lab.address(d.host)}:{PORT}" for d in (b, c)]
        discovery = {"enabled": False, "interfaces": ["eth0"], "static_peers": known}
        origin = device(lab, 0, folder, "origin", discovery=discovery, swarm={"neighbours": 4})
        origin.trust(b, c)
        for receiver in (b, c):
            receiver.trust(origin)
        room = (origin, b, c), [one.receive() for one in (origin, b, c)]
        for host, target, open_to_it in ((0, 1, True), (0, 2, True), (1, 2, False), (2, 1, False)):
            assert is_open(lab, host, target) == open_to_it, f"host {host} and port {PORT} of host {target}"
        chunks_from_a_stranger(lab, folder, room, args.size << 20)
        revoked_in_the_middle(lab, folder, room, args.second << 20)


if __name__ == "__main__":
    script(main)
