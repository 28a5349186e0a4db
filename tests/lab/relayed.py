#!/usr/bin/env python3
"""Devices that share no network but a rendezvous: signaling by mail there, and where no UDP gets
through the link goes through it, sealed. Looked at from outside: what passes the rendezvous does not
contain the file. A link that breaks, a rendezvous that is restarted and a receiver that is killed cost
no byte that had arrived."""
import argparse
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time

from handout import Device, PORT, everyone_trusts_everyone, same, script, scratch, summary, write_file
from lab import Lab, sh

MB = 1_000_000
WEB = 8080
MARK = b"<this is what nobody between the two may read>"
SNIFF = r"""
import socket, sys
mark, tail, seen, found = sys.argv[1].encode(), {}, 0, 0
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
s.bind(("eth0", 0))
s.settimeout(0.5)
print("sniffing", flush=True)
import select
while True:
    if select.select([sys.stdin], [], [], 0)[0]:
        break
    try:
        frame = s.recv(70000)
    except TimeoutError:
        continue
    seen += len(frame)
    found += frame.count(mark)
print(seen, found, flush=True)
"""


class Sniffer:
    """Everything that passes a host's link, looked through for a mark."""

    def __init__(self, lab, host):
        self.process = subprocess.Popen([*lab.enter(host), sys.executable, "-c", SNIFF, MARK.decode()],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "sniffing\n"

    def end(self):
        """Bytes that passed, and how often the mark was among them."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seen, found = map(int, self.process.stdout.readline().split())
        self.process.wait(10)
        return seen, found


def marked_file(path, size):
    """Random bytes with the mark in every 2 KiB."""
    write_file(path, size, 1)
    with open(path, "r+b") as file:
        for at in range(0, size - len(MARK), 2048):
            file.seek(at)
            file.write(MARK)
    return path


class Room:
    """A rendezvous on host 0, and devices on the others which can reach only that."""

    def __init__(self, lab, folder, devices=2, serve=None, trusted=True, kinds=("device", "device"), **sections):
        self.lab = lab
        self.server = Device(lab, 0, folder, "rendezvous", discovery={"enabled": False, "interfaces": ["eth0"]},
                             **{"rendezvous.serve": {"bind": f"{lab.address(0)}:{WEB}", **(serve or {})}})
        self.devices = []
        for host in range(1, devices + 1):
            token = os.path.join(folder, f"token{host}")
            with open(token, "w") as file:
                file.write(self.server.ask("rendezvous", "token", "--subject", f"user{host}", "--client-type", kinds[host - 1], "--for", "1h"))
            rendezvous = {"url": f"http://{lab.address(0)}:{WEB}", "token_file": token, "fallback_after": "4s"}
            self.devices.append(Device(lab, host, folder, discovery={"enabled": False, "interfaces": ["eth0"]},
                                       rendezvous=rendezvous, receive={"reserve": 0}, log={"level": "info"}, **sections))
        if trusted:
            everyone_trusts_everyone(self.devices)
        self.process = None
        self.serve()

    def serve(self):
        self.process = self.server.start("rendezvous", "--json")
        self.process.until("listening", 30)


def apart(lab, *hosts, udp=True):
    """These hosts cannot reach each other: no TCP, and no UDP where that is said."""
    for host in hosts:
        others = ", ".join(lab.address(other) for other in hosts if other != host)
        what = "" if udp else "meta l4proto tcp"
        rules = f"""table inet apart {{
            chain input {{
                type filter hook input priority 0
                ip saddr {{ {others} }} {what} drop
            }}
        }}"""
        subprocess.run([*lab.enter(host), "nft", "-f", "-"], input=rules, text=True, check=True)


def together(lab, *hosts):
    for host in hosts:
        sh(*lab.enter(host), "nft", "delete", "table", "inet", "apart")


def until(is_so, what, process, timeout=60):
    end = time.monotonic() + timeout
    while not (found := is_so()):
        if time.monotonic() > end:
            process.fail(f"did not come to this within {timeout} s: {what}")
        time.sleep(0.1)
    return found


def path_of(device, other):
    """How the link between them goes, as `handout peers` says it."""
    process = device.start("peers", "--json", "--wait", "0s")
    process.end(60)
    found = [e for e in process.events if e.get("device_id") == other.id]
    return found[0].get("path") if found else None


def by_mail(lab, folder):
    """Nothing but the rendezvous knows the way: WebRTC connects directly."""
    room = Room(lab, folder)
    sender, receiver = room.devices
    apart(lab, 1, 2, udp=False)  # no TCP between them, so no signaling
    receiving = receiver.receive()
    file = write_file(os.path.join(folder, "direct.bin"), 20 * MB, 2)
    before = lab.received(0)
    sending = sender.send(file, to=[receiver])
    until(lambda: path_of(receiver, sender), "a link", sending)
    path = path_of(receiver, sender)
    summary(sending)
    same(file, receiver)
    passed = lab.received(0) - before
    assert passed < MB, f"{passed} bytes went to the rendezvous, so they did not go directly"
    together(lab, 1, 2)
    receiving.kill()
    room.process.kill()
    print(f"signaling by mail alone, and a direct link ({path}): 20 MB, of which the rendezvous saw {passed} bytes", flush=True)


def blocked(lab, folder):
    """No packet gets from one to the other."""
    room = Room(lab, folder)
    sender, receiver = room.devices
    apart(lab, 1, 2)
    file = marked_file(os.path.join(folder, "sealed.bin"), 30 * MB)
    receiving = receiver.receive()
    sniffer = Sniffer(lab, 0)
    begin = time.monotonic()
    sending = sender.send(file, to=[receiver])
    until(lambda: path_of(receiver, sender), "a link", sending)
    assert path_of(receiver, sender) == "rendezvous", path_of(receiver, sender)
    summary(sending)
    took = time.monotonic() - begin
    same(file, receiver)
    seen, found = sniffer.end()
    assert seen > 60 * MB, f"{seen} bytes passed the rendezvous: less than the file in and out"
    assert found == 0, f"the file's text passed the rendezvous {found} times"
    # That the sniffer finds what is there to be found.
    sniffer = Sniffer(lab, 0)
    sh(*lab.enter(1), sys.executable, "-c",
       f"import urllib.request as r, urllib.error\ntry: r.urlopen(r.Request('http://{lab.address(0)}:{WEB}/health', data={MARK * 3!r}))\nexcept urllib.error.HTTPError: pass")
    assert sniffer.end()[1] == 3, "the sniffer finds nothing"
    said = open(sending.errors, errors="replace").read() + open(receiving.errors, errors="replace").read()
    assert "rendezvous" in said, "nobody says that the link is relayed"
    together(lab, 1, 2)
    receiving.kill()
    room.process.kill()
    print(f"no UDP and no TCP between the two: 30 MB through the rendezvous in {took:.1f} s; {seen} bytes passed it, "
          "none of them the file's text", flush=True)


def broken(lab, folder):
    """The rendezvous is killed in the middle, then the receiver."""
    room = Room(lab, folder, limits={"rate": "8MB/s"})
    sender, receiver = room.devices
    apart(lab, 1, 2)
    size = 60 * MB
    file = write_file(os.path.join(folder, "long.bin"), size, 3)
    receiving = receiver.receive()
    sending = sender.send(file, to=[receiver], wait="120s")
    progress = lambda: max((e["bytes"] for e in sending.events if e.get("event") == "progress"), default=0)
    until(lambda: progress() > 10 * MB, "it moves", sending)
    room.process.kill()
    room.serve()
    stood = progress()
    until(lambda: progress() > stood + 5 * MB, "it goes on after the rendezvous was killed", sending, 90)
    receiving.kill()
    receiving = receiver.receive()
    rows = summary(sending)
    same(file, receiver)
    row = rows[receiver.id]
    sent = row.get("sent", row.get("moved"))
    assert sent is None or sent < size * 1.4, row
    together(lab, 1, 2)
    receiving.kill()
    room.process.kill()
    print(f"the rendezvous killed at {stood / MB:.0f} MB of 60 and started again, then the receiver: all arrived, {sent} bytes sent", flush=True)


def limited(lab, folder):
    """The rendezvous lets so much through and no more, and says so."""
    room = Room(lab, folder, serve={"relay_bytes": "4MiB", "relay_day": "9MiB"})
    sender, receiver = room.devices
    apart(lab, 1, 2)
    file = write_file(os.path.join(folder, "much.bin"), 30 * MB, 4)
    receiving = receiver.receive()
    sending = sender.send(file, to=[receiver], wait="25s")
    sending.end(180, None)
    assert sending.process.returncode in (3, 5), sending.process.returncode
    said = json.dumps(sending.events) + open(sending.errors, errors="replace").read()
    assert "bytes" in said and "rendezvous" in said or "relay" in said, "the reason is told"
    together(lab, 1, 2)
    receiving.kill()
    room.process.kill()
    print("a rendezvous that relays 4 MiB a link and 9 MiB a day: the rest does not arrive, and the sender is told why", flush=True)


def end_sessions(room):
    """Those that are open are over, for their time or for what else may happen at a rendezvous."""
    file = os.path.join(room.server.folder, "state", "rendezvous.db")
    with sqlite3.connect(file, timeout=30) as database:
        database.execute("UPDATE ice_sessions SET expires_at = 0")


def requested(lab, folder):
    """One device provides, another asks: neither has heard of the other, and what comes is verified."""
    room = Room(lab, folder, trusted=False, kinds=("1", "2"))
    provider, asker = room.devices
    providing = provider.start("provide", "--json")
    providing.until("providing", 30)
    ask = ["request", "signal", "--param", "duration=2", "--param", "frequency=1000", "--param", "sample_rate=1000000", "--json"]
    for way in ("directly", "through the rendezvous"):
        if way != "directly":
            apart(lab, 1, 2)
        asking = asker.start(*ask, "--param", f"seed={len(way)}")
        asking.end(120)
        got = asking.find("received") or asking.fail("received nothing")
        assert got["verified"] and got["relayed"] == (way != "directly"), got
        assert os.path.getsize(got["path"]) == got["bytes"] > 16 * MB, got
        print(f"a request between devices, answered {way}: {got['bytes']} bytes, verified, {got['seconds']:.1f} s", flush=True)
    together(lab, 1, 2)
    # Once more the same: it is here.
    asking = asker.start(*ask, "--param", f"seed={len(way)}")
    asking.end(120)
    assert asking.find("received")["path"] == got["path"], "the same file again"
    # Another one than the person wants; and what the provider refuses.
    asking = asker.start(*ask, "--from", asker.id)
    asking.end(120, 4)
    asking = asker.start(*ask[:-1], "--param", "sample_rate=-1", "--json")
    asking.end(120, 2)
    assert "sample_rate" in json.dumps(asking.events), asking.events
    # The session at the rendezvous is over while the file comes, which needs it no longer; without a
    # provider that is the end.
    providing.kill()
    slow = provider.start("provide", "--json", "--set", "limits.rate=4MB")
    slow.until("providing", 30)
    asking = asker.start(*ask, "--param", "seed=77")
    asking.until("begun", 60)
    end_sessions(room)
    asking.end(120)
    assert asking.find("received")["verified"], asking.events
    slow.kill()
    asking = asker.start(*ask, "--wait", "2m")
    asking.until("asked", 30)
    end_sessions(room)
    began = time.monotonic()
    asking.end(60, 5)
    assert "nobody" in asking.find("error")["message"], asking.events
    print(f"a session that is over ends no file that comes; where nobody came, it is the end after {time.monotonic() - began:.0f} s", flush=True)
    providing = provider.start("provide", "--json")
    providing.until("providing", 30)
    # Nothing of it lasts.
    for device, other in ((provider, asker), (asker, provider)):
        assert path_of(device, other) is None
        known = json.dumps([json.loads(line) for line in device.ask("peers", "--json", "--wait", "0s").splitlines()])
        assert '"authorized": true' not in known, known
    # A service provides by itself what its config file says, and asks for what a person wants.
    providing.kill()
    provider.write_config('[[provider]]', 'name = "greeting"', 'command = ["/bin/sh", "-c", "printf hello > $0", "{output}"]')
    service, other = provider.start("run", "--json"), asker.start("run", "--json")
    for process in (service, other):
        process.until("listening", 30)
    asking = asker.start("request", "greeting", "--json")
    asking.end(120)
    got = asking.find("received")
    assert got["verified"] and open(got["path"]).read() == "hello", got
    for process in (service, other, room.process):
        process.kill()
    print("two services: one provides what its config file says, the other asks for a person", flush=True)
    print("what was let in for one request is out again; another device than --from, and parameters that do not fit, are refused", flush=True)


def main():
    scenes = {"mail": by_mail, "blocked": blocked, "broken": broken, "limited": limited, "requested": requested}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", choices=[*scenes, []], help="only these")
    args = parser.parse_args()
    for name in args.scenes or scenes:
        with scratch() as folder, Lab(3, logs=folder) as lab:
            scenes[name](lab, folder)


if __name__ == "__main__":
    script(main)
