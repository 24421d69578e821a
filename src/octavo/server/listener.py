"""The listening socket, bound before anything slow is imported."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import struct

from octavo.errors import ConfigError
from octavo.option_files import check_file
from octavo.server.options import ServerConfig

BACKLOG = 2048

# A socket filter (BPF) that drops what would begin a connection: TCP segments with SYN and without ACK.
SO_ATTACH_FILTER = 26  # of Linux, which Python does not name
FILTER = (
    (0x30, 0, 0, 13),  # load the byte of flags of the TCP header
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # if SYN is alone
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 1 << 18),  # else accept
)


def bind(config: ServerConfig) -> socket.socket:
    """Listens on what `config` says. Raises ConfigError if the address or the certificate can't be had."""
    _check_tls(config)
    if config.uds is not None:
        return _bind_unix(config.uds)
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = f"can't listen on {config.host:.100}: {getattr(error, 'strerror', None) or error}"
        raise ConfigError("port", config.port, reason) from None
    return listener


def _bind_unix(path: str) -> socket.socket:
    """Only this user may connect. The socket of a server that is gone is replaced, another file never."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError("uds", path, f"can't listen there: {error.strerror or error}") from None
    return listener


def drop_new_connections(listener: socket.socket) -> None:
    """From now on nobody can connect, but who has connected is still accepted.

    When a listener is closed, the system resets connections that wait in it, and their clients can't know whether a
    request has begun. Whoever is dropped here tries again a second later, as TCP does, and is refused by then, which is
    clear. Unix sockets, and systems without such filters, go on as they were.
    """
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in FILTER)
    memory = ctypes.create_string_buffer(program, len(program))
    if listener.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            described = struct.pack("HP", len(FILTER), ctypes.addressof(memory))
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)


def _check_tls(config: ServerConfig) -> None:
    if config.ssl_certfile is None:
        return
    import ssl

    for option in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
        if (file := getattr(config, option)) is not None:
            check_file(option, file)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
        if config.ssl_ca_certs is not None:
            context.load_verify_locations(config.ssl_ca_certs)
    except (OSError, ValueError) as error:
        raise ConfigError("ssl_certfile", config.ssl_certfile, f"can't be used: {error}") from None


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0


def address(config: ServerConfig, listener: socket.socket) -> str:
    """Where the server is, as a URL; the socket's path for a Unix socket."""
    if config.uds is not None:
        return config.uds
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{'https' if config.ssl_certfile else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
