"""What is printed on a terminal that others have written."""


def printable(text: str) -> str:
    """*text* without characters that a terminal would obey, but line breaks."""
    return "".join(
        one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text
    )
