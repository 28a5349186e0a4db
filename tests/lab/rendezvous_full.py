#!/usr/bin/env python3
"""A rendezvous whose disk is full says so, in answers and in /health, mixes nobody up with anybody else,
loses nothing, and goes on by itself when there is room again. A database that is damaged, and a key of
which a part is missing, are told by name with what to do."""
import json
import os
import subprocess
import time
import urllib.error
import urllib.request

from handout import PROGRAM, scratch, script
from lab import sh

ASKED = {"request_type": "anything", "parameters": "{}"}


class Server:
    def __init__(self, folder, state):
        self.folder, self.state = folder, state
        command = [*self.command(), "--json", "--set=rendezvous.serve.bind=127.0.0.1:0", "rendezvous"]
        with open(os.path.join(folder, "log"), "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.url = json.loads(self.process.stdout.readline())["url"]

    def command(self):
        return [PROGRAM, "--state", self.state]

    def token(self, subject, kind):
        return subprocess.run([*self.command(), "rendezvous", "token", "--subject", subject, "--client-type", str(kind)],
                              stdout=subprocess.PIPE, check=True, text=True).stdout.strip()

    def ask(self, token, path, body=None):
        request = urllib.request.Request(self.url + path, None if body is None else json.dumps(body).encode(),
                                         {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def full(folder):
    state = os.path.join(folder, "state")
    os.makedirs(state)
    sh("mount", "-t", "tmpfs", "-o", "size=800k,mode=700", "tmpfs", state)
    server = None
    try:
        server = Server(folder, state)
        first, second, provider = server.token("first", 2), server.token("second", 2), server.token("provider", 1)
        status, before = server.ask(second, "/api/ice/initiate", ASKED)
        assert status == 201, before
        fill = os.path.join(state, "fill")
        sh("dd", "if=/dev/zero", f"of={fill}", "bs=1k", check=False)
        status, said = server.ask(first, "/api/ice/initiate", ASKED)
        assert (status, said["error"]["code"]) == (507, "disk_full"), (status, said)
        wait_for(lambda: server.ask(first, "/health") == (503, {"ok": False}), "/health says that nothing can be written")
        os.remove(fill)
        wait_for(lambda: server.ask(first, "/health") == (200, {"ok": True}), "/health is well again")
        # Whoever comes next must not be whoever was refused.
        third = server.token("third", 2)
        status, session = server.ask(third, "/api/ice/initiate", ASKED)
        assert status == 201, session
        offer = {"session_id": session["session_id"], "signal_type": "offer", "signal_data": "for the third alone"}
        assert server.ask(provider, "/api/ice/signal", offer)[0] == 200
        for kept in (session, before):
            status, said = server.ask(first, f"/api/ice/signals/{kept['session_id']}")
            assert status == 404, f"somebody else reads {said}"
        status, own = server.ask(first, "/api/ice/initiate", ASKED)
        assert status == 201, f"who was refused once is refused for ever: {own}"
        assert len({s["initiator_user_id"] for s in (before, session, own)}) == 3
        assert server.ask(second, f"/api/ice/signals/{before['session_id']}") == (200, [])
        print("a full disk: 507 and /health 503; afterwards all goes on, and everybody is who they were")
    finally:
        if server:
            server.process.kill()
            server.process.wait()
        sh("umount", state)


def damaged(folder):
    def refused(state, code, *says):
        done = subprocess.run([PROGRAM, "--state", state, "--set=rendezvous.serve.bind=127.0.0.1:0", "rendezvous"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == code, (done.returncode, done.stderr)
        assert all(word in done.stderr for word in says), done.stderr
        assert len(done.stderr.splitlines()) == 1, f"more than one line: {done.stderr}"

    state = os.path.join(folder, "damaged")
    os.makedirs(state, 0o700)
    database = os.path.join(state, "rendezvous.db")
    with open(database, "wb") as file:
        file.write(os.urandom(40_000))
    refused(state, 1, database, "not a database", "move")
    os.remove(database)
    with open(os.path.join(state, "rendezvous.key"), "w") as file:
        os.fchmod(file.fileno(), 0o600)
    refused(state, 2, "rendezvous.key", "remove it")
    # A start that was cut short while it made its key leaves nothing in the way.
    os.rename(os.path.join(state, "rendezvous.key"), os.path.join(state, "rendezvous.key.new"))
    server = Server(folder, state)
    assert server.ask(server.token("one", 1), "/api/ice/sessions") == (200, [])
    server.process.kill()
    server.process.wait()
    print("a damaged database and a damaged key are told by name, with what to do")


def wait_for(is_so, what):
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end, f"it never came to this: {what}"
        time.sleep(0.2)


def main():
    with scratch() as folder:
        damaged(folder)
        full(folder)


if __name__ == "__main__":
    script(main)
