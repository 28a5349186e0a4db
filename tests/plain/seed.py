#!/usr/bin/env python3
"""The two clients of the ICE implementation guide, in Python with aiortc: exactly its HTTP calls and
messages, and nothing of Handout's. `type2` asks for a file, `type1` gives one. As the guide's Go
programs do, candidates are posted one by one and before the description, all signals are read again
and again, and a file is one `file-metadata` message and then messages of 16 KiB.

Prints one JSON object per line, each with an `event`. Exit code 0 when a file has come, or gone."""
import argparse
import asyncio
import json
import os
import sys
import urllib.error
import urllib.request

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp


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


async def type2(args, server):
    session = (await server.initiate(args.kind, json.loads(args.parameters)))["session_id"]
    report("session", session=session)
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    done = asyncio.get_running_loop().create_future()
    state = {"file": None, "size": 0, "got": 0, "messages": 0, "largest": 0}

    @connection.on("datachannel")
    def opened(channel):
        report("open", label=channel.label)

        @channel.on("message")
        def message(data):
            if isinstance(data, str):
                said = json.loads(data)
                if said["type"] == "file-metadata":
                    state.update(name=said["filename"], size=said["size"])
                    state["file"] = open(os.path.join(args.into, said["filename"]), "xb")
                    report("metadata", **said)
                elif not done.done():
                    done.set_exception(ConnectionError(f"the provider said {said}"))
            else:
                state["file"].write(data)
                state["got"] += len(data)
                state["messages"] += 1
                state["largest"] = max(state["largest"], len(data))
            if state["file"] and state["got"] >= state["size"] and not done.done():
                state["file"].close()
                done.set_result(None)

    offer = await wait_for(server, session, "offer")
    await connection.setRemoteDescription(offer)
    await connection.setLocalDescription(await connection.createAnswer())
    await describe(server, session, connection, "answer")
    polling = asyncio.create_task(candidates(server, session, connection))
    try:
        async with asyncio.timeout(90):
            await done
    finally:
        polling.cancel()
        await connection.close()
    report("received", name=state["name"], bytes=state["got"], messages=state["messages"], largest=state["largest"])


async def give(server, session, path):
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    channel = connection.createDataChannel("file-transfer")
    ready = asyncio.get_running_loop().create_future()
    channel.on("open", lambda: ready.set_result(None))
    await connection.setLocalDescription(await connection.createOffer())
    await describe(server, session, connection, "offer")
    await connection.setRemoteDescription(await wait_for(server, session, "answer"))
    polling = asyncio.create_task(candidates(server, session, connection))
    try:
        async with asyncio.timeout(30):
            await ready
        report("open", label=channel.label)
        size = os.path.getsize(path)
        channel.send(json.dumps({"filename": os.path.basename(path), "size": size, "type": "file-metadata"}))
        closed = asyncio.Event()
        channel.on("close", closed.set)
        with open(path, "rb") as file:
            while data := file.read(16384):
                while channel.bufferedAmount > 1 << 20:
                    await asyncio.sleep(0.01)
                channel.send(data)
        async with asyncio.timeout(60):
            while channel.bufferedAmount > 0 and not closed.is_set():
                await asyncio.sleep(0.05)
        report("sent", bytes=size)
        async with asyncio.timeout(10):
            await closed.wait()
    except TimeoutError:
        if not ready.done():
            raise
    finally:
        polling.cancel()
        await connection.close()


async def type1(args, server):
    report("listening")
    while True:
        for session in await server.call("GET", "/api/ice/sessions"):
            for key in ("session_id", "initiator_user_id", "target_user_id", "request_type", "parameters", "status"):
                assert isinstance(session[key], str), f"{key} is {session[key]!r}"
            if session["request_type"] == args.kind:
                parameters = json.loads(session["parameters"])
                report("session", session=session["session_id"], parameters=parameters)
                await give(server, session["session_id"], args.file)
                return
        await asyncio.sleep(args.every)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--token-file", required=True)
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
