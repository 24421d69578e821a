"""The module names that people start a server with: `python -m octavo.entrypoints.openai.api_server --model …`."""
