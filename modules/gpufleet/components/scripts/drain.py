"""Wait until the engine in this pod has no request left, or the drain's time is over.

Run by preStop: the endpoint is being removed from every proxy meanwhile, so a first quiet moment
says nothing before `settle` seconds have passed.
"""

import re
import sys
import time
import urllib.request

port, settle, longest = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
busy = re.compile(
    r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE
)
deadline = time.monotonic() + settle + longest
time.sleep(settle)
while time.monotonic() < deadline:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as response:
            if not sum(float(value) for value in busy.findall(response.read().decode())):
                break
    except OSError:
        break
    time.sleep(1)
