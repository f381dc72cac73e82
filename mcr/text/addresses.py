"""An address with its port, as operators write them."""


def with_port(address: object, port: object) -> str:
    """``239.1.1.1:5000``, ``[ff15::1]:5000`` (RFC 5952, 6)."""
    return f"{bracketed(address)}:{port}"


def bracketed(address: object) -> str:
    """What may stand beside a colon."""
    text = str(address)
    return f"[{text}]" if ":" in text else text
