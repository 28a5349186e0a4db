#!/usr/bin/env python3
"""The Debian package: it builds, is installed by dpkg into a throw-away copy of this system (an
overlay in a mount namespace of its own, so this system stays as it is), its service is started as the
unit says it, says that it is ready, answers, and has written how to come in; a second start goes on
with the same key; removed, the settings stay, and purged, nothing does. Needs root."""
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def sh(*command, **more):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


class Service:
    """What systemd would do with the unit: its environment, and its ExecStart."""

    def __init__(self, system):
        with open(f"{system}/lib/systemd/system/handout.service") as file:
            unit = file.read()
        command = re.search(r"^ExecStart=(.*)$", unit, re.M)[1].split()
        state = "/var/lib"
        environment = {"PATH": os.environ["PATH"], "HOME": "/", "NOTIFY_SOCKET": "/run/handout-notify", "WATCHDOG_USEC": "3000000"}
        for name, value in re.findall(r"^Environment=(\w+)=(.*)$", unit, re.M):
            environment[name] = value.replace("%S", state)
        os.makedirs(f"{system}/var/lib/handout", mode=0o700, exist_ok=True)
        path = f"{system}/run/handout-notify"
        if os.path.exists(path):
            os.unlink(path)
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(path)
        self.manager.settimeout(60)
        self.process = subprocess.Popen(["chroot", system, *command], env=environment, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.hears("READY=1")

    def hears(self, what):
        said = ""
        while what not in said:
            try:
                said = self.manager.recv(4096).decode()
            except TimeoutError:
                self.process.kill()
                raise AssertionError(f"it never said {what}:\n{self.process.stderr.read()}")

    def stop(self):
        self.process.terminate()
        self.hears("STOPPING=1")
        _, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, f"ended with {self.process.returncode}:\n{errors}"


def until(path, what):
    end = time.monotonic() + 30
    while True:
        text = open(path).read() if os.path.exists(path) else ""
        if what in text:
            return text
        assert time.monotonic() < end, f"{path} has no {what!r}: {text!r}"
        time.sleep(0.05)


def inside(folder, package):
    """All of this in namespaces of its own: the network is loopback alone, like a kiosk that boots
    before its network is there."""
    sh("ip", "link", "set", "lo", "up")
    sh("mount", "-t", "tmpfs", "tmpfs", folder)
    upper, work, system = (os.path.join(folder, name) for name in ("upper", "work", "system"))
    for path in (upper, work, system):
        os.mkdir(path)
    sh("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", system)
    sh("mount", "-t", "proc", "proc", f"{system}/proc")
    sh("mount", "--bind", "/dev", f"{system}/dev")
    sh("mount", "-t", "tmpfs", "tmpfs", f"{system}/run")
    shutil.copy(package, f"{system}/tmp/handout.deb")
    chroot = ["chroot", system]
    print(sh(*chroot, "dpkg", "-i", "/tmp/handout.deb").strip().splitlines()[-1])
    version = sh(*chroot, "handout", "--version").strip()
    assert version.startswith("handout "), version
    assert "handout" in sh(*chroot, "sh", "-c", "man -w handout 2>/dev/null || ls /usr/share/man/man1/handout.1.gz")
    for name in ("share/man/man1/handout-send.1.gz", "share/bash-completion/completions/handout", "share/doc/handout/copyright"):
        assert os.path.exists(f"{system}/usr/{name}"), f"{name} is not there"
    assert os.stat(f"{system}/etc/handout/credentials").st_mode & 0o777 == 0o700
    assert os.path.lexists(f"{system}/etc/systemd/system/multi-user.target.wants/handout.service"), "it would not start at boot"
    sh(*chroot, "handout", "config", "check", "--config", "/etc/handout/config.toml")

    service = Service(system)
    service.hears("WATCHDOG=1")
    shown = until(f"{system}/var/lib/handout/kiosk/kiosk.txt", "handout receive --invite")
    ask = [*chroot, "handout", "--config", "/etc/handout/config.toml", "--state", "/var/lib/handout"]
    identity = sh(*ask, "id")
    health(f"{system}/var/lib/handout/api.token")
    service.stop()
    print("started as the unit says it: ready, alive, shows its invite, answers, stops")
    service = Service(system)
    assert sh(*ask, "id") == identity
    assert until(f"{system}/var/lib/handout/kiosk/kiosk.txt", "--invite") == shown, "a printed invite would be worth nothing"
    service.stop()
    print("started again: the same key and invite")

    sh(*chroot, "dpkg", "-r", "handout")
    assert not os.path.exists(f"{system}/usr/bin/handout") and os.path.exists(f"{system}/etc/handout/config.toml")
    assert os.path.exists(f"{system}/var/lib/handout/identity.key")
    sh(*chroot, "dpkg", "-P", "handout")
    left = [path for path in ("/etc/handout", "/var/lib/handout", "/usr/bin/handout") if os.path.exists(system + path)]
    assert not left, f"purged, and {left} are still there"
    print("removed: settings and state stay; purged: nothing does")


def health(token):
    """What it answers to /health."""
    with open(token) as file:
        request = urllib.request.Request("http://127.0.0.1:7070/health", headers={"Authorization": f"Bearer {file.readline().strip()}"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            status, said = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, said = error.code, error.read().decode()
    assert status == 200, f"/health: {status} {said}"
    print(f"GET /health: {status} {said.strip()[:200]}")


def main():
    if os.geteuid() != 0:
        sys.exit("installing a package needs root: run this as root")
    if len(sys.argv) > 2 and sys.argv[1] == "--inside":
        return inside(*sys.argv[2:])
    program = [os.environ["HANDOUT"]] if os.environ.get("HANDOUT") else []
    built = subprocess.run([os.path.join(ROOT, "config/deb/build"), *program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert built.returncode == 0, "the package was not built"
    package = built.stdout.strip().splitlines()[-1]
    package = os.path.join(ROOT, package)
    print(f"{os.path.basename(package)}: {os.path.getsize(package) / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory(prefix="handout-test-") as folder:
        # What is mounted goes with the namespace.
        done = subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", sys.executable, "-B", os.path.abspath(__file__), "--inside", folder, package])
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
