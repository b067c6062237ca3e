"""Exit 0 once the engine in this pod has produced a token; run by the startup probe."""

import json
import sys
import urllib.request

model, port = sys.argv[1], sys.argv[2]
body = json.dumps({"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0})
request = urllib.request.Request(
    f"http://127.0.0.1:{port}/v1/completions",
    data=body.encode(),
    headers={"Content-Type": "application/json"},
)
with urllib.request.urlopen(request, timeout=4) as response:  # noqa: S310 - a fixed scheme
    sys.exit(0 if json.load(response)["usage"]["completion_tokens"] >= 1 else 1)
