#!/usr/bin/env python3
"""A Handout client that shares no code with Handout: Python and aiortc, written from docs/PROTOCOL.md.

Without --key it is a plain client (section 11), with --key a signed one. It does no discovery: it
dials, or is dialled as a static peer. Prints one JSON object per line, each with an `event`:
listening, offered, offer, open, verified, start, progress, complete, refused, error.
Exit codes: 0 complete, 1 error, 4 refused."""
import argparse
import asyncio
import json
import os
import sys

import link
import transfer
import wire


def report(event, **keys):
    print(json.dumps({"event": event} | keys), flush=True)


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--key", metavar="FILE", help="sign with this key (made when absent)")
    parser.add_argument("--id", default="plain-client", help="the id of a plain client")
    parser.add_argument("--authorize", metavar="ID", action="append", default=[], help="accept only these signed peers (default: all)")
    parser.add_argument("--allow-plain", action="store_true", help="with --key: accept peers without proof too")
    parser.add_argument("--loopback", action="store_true", help="offer 127.0.0.1 and nothing else")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for everything (%(default)s)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    receive = verbs.add_parser("receive", help="receive one bundle")
    receive.add_argument("--into", metavar="DIR", required=True)
    where = receive.add_mutually_exclusive_group(required=True)
    where.add_argument("--listen", metavar="HOST:PORT", type=address, help="wait for an offer (port 0: any)")
    where.add_argument("--dial", metavar="HOST:PORT", type=address, help="offer to this device")
    receive.add_argument("--peer-id", metavar="ID", help="who is dialled (needed with --key)")
    receive.add_argument("--die-after", metavar="BYTES", type=int, help="exit at once after this much payload")
    send = verbs.add_parser("send", help="send a file or folder (needs --key)")
    send.add_argument("path")
    where = send.add_mutually_exclusive_group(required=True)
    where.add_argument("--listen", metavar="HOST:PORT", type=address, help="wait for the receiver's offer")
    where.add_argument("--dial", metavar="HOST:PORT", type=address, help="offer to this device")
    send.add_argument("--peer-id", metavar="ID", help="who is dialled")
    send.add_argument("--corrupt", metavar="CHUNK", type=int, help="change a byte of this chunk, to be caught")
    verbs.add_parser("id", help="print the device id of --key")
    args = parser.parse_args()
    if args.verb in ("send", "id") and not args.key:
        parser.error(f"{args.verb} needs --key")
    if args.key and args.verb != "id" and args.dial and not args.peer_id:
        parser.error("--dial with --key needs --peer-id, since the proof names its reader")
    return args


async def link_by_listening(endpoint, where):
    """The first link that opens; connections that bring none are answered and forgotten."""
    links = asyncio.Queue()

    async def serve(reader, writer):
        try:
            found = await endpoint.accept(reader, writer)
        except Exception as error:  # whatever a stranger wrote
            report("error", why=repr(error))
            return
        if found:
            links.put_nowait(found)
    server = await asyncio.start_server(serve, *where)
    report("listening", device_id=endpoint.id, port=server.sockets[0].getsockname()[1])
    try:
        return await links.get()
    finally:
        server.close()


async def run(args):
    key = wire.Key(args.key) if args.key else None
    endpoint = link.Endpoint(key.id if key else args.id, key, args.authorize, args.allow_plain, report)
    if args.loopback:
        link.use_loopback()
    if args.verb == "id":
        return report("id", device_id=endpoint.id)
    if args.verb == "receive":
        os.makedirs(args.into, exist_ok=True)
    if args.listen:
        opened = await link_by_listening(endpoint, args.listen)
    else:
        opened = await endpoint.offer(*args.dial, args.peer_id)
    if args.verb == "send":
        task = transfer.Sender(opened, args.path, key, report, lie=args.corrupt)
    else:
        kind = transfer.SignedReceiver if key else transfer.PlainReceiver
        task = kind(opened, args.into, report, args.die_after)
    try:
        await task.run()
    except wire.Refused as error:
        if opened.channel.readyState == "open":
            opened.tell("CANCEL", handle=1, code="integrity", reason=str(error))
            await transfer.until_closed(opened)
        raise
    finally:
        await opened.close()


async def bounded(args):
    async with asyncio.timeout(args.timeout):
        await run(args)


def main():
    args = arguments()
    try:
        asyncio.run(bounded(args))
    except wire.Refused as error:
        report("refused", why=str(error))
        return 4
    except Exception as error:
        report("error", why=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
