#!/usr/bin/env python3
"""Two devices, each behind a NAT of its own, and a rendezvous on the public net that serves STUN and
TURN. Behind NATs that keep a port for all destinations (cone) they connect directly, along what STUN
has told; behind NATs that take another port for each destination (symmetric) through TURN. Each says
which way it took, and the packets that pass the server say the same."""
import argparse
import os
import subprocess

from handout import Device, everyone_trusts_everyone, same, script, scratch, summary, write_file
from lab import Lab, sh
from relayed import until

MB = 1_000_000
WEB, TURN = 8080, 3478
SERVER = "203.0.113.10"


class Natted(Lab):
    """Host 0 is on the public net, 203.0.113.0/24; each other host i has the address 10.i.0.2 behind
    a NAT, 203.0.113.(20+i). Nobody on the public net knows a way to 10.0.0.0/8."""

    def nat(self, host):
        return f"{self.prefix}n{host}"

    def address(self, host):
        return SERVER if host == 0 else f"10.{host}.0.2"

    def _host(self, host, multicast_route):
        name = self.namespace(host)
        sh("ip", "netns", "add", name)
        sh("ip", "-n", name, "link", "set", "lo", "up")
        if host == 0:
            return self._public(host, name, SERVER)
        nat = self.nat(host)
        sh("ip", "netns", "add", nat)
        self._public(host, nat, f"203.0.113.{20 + host}")
        sh("ip", "-n", nat, "link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", name)
        for where, link, address in ((nat, "lan", f"10.{host}.0.1/24"), (name, "eth0", f"10.{host}.0.2/24")):
            sh("ip", "-n", where, "addr", "add", address, "brd", "+", "dev", link)
            sh("ip", "-n", where, "link", "set", link, "up")
        sh("ip", "-n", name, "route", "add", "default", "via", f"10.{host}.0.1")
        sh("ip", "netns", "exec", nat, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def _public(self, host, name, address):
        sh("ip", "-n", self.switch, "link", "add", f"p{host}", "type", "veth", "peer", "name", "eth0", "netns", name)
        sh("ip", "-n", self.switch, "link", "set", f"p{host}", "master", "br0", "up")
        sh("ip", "-n", name, "addr", "add", f"{address}/24", "brd", "+", "dev", "eth0")
        sh("ip", "-n", name, "link", "set", "eth0", "up")

    def translate(self, host, how):
        """Lets out what begins inside, in what way `masquerade` is told; nothing else comes in."""
        rules = f"""flush ruleset
        table ip lab {{
            chain out {{ type nat hook postrouting priority srcnat; oifname "eth0" masquerade {how}; }}
            chain through {{
                type filter hook forward priority 0; policy drop;
                iifname "lan" accept
                ct state established,related accept
            }}
            chain in {{ type filter hook input priority 0; iifname "eth0" ct state new drop; }}
        }}"""
        subprocess.run(["ip", "netns", "exec", self.nat(host), "nft", "-f", "-"], input=rules, text=True, check=True)

    def down(self):
        super().down()
        mine = sh("ip", "netns", "list").split()
        for host in range(1, self.hosts):
            if self.nat(host) in mine:
                sh("ip", "netns", "del", self.nat(host), check=False)


def room(lab, folder):
    """The rendezvous, and two devices that know only where that is."""
    server = Device(lab, 0, folder, "rendezvous", discovery={"enabled": False, "interfaces": ["eth0"]},
                    **{"rendezvous.serve": {"bind": f"{SERVER}:{WEB}"}, "rendezvous.turn": {"bind": f"{SERVER}:{TURN}"}})
    serving = server.start("rendezvous", "--json")
    serving.until("listening", 30)
    devices = []
    for host in (1, 2):
        token = os.path.join(folder, f"token{host}")
        with open(token, "w") as file:
            file.write(server.ask("rendezvous", "token", "--subject", f"user{host}", "--client-type", "device", "--for", "1h"))
        # Without the relayed link: what gets through is WebRTC.
        rendezvous = {"url": f"http://{SERVER}:{WEB}", "token_file": token, "relay": False}
        devices.append(Device(lab, host, folder, discovery={"enabled": False, "interfaces": ["eth0"]},
                              rendezvous=rendezvous, receive={"reserve": 0}, log={"level": "info"}))
    everyone_trusts_everyone(devices)
    return serving, devices


def told(services, devices):
    """The path that each of the two has told when their link came up; nothing until both have."""
    paths = [[e["path"] for e in service.events if e.get("event") == "peer" and e["device_id"] == other.id and e["connected"]]
             for service, other in zip(services, reversed(devices))]
    return {path for found in paths for path in found} if all(paths) else None


def through(lab, folder, devices, kinds, how, expected, size):
    """A file from one to the other; how the link went, and what the server saw of it."""
    for host, way in zip((1, 2), how):
        lab.translate(host, way)
    sender, receiver = devices
    services = [one.receive() for one in devices]
    file = write_file(os.path.join(folder, f"{kinds}.bin"), size * MB, kinds)
    before = lab.received(0)
    sending = sender.send(file, to=[receiver])
    until(lambda: told(services, devices), "a link whose path both tell", sending)
    paths = told(services, devices)
    result = summary(sending)
    assert result[receiver.id]["state"] == "complete", result
    same(file, receiver)
    seen = lab.received(0) - before
    assert paths <= expected and paths, f"{kinds}: the devices say {paths}, not {expected}"
    if "relay" in expected:
        assert seen > size * MB, f"{kinds}: only {seen} bytes of {size} MB passed the server"
    else:
        assert seen < size * MB / 10, f"{kinds}: {seen} bytes of {size} MB passed the server"
    for service in services:
        service.kill()
    print(f"{kinds}: {size} MB by way of {', '.join(sorted(paths))}; the server saw {seen / MB:.1f} MB", flush=True)


def doctor(device):
    """`handout doctor` asks the servers that the rendezvous names, and tells what STUN says."""
    process = device.start("doctor", "--json", "--wait", "1s")
    process.end(60, expect=None)
    about = [e for e in process.events if e.get("about") == "stun"]
    assert len(about) == 2 and all(e["level"] == "fine" for e in about), about
    assert any(f"203.0.113.{20 + device.host}:" in e["what"] for e in about), about
    print("; ".join(e["what"] for e in about), flush=True)


CONE, SYMMETRIC = "persistent", "random,fully-random"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10, metavar="MB", help="of each file (%(default)s)")
    args = parser.parse_args()
    with scratch() as folder, Natted(3, logs=folder) as lab:
        for host in (1, 2):
            lab.translate(host, CONE)
        serving, devices = room(lab, folder)
        doctor(devices[0])
        direct, relayed = {"srflx"}, {"relay"}
        through(lab, folder, devices, "cone-cone", (CONE, CONE), direct, args.size)
        through(lab, folder, devices, "cone-symmetric", (CONE, SYMMETRIC), relayed, args.size)
        through(lab, folder, devices, "symmetric-symmetric", (SYMMETRIC, SYMMETRIC), relayed, args.size)
        serving.kill()


if __name__ == "__main__":
    script(main)
