"""What keeps the web server from starting. Raised by `server` and `tls`, shown by the command line as it is."""


class ListenError(OSError):
    """The address or the certificate cannot be used; the message says why and what to change."""
