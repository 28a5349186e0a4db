#!/usr/bin/env python3
"""Schemathesis makes requests from the rendezvous's own description (/openapi.json), right ones and wrong
ones, with a token of each kind and with none: no answer may be a server's error, none may be of another
form than the description says, and the server is as well afterwards as before."""
import argparse
import json
import os
import subprocess
import sys
import urllib.request

from handout import PROGRAM, scratch, script

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# Long polls would wait for something that nobody says.
HOOKS = """
import schemathesis

@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.query, dict) and str(case.query.get("wait")) in {str(wait) for wait in range(2, 31)}:
        case.query["wait"] = 1
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=40, help="of each request (%(default)s)")
    args = parser.parse_args()
    with scratch() as folder:
        state = os.path.join(folder, "state")
        settings = ["--set=rendezvous.serve.bind=127.0.0.1:0", "--set=rendezvous.serve.user_rate=1000000",
                    "--set=rendezvous.serve.address_rate=1000000", "--set=rendezvous.serve.max_sessions=1000000"]
        command = [PROGRAM, "--state", state, "--json", *settings, "rendezvous"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            url = json.loads(server.stdout.readline())["url"]
            with open(os.path.join(folder, "hooks.py"), "w") as file:
                file.write(HOOKS)
            for kind in ["1", "2", "device", None]:
                headers = []
                if kind is not None:
                    made = subprocess.run([*command, "token", "--subject", "fuzz", "--client-type", kind],
                                          stdout=subprocess.PIPE, check=True, text=True)
                    token = json.loads(made.stdout.splitlines()[0])["token"]
                    headers = ["--header", f"Authorization: Bearer {token}"]
                tool = os.path.join(os.path.dirname(sys.executable), "schemathesis")
                done = subprocess.run([tool, "run", f"{url}/openapi.json", "--url", url, *headers, "--checks", CHECKS,
                                       "--max-examples", str(args.examples), "--request-timeout", "60", "--seed", "7",
                                       "--phases", "examples,coverage,fuzzing", "--workers", "1", "--no-color"],
                                      cwd=folder, env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": folder},
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                assert done.returncode == 0, f"client type {kind}:\n{done.stdout[-8000:]}"
                print(f"client type {kind}:", done.stdout.strip().splitlines()[-1])
            with urllib.request.urlopen(f"{url}/health") as health:
                assert json.load(health) == {"ok": True}
            server.terminate()
            assert server.wait(30) == 0
        finally:
            server.kill()


if __name__ == "__main__":
    script(main)
