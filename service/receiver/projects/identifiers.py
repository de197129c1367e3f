"""Names of a document as identifiers of a program."""

import keyword
import re

RESERVED = frozenset(keyword.kwlist) | frozenset(
    re.findall(
        r"\w+",
        """
        abstract any append arguments assert body bool boolean break byte case catch chan char class
        clone const continue copy db debugger default defer delete dict do double else enum error
        eval event export extends fallthrough false final finalize finally float for func function
        getClass go goto hashCode headers if implements import in instanceof int interface json len
        let long make map native new nil notify notifyAll null package panic present private
        protected public range read record request response return schema select self short static
        strictfp string struct super switch synchronized this throw throws toString transient true
        try tx type typeof values var void volatile wait while with yield
        """,
    )
)
"""Words that are reserved in one of the languages, or that a template uses for something else."""


def pascal(name: str) -> str:
    """*name* as the name of a type: `invoice_event` becomes `InvoiceEvent`."""
    words = re.findall(r"[A-Za-z0-9]+", name)
    joined = "".join(word[:1].upper() + word[1:] for word in words)
    return joined if joined[:1].isalpha() else f"X{joined}"


def camel(name: str) -> str:
    """*name* as the name of a value: `invoice_id` becomes `invoiceId`."""
    joined = pascal(name)
    return _unreserved(joined[:1].lower() + joined[1:])


def snake(name: str) -> str:
    """*name* as the name of a value, with underscores: `invoice-id` becomes `invoice_id`."""
    joined = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return _unreserved(joined if joined[:1].isalpha() else f"x_{joined}")


def _unreserved(name: str) -> str:
    return f"{name}_" if name in RESERVED else name
