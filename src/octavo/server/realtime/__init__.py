"""Sessions over a WebSocket: speech is written down while it is spoken, and messages are answered."""
