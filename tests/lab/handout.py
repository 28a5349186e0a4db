"""The program under test on the hosts of a lab, driven by its command line only."""
import hashlib
import json
import os
import random
import re
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PROGRAM = os.environ.get("HANDOUT", os.path.join(ROOT, "target/release/handout"))
CLIENT = [sys.executable, "-B", os.path.join(ROOT, "tests/plain/plain_client.py")]
PORT = 47800  # of every device's signaling


def scratch():
    """A folder that is removed at the end, under HANDOUT_TEST_DIR or the system's place for it."""
    return tempfile.TemporaryDirectory(prefix="handout-test-", dir=os.environ.get("HANDOUT_TEST_DIR"))


class Device:
    """One installation: a state folder, a config file and a destination, on one host."""

    def __init__(self, lab, host, folder, name=None, **config):
        if not os.access(PROGRAM, os.X_OK):
            sys.exit(f"{PROGRAM} is not there: run cargo build --release, or set HANDOUT")
        self.lab, self.host, self.name = lab, host, name or f"h{host}"
        self.folder = os.path.join(folder, self.name)
        self.destination = os.path.join(self.folder, "received")
        self.config_file = os.path.join(self.folder, "handout.toml")
        os.makedirs(self.destination)
        self.config = {"discovery": {"enabled": True, "interfaces": ["eth0"]}, "signaling": {"port": PORT},
                       "receive": {"destination": self.destination}, "trust": {"authorized": []}}
        for section, keys in config.items():
            self.config.setdefault(section, {}).update(keys)
        self.write_config()
        self.id = self.ask("id").strip()
        found = re.findall(r"\b[a-z2-7]{32}\b", self.id)
        assert found, f"`handout id` printed {self.id!r}"
        self.id = found[0]

    def write_config(self, *more):
        """Puts a new config file in the place of the old one, as editors do: who watches never sees half of it."""
        lines = []
        for section, keys in self.config.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]  # a JSON value of these kinds is a TOML value
        new = self.config_file + ".new"
        with open(new, "w") as file:
            file.write("\n".join([*lines, *more, ""]))
        os.replace(new, self.config_file)

    def trust(self, *devices):
        """Authorizes other devices, in the config file."""
        self.config["trust"]["authorized"] += [getattr(d, "id", d) for d in devices]
        self.write_config()

    def _command(self, verb):
        return [PROGRAM, "--state", os.path.join(self.folder, "state"), "--config", self.config_file, *verb]

    def start(self, *verb):
        return self.lab.run(self.host, self._command(verb), f"{self.name}-{verb[0]}")

    def ask(self, *verb):
        process = self.start(*verb)
        process.end(60)
        return "".join(process.text)

    def receive(self, *options):
        process = self.start("receive", "--json", *options)
        listening = process.until("listening", 30)
        assert listening["device_id"] == self.id, listening
        return process

    def send(self, *paths, to, wait="60s"):
        whom = [to] if isinstance(to, str) else [getattr(d, "id", d) for d in to]
        return self.start("send", *paths, *[part for w in whom for part in ("--to", w)], "--wait", wait, "--json")


def everyone_trusts_everyone(devices):
    for one in devices:
        one.trust(*[other for other in devices if other is not one])


def summary(process, expect=0, timeout=600):
    """The receivers of a broadcast, by id, after it has ended as expected."""
    process.end(timeout, expect)
    last = process.find("summary") or process.fail("printed no summary")
    return {receiver["device_id"]: receiver for receiver in last["receivers"]}


def write_file(path, size, seed):
    """A file of random bytes, the same for the same seed."""
    numbers = random.Random(seed)
    with open(path, "wb") as file:
        while size:
            piece = min(size, 1 << 20)
            file.write(numbers.randbytes(piece))
            size -= piece
    return path


def write_tree(path, files, seed):
    """A folder of many small files: nested, some empty, some executable, some with odd names."""
    numbers = random.Random(seed)
    os.makedirs(os.path.join(path, "empty/inside"))
    for n in range(files):
        folder = os.path.join(path, *[f"d{numbers.randrange(6)}" for _ in range(numbers.randrange(4))])
        os.makedirs(folder, exist_ok=True)
        name = os.path.join(folder, numbers.choice(["plain", "with space", "übung", "日本語", "a.b.c"]) + f"-{n}")
        write_file(name, numbers.choice([0, 1, 300, 65536, 262144, 262145, numbers.randrange(400_000)]), f"{seed}/{n}")
        if n % 10 == 0:
            os.chmod(name, 0o755)
    return path


def digest(path):
    """SHA-256 of a file; of a folder, each entry's path, kind, executable bit and SHA-256."""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    found = {}
    for folder, subs, files in os.walk(path):
        for name in subs:
            found[os.path.relpath(os.path.join(folder, name), path)] = "folder"
        for name in files:
            full = os.path.join(folder, name)
            found[os.path.relpath(full, path)] = (bool(os.stat(full).st_mode & 0o100), digest(full))
    return found


def same(source, device):
    """Fails when what a device received is not what was sent."""
    arrived = os.path.join(device.destination, os.path.basename(source))
    assert os.path.exists(arrived), f"{device.name} has no {os.path.basename(source)}: {os.listdir(device.destination)}"
    wanted, got = digest(source), digest(arrived)
    if wanted != got:
        if isinstance(wanted, dict) and isinstance(got, dict):
            wrong = sorted(k for k in wanted.keys() | got.keys() if wanted.get(k) != got.get(k))
            raise AssertionError(f"{device.name}: {len(wrong)} entries differ, such as {wrong[:5]}")
        raise AssertionError(f"{device.name}: {arrived} differs from what was sent")


def script(main):
    """Runs a scenario: an assertion that fails is shown without a traceback, and the exit code is 1."""
    try:
        main()
    except AssertionError as error:
        print("FAILED:", error)
        sys.exit(1)
