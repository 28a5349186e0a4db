#!/usr/bin/env python3
"""The two clients of the ICE implementation guide, in Python with aiortc: exactly its HTTP calls and
messages, and nothing of Handout's. `type2` asks for a file, `type1` gives one. As the guide's Go
programs do, candidates are posted one by one and before the description, all signals are read again
and again, and a file is one `file-metadata` message and then messages of 16 KiB. Where no connection
comes about within `--fallback-after`, or it breaks, the file goes over the rendezvous's WebSocket.

Prints one JSON object per line, each with an `event`. Exit code 0 when a file has come, or gone."""
import argparse
import asyncio
import contextlib
import json
import os
import sys
import urllib.error
import urllib.request

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp
from websockets.asyncio.client import connect


def report(event, **keys):
    print(json.dumps({"event": event} | keys), flush=True)


class Server:
    def __init__(self, url, token):
        self.url, self.token = url, token

    def _call(self, method, path, body, expected):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": "Bearer " + self.token}
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == expected, f"{method} {path}: status {answer.status}, not {expected}"
            return json.load(answer)

    async def call(self, method, path, body=None, expected=200):
        return await asyncio.to_thread(self._call, method, path, body, expected)

    async def initiate(self, kind, parameters):
        # Keys and types as in RequestFileTransfer.
        session = await self.call("POST", "/api/ice/initiate", {
            "request_type": kind, "parameters": json.dumps(parameters), "file_name": f"{kind}_data.npz",
            "file_size": 0, "file_type": "application/octet-stream"}, 201)
        for key in ("session_id", "initiator_user_id", "target_user_id", "request_type", "parameters", "status"):
            assert isinstance(session[key], str), f"{key} is {session[key]!r}"
        return session

    async def signal(self, session, kind, data):
        answer = await self.call("POST", "/api/ice/signal", {"session_id": session, "signal_type": kind, "signal_data": data})
        assert isinstance(answer, dict), answer

    async def signals(self, session):
        signals = await self.call("GET", f"/api/ice/signals/{session}")
        assert isinstance(signals, list), signals
        for signal in signals:
            assert isinstance(signal["id"], int)
            for key in ("session_id", "signal_type", "signal_data", "from_client_id", "to_client_id"):
                assert isinstance(signal[key], str), f"{key} is {signal[key]!r}"
        return signals

    @contextlib.asynccontextmanager
    async def relay(self, session, reason):
        """The way over the rendezvous, once the other side has come there as well."""
        report("fallback", reason=reason)
        url = f"ws{self.url.removeprefix('http')}/api/ice/relay/{session}"
        async with connect(url, additional_headers={"Authorization": "Bearer " + self.token}, max_size=1 << 20) as socket:
            joined = json.loads(await asyncio.wait_for(socket.recv(), 60))
            assert joined["type"] == "joined", joined
            yield socket


async def describe(server, session, connection, kind):
    """Posts the candidates, each by itself, then the description, which has none."""
    sdp = connection.localDescription.sdp
    lines = sdp.splitlines()
    for line in lines:
        if line.startswith("a=candidate:"):
            await server.signal(session, "candidate", json.dumps(
                {"candidate": line[2:], "sdpMid": "", "sdpMLineIndex": 0, "usernameFragment": None}))
    bare = "\r\n".join(l for l in lines if not l.startswith(("a=candidate:", "a=end-of-candidates"))) + "\r\n"
    await server.signal(session, kind, json.dumps({"type": kind, "sdp": bare}))


async def wait_for(server, session, kind):
    async with asyncio.timeout(30):
        while True:
            await asyncio.sleep(1)
            for signal in await server.signals(session):
                if signal["signal_type"] == kind:
                    found = json.loads(signal["signal_data"])
                    if found.get("type") == kind:
                        return RTCSessionDescription(found["sdp"], kind)
                    report("refused", said=found)
                    raise ConnectionError(f"the provider said {found}")


async def candidates(server, session, connection):
    """Reads all signals every second and takes each candidate once."""
    seen = set()
    while True:
        await asyncio.sleep(1)
        for signal in await server.signals(session):
            if signal["signal_type"] == "candidate" and signal["signal_data"] not in seen:
                seen.add(signal["signal_data"])
                found = json.loads(signal["signal_data"])
                candidate = candidate_from_sdp(found["candidate"].removeprefix("candidate:"))
                candidate.sdpMLineIndex, candidate.sdpMid = 0, "0"
                await connection.addIceCandidate(candidate)


class Reception:
    """A file that comes, by whichever way."""

    def __init__(self, into):
        self.into, self.file, self.done = into, None, asyncio.get_running_loop().create_future()
        self.begin()

    def begin(self):
        """From its beginning, over a new way."""
        if self.file:
            self.file.close()
            os.remove(self.file.name)
        self.file, self.size, self.got, self.messages, self.largest = None, 0, 0, 0, 0

    def message(self, data):
        if isinstance(data, str):
            said = json.loads(data)
            if said["type"] == "file-metadata":
                self.name, self.size = said["filename"], said["size"]
                self.file = open(os.path.join(self.into, self.name), "xb")
                report("metadata", **said)
            elif not self.done.done():
                self.done.set_exception(ConnectionError(f"the provider said {said}"))
        else:
            self.file.write(data)
            self.got += len(data)
            self.messages += 1
            self.largest = max(self.largest, len(data))
        if self.file and self.got >= self.size and not self.done.done():
            self.file.close()
            self.done.set_result(None)


async def take(args, server, session, reception):
    """Over a connection of ours. Its way may break; what the provider says counts."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    opened, broken = asyncio.Event(), asyncio.Event()

    @connection.on("datachannel")
    def channel_opened(channel):
        report("open", label=channel.label)
        opened.set()

        @channel.on("message")
        def message(data):
            if not broken.is_set():
                reception.message(data)
            if args.break_at and reception.got >= args.break_at:
                broken.set()

    await connection.setRemoteDescription(await wait_for(server, session, "offer"))
    await connection.setLocalDescription(await connection.createAnswer())
    await describe(server, session, connection, "answer")
    polling = asyncio.create_task(candidates(server, session, connection))
    try:
        async with asyncio.timeout(args.fallback_after):
            await opened.wait()
        breaking = asyncio.create_task(broken.wait())
        await asyncio.wait([reception.done, breaking], timeout=90, return_when=asyncio.FIRST_COMPLETED)
        breaking.cancel()
        if not reception.done.done():
            raise TimeoutError
    finally:
        polling.cancel()
        await connection.close()


async def type2(args, server):
    session = (await server.initiate(args.kind, json.loads(args.parameters)))["session_id"]
    report("session", session=session)
    reception = Reception(args.into)
    try:
        await take(args, server, session, reception)
    except TimeoutError:
        reception.begin()
        async with server.relay(session, "broken" if args.break_at else "no connection") as socket, asyncio.timeout(90):
            while not reception.done.done():
                reception.message(await socket.recv())
    await reception.done
    report("received", name=reception.name, bytes=reception.got, messages=reception.messages, largest=reception.largest)


def pieces(path):
    with open(path, "rb") as file:
        while data := file.read(16384):
            yield data


def metadata(path):
    return json.dumps({"filename": os.path.basename(path), "size": os.path.getsize(path), "type": "file-metadata"})


async def give(args, server, session):
    """Over a connection of ours. A TimeoutError where there is none, or it breaks."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    channel = connection.createDataChannel("file-transfer")
    ready, closed = asyncio.Event(), asyncio.Event()
    channel.on("open", ready.set)
    channel.on("close", closed.set)
    await connection.setLocalDescription(await connection.createOffer())
    await describe(server, session, connection, "offer")
    await connection.setRemoteDescription(await wait_for(server, session, "answer"))
    polling = asyncio.create_task(candidates(server, session, connection))
    try:
        async with asyncio.timeout(args.fallback_after):
            await ready.wait()
        report("open", label=channel.label)
        channel.send(metadata(args.file))
        sent = 0
        for data in pieces(args.file):
            if args.break_at and sent >= args.break_at:
                raise TimeoutError
            while channel.bufferedAmount > 1 << 20:
                await asyncio.sleep(0.01)
            channel.send(data)
            sent += len(data)
        async with asyncio.timeout(60):
            while channel.bufferedAmount > 0 and not closed.is_set():
                await asyncio.sleep(0.05)
        report("sent", bytes=sent)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closed.wait(), 10)
    finally:
        polling.cancel()
        await connection.close()


async def give_relayed(args, server, session):
    async with server.relay(session, "broken" if args.break_at else "no connection") as socket, asyncio.timeout(90):
        await socket.send(metadata(args.file))
        for data in pieces(args.file):
            await socket.send(data)
        report("sent", bytes=os.path.getsize(args.file))
        await socket.wait_closed()


async def type1(args, server):
    report("listening")
    while True:
        for session in await server.call("GET", "/api/ice/sessions"):
            for key in ("session_id", "initiator_user_id", "target_user_id", "request_type", "parameters", "status"):
                assert isinstance(session[key], str), f"{key} is {session[key]!r}"
            if session["request_type"] == args.kind:
                parameters = json.loads(session["parameters"])
                report("session", session=session["session_id"], parameters=parameters)
                try:
                    await give(args, server, session["session_id"])
                except TimeoutError:
                    await give_relayed(args, server, session["session_id"])
                return
        await asyncio.sleep(args.every)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--token-file", required=True)
    parser.add_argument("--fallback-after", type=float, default=30, metavar="SECONDS", help="how long a connection is tried (%(default)s)")
    parser.add_argument("--break-at", type=int, metavar="BYTES", help="close the connection after so many, and go on over the rendezvous")
    verbs = parser.add_subparsers(dest="verb", required=True)
    two = verbs.add_parser("type2", help="ask for a file")
    two.add_argument("kind")
    two.add_argument("parameters", help="a JSON object")
    two.add_argument("--into", required=True, metavar="DIR")
    one = verbs.add_parser("type1", help="give a file to the first who asks")
    one.add_argument("kind")
    one.add_argument("file")
    one.add_argument("--every", type=float, default=5, help="seconds between looks for sessions (%(default)s)")
    args = parser.parse_args()
    with open(args.token_file) as file:
        server = Server(args.url, file.read().strip())
    try:
        asyncio.run({"type1": type1, "type2": type2}[args.verb](args, server))
    except urllib.error.HTTPError as error:
        report("error", why=f"{error}: {error.read().decode(errors='replace')[:300]}")
        return 1
    except Exception as error:
        report("error", why=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
