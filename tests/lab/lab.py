"""A LAN in network namespaces, gone again when the script ends: N hosts on one bridge.

Host i is 10.77.0.(10+i)/24 on `eth0`. There is no default route, and no multicast route unless
asked for: like a switch in a classroom. Names carry the process id, so runs do not meet."""
import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time


def sh(*command, check=True):
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Process:
    """A program on a host. Its JSON lines become `events`; its stderr goes to a file."""

    def __init__(self, lab, host, command, name):
        self.name, self.errors = name, os.path.join(lab.logs, f"{name}-{len(lab.processes)}.stderr")
        self.events, self.text, self.news = [], [], threading.Condition()
        with open(self.errors, "wb") as errors:
            # A session of its own, so that killing it takes its children too.
            self.process = subprocess.Popen(
                [*lab.enter(host), *map(str, command)], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
        self.pid, self.ended = self.process.pid, None
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        lab.processes.append(self)

    def _read(self):
        for line in self.process.stdout:
            line = line.decode(errors="replace")
            with self.news:
                self.text.append(line)
                try:
                    self.events.append(json.loads(line) | {"_at": time.monotonic()})
                except (ValueError, TypeError):
                    pass  # a line for people; it stays in `text`
                self.news.notify_all()
        self.process.wait()
        with self.news:
            self.ended = time.monotonic()
            self.news.notify_all()

    def until(self, event, timeout=60):
        """The first event of that name, once it is there."""
        with self.news:
            self.news.wait_for(lambda: self.find(event) or self.ended, timeout)
        return self.find(event) or self.fail(f"printed no {event!r} event within {timeout} s")

    def find(self, event):
        return next((e for e in self.events if e.get("event") == event), None)

    def end(self, timeout=600, expect=0):
        """Waits for the end and holds the exit code to what is expected (None: anything)."""
        with self.news:
            self.news.wait_for(lambda: self.ended, timeout)
        if self.ended is None:
            self.fail(f"did not end within {timeout} s")
        code = self.process.returncode
        if expect is not None and code not in (expect if isinstance(expect, tuple) else (expect,)):
            self.fail(f"ended with {code}, not {expect}")
        return code

    def kill(self, sig=signal.SIGKILL):
        """Ends it. Returns once it is gone."""
        if self.process.poll() is None:
            os.killpg(self.pid, sig)
        self.process.wait(30)
        self.reader.join(30)

    def memory(self, field="VmHWM"):
        """Bytes of memory: VmHWM is the most it ever had, VmRSS what it has now."""
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

    def fail(self, what):
        with open(self.errors, errors="replace") as file:
            errors = file.read()[-4000:]
        shown = "".join(self.text[-20:])
        raise AssertionError(f"{self.name} {what}\n--- its last output\n{shown}--- its last errors\n{errors}")


class Lab:
    """`with Lab(5) as lab:` gives hosts 0 to 4."""

    def __init__(self, hosts, rate=None, multicast_route=False, logs="."):
        if os.geteuid() != 0:
            sys.exit("network namespaces need root: run this as root")
        self.prefix, self.hosts, self.logs = f"ho{os.getpid()}", hosts, logs
        self.switch, self.processes = self.prefix + "sw", []
        atexit.register(self.down)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda n, _: sys.exit(128 + n))  # which runs the atexit handlers
        self._switch()
        for host in range(hosts):
            self._host(host, multicast_route)
            if rate:
                self.rate(host, rate)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    def namespace(self, host):
        return f"{self.prefix}h{host}"

    def enter(self, host):
        return ["ip", "netns", "exec", self.namespace(host)]

    def address(self, host):
        return f"10.77.0.{10 + host}"

    def _switch(self):
        sh("ip", "netns", "add", self.switch)
        sh("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", 0, "forward_delay", 0, "stp_state", 0)
        sh("ip", "-n", self.switch, "link", "set", "br0", "up")

    def _host(self, host, multicast_route):
        name = self.namespace(host)
        sh("ip", "netns", "add", name)
        sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", self.switch, "link", "add", f"p{host}", "type", "veth", "peer", "name", "eth0", "netns", name)
        sh("ip", "-n", self.switch, "link", "set", f"p{host}", "master", "br0", "up")
        sh("ip", "-n", name, "addr", "add", f"{self.address(host)}/24", "brd", "+", "dev", "eth0")
        sh("ip", "-n", name, "link", "set", "eth0", "up")
        if multicast_route:
            sh("ip", "-n", name, "route", "add", "224.0.0.0/4", "dev", "eth0")

    def rate(self, host, mbit):
        """Limits a host's link in both directions, behind a queue of 20 ms, at least 100 KB."""
        limit, burst = max(100_000, mbit * 2500), max(6000, mbit * 125)
        for name, device in ((self.namespace(host), "eth0"), (self.switch, f"p{host}")):
            # Without this, frames are up to 64 KiB and the shaper counts and queues them as one.
            sh("ip", "netns", "exec", name, "ethtool", "-K", device, "tso", "off", "gso", "off", "gro", "off")
            sh("tc", "-n", name, "qdisc", "replace", "dev", device, "root", "tbf", "rate", f"{mbit}mbit", "burst", burst, "limit", limit)

    def received(self, host):
        """Bytes that a host's link has brought it so far."""
        return self._counters(host)["rx"]["bytes"]

    def sent(self, host):
        """Bytes that a host has put on its link so far."""
        return self._counters(host)["tx"]["bytes"]

    def _counters(self, host):
        return json.loads(sh("ip", "-n", self.namespace(host), "-j", "-s", "link", "show", "dev", "eth0"))[0]["stats64"]

    def run(self, host, command, name):
        return Process(self, host, command, name)

    def down(self):
        for process in self.processes:
            process.kill()
        self.processes.clear()
        mine = {line.split()[0] for line in sh("ip", "netns", "list").splitlines() if line.strip()}
        for name in sorted(n for n in mine if n == self.switch or n in map(self.namespace, range(self.hosts))):
            for pid in sh("ip", "netns", "pids", name, check=False).split():
                os.kill(int(pid), signal.SIGKILL)
            sh("ip", "netns", "del", name, check=False)


class Loopback:
    """All devices as processes of this machine, without namespaces and so without root."""

    def __init__(self, logs="."):
        self.logs, self.processes = logs, []
        atexit.register(self.down)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda n, _: sys.exit(128 + n))  # which runs the atexit handlers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    def enter(self, _):
        return []

    def run(self, host, command, name):
        return Process(self, host, command, name)

    def down(self):
        for process in self.processes:
            process.kill()
        self.processes.clear()
