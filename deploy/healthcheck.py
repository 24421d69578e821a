"""The image's health check: ends with 0 if the server answers, on port 8000 or the one in OCTAVO_PORT."""

import http.client
import os
import sys

try:
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("OCTAVO_PORT", "8000")), timeout=5)
    connection.request("GET", "/livez")
    sys.exit(connection.getresponse().status != 200)
except (OSError, ValueError, http.client.HTTPException) as error:
    sys.exit(f"no answer: {error}")
