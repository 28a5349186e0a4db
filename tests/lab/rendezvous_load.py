#!/usr/bin/env python3
"""A rendezvous under load: ten thousand sessions, each begun, found, offered and answered, while two
hundred clients send their requests byte by byte. No answer may be wrong, and of all requests that do
not wait for others 99 of 100 must be answered within a second. `--sessions` takes another number."""
import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import os
import subprocess
import time

from handout import PROGRAM, scratch, script

SECRET = b"a secret for the load, of more than 32 bytes"
ASKING = 32  # connections that ask for data
PROVIDING = 8  # connections that provide it
SLOW = 200
USERS = 200
CANDIDATE = json.dumps({"candidate": "candidate:1 1 udp 2130706431 192.0.2.1 50000 typ host", "sdpMid": "0",
                        "sdpMLineIndex": 0})
SDP = json.dumps({"type": "offer", "sdp": "v=0\r\n" + "a=line of a description\r\n" * 60})


def token(subject, client_type):
    """A token as `handout rendezvous token` makes it, by the same secret."""
    b64 = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")
    now = int(time.time())
    claims = {"sub": subject, "aud": "handout-rendezvous", "iat": now, "exp": now + 3600, "client_type": client_type}
    text = b64(b'{"alg":"HS256","typ":"JWT"}') + b"." + b64(json.dumps(claims).encode())
    return (text + b"." + b64(hmac.new(SECRET, text, hashlib.sha256).digest())).decode()


class Client:
    """One connection that stays open."""

    def __init__(self, place, times):
        self.place, self.times, self.writer = place, times, None

    async def ask(self, who, method, path, body=None, expect=200, timed=True):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(*self.place)
        text = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: load\r\nAuthorization: Bearer {who}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n"
        begun = time.perf_counter()
        self.writer.write(head.encode() + b"\r\n" + text)
        status = int((await self.reader.readline()).split()[1])
        length = 0
        while (line := await self.reader.readline()) != b"\r\n":
            name, _, value = line.decode().partition(":")
            if name.lower() == "content-length":
                length = int(value)
        answer = await self.reader.readexactly(length)
        if timed:
            self.times.append(time.perf_counter() - begun)
        assert status == expect, f"{method} {path}: {status} {answer[:300]}"
        return json.loads(answer)


async def asks(place, times, users, queue, answered):
    """Begins sessions, and answers each offer."""
    client = Client(place, times)
    while not queue.empty():
        number = queue.get_nowait()
        who = users[number % len(users)]
        body = {"request_type": "spectrum", "parameters": json.dumps({"number": number}),
                "file_name": "spectrum_data.npz", "file_size": 0, "file_type": "application/octet-stream"}
        session = (await client.ask(who, "POST", "/api/ice/initiate", body, 201))["session_id"]
        signals = []
        while not any(signal["signal_type"] == "offer" for signal in signals):
            signals = await client.ask(who, "GET", f"/api/ice/signals/{session}?wait=30", timed=False)
        for kind, data in [("answer", SDP), ("candidate", CANDIDATE)]:
            await client.ask(who, "POST", "/api/ice/signal",
                             {"session_id": session, "signal_type": kind, "signal_data": data})
        # As the first clients do it: all signals again, without waiting.
        signals = await client.ask(who, "GET", f"/api/ice/signals/{session}")
        assert len(signals) == 2, signals
        answered[session] = True


async def provides(place, times, who, taken, done):
    """Takes sessions that wait, and offers."""
    client = Client(place, times)
    while not done.is_set():
        for session in await client.ask(who, "GET", "/api/ice/sessions?wait=1", timed=False):
            session = session["session_id"]
            if session in taken:
                continue
            taken.add(session)
            for kind, data in [("candidate", CANDIDATE), ("offer", SDP)]:
                await client.ask(who, "POST", "/api/ice/signal",
                                 {"session_id": session, "signal_type": kind, "signal_data": data})
            await client.ask(who, "GET", f"/api/ice/signals/{session}")


async def dawdles(place, who, done, cut):
    """Sends a request byte by byte, until it is cut off; again and again."""
    body = json.dumps({"session_id": "0" * 36, "signal_type": "offer", "signal_data": "x" * 500})
    request = (f"POST /api/ice/signal HTTP/1.1\r\nHost: load\r\nAuthorization: Bearer {who}\r\n"
               f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()
    while not done.is_set():
        reader, writer = await asyncio.open_connection(*place)
        try:
            for byte in request:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.2)
                if done.is_set() or reader.at_eof():
                    break
            else:
                assert False, "nobody cuts off who needs minutes for a request"
            cut.append(1)
        except OSError:
            cut.append(1)
        finally:
            writer.close()


async def load(place, sessions):
    times, queue, done, cut, answered = [], asyncio.Queue(), asyncio.Event(), [], {}
    for number in range(sessions):
        queue.put_nowait(number)
    users = [token(f"asks-{number}", 2) for number in range(USERS)]
    slow = [asyncio.create_task(dawdles(place, token("slow", 1), done, cut)) for _ in range(SLOW)]
    await asyncio.sleep(1)
    begun = time.perf_counter()
    taken = set()
    providing = [asyncio.create_task(provides(place, times, token("provides", 1), taken, done))
                 for _ in range(PROVIDING)]
    await asyncio.gather(*[asks(place, times, users, queue, answered) for _ in range(ASKING)])
    took = time.perf_counter() - begun
    while len(cut) < SLOW:  # each of them has met the limit
        assert time.perf_counter() - begun < 120, f"only {len(cut)} slow clients were cut off"
        await asyncio.sleep(0.1)
    done.set()
    await asyncio.gather(*slow, *providing)
    return sorted(times), took, answered, len(cut)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--database", default="", help="instead of SQLite")
    arguments = parser.parse_args()
    with scratch() as folder:
        secret = os.path.join(folder, "secret")
        with open(os.open(secret, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(SECRET)
        settings = {"bind": "127.0.0.1:0", "secret_file": secret, "user_rate": 100_000, "address_rate": 100_000,
                    "max_sessions": 1000, "database": arguments.database}
        server = subprocess.Popen([PROGRAM, "--state", os.path.join(folder, "state"), "--json",
                                   *(f"--set=rendezvous.serve.{key}={value}" for key, value in settings.items()),
                                   "rendezvous"], stdout=subprocess.PIPE, text=True)
        try:
            host, port = json.loads(server.stdout.readline())["url"].removeprefix("http://").split(":")
            times, took, answered, cut = asyncio.run(load((host, int(port)), arguments.sessions))
            assert len(answered) == arguments.sessions, f"{len(answered)} of {arguments.sessions} were answered"
            memory = next(line.split()[1] for line in open(f"/proc/{server.pid}/status") if line.startswith("VmHWM"))
            part = lambda share: times[min(len(times) - 1, int(len(times) * share))] * 1000
            print(f"{len(answered)} sessions in {took:.1f} s, {len(times) / took:.0f} requests a second besides "
                  f"long polls; {SLOW} slow clients, cut off {cut} times; ms: p50 {part(0.5):.1f}, "
                  f"p90 {part(0.9):.1f}, p99 {part(0.99):.1f}, most {times[-1] * 1000:.1f}; "
                  f"most memory {int(memory) >> 10} MiB")
            assert part(0.99) < 1000, "99 of 100 must be answered within a second"
            server.terminate()
            assert server.wait(30) == 0
        finally:
            server.kill()


if __name__ == "__main__":
    script(main)
