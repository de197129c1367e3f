"""The results of a conformance run as JSON, as JUnit's XML, and each failure as a curl command."""

import shlex
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from service.receiver.caller import Call
from service.receiver.conformance import Result, Status, conforms
from service.receiver.judging import Finding

CUT = "…"


def as_object(url: str, results: Sequence[Result]) -> dict[str, Any]:
    """The results as an object of JSON."""
    return {
        "conforms": conforms(results),
        "url": url,
        "checks": [
            {
                "name": one.name,
                "status": one.status.value,
                "cause": one.cause,
                "mending": one.finding and one.finding.mending,
                "curl": one.finding and curl_of(one.finding),
                "duration_ms": one.duration_ms,
            }
            for one in results
        ],
    }


def as_junit(url: str, results: Sequence[Result]) -> bytes:
    """The results as a test suite in the XML of JUnit."""
    counts = [sum(one.status is status for one in results) for status in Status]
    seconds = sum(one.duration_ms for one in results) / 1000
    suite = ElementTree.Element(
        "testsuite",
        name=f"check-receiver {url}",
        tests=str(len(results)),
        failures=str(counts[1]),
        errors="0",
        skipped=str(counts[2]),
        time=f"{seconds:.3f}",
    )
    for one in results:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname="check-receiver",
            name=one.name,
            time=f"{one.duration_ms / 1000:.3f}",
        )
        if one.finding:
            failure = ElementTree.SubElement(case, "failure", message=_xml_text(one.cause or ""))
            failure.text = _xml_text(f"{one.finding.mending}\n{curl_of(one.finding)}")
        elif one.status is Status.SKIPPED:
            ElementTree.SubElement(case, "skipped", message=one.cause or "")
    text: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _xml_text(text: str) -> str:
    """*text* without the characters that XML cannot have."""
    return "".join(one if one.isprintable() or one == "\n" else CUT for one in text)


def curl_of(finding: Finding) -> str:
    """The command that shows *finding*; its signature is valid for five minutes."""
    command = _curl(finding.call)
    if finding.count == 1:
        return command
    numbers = " ".join(map(str, range(1, finding.count + 1)))
    if finding.is_parallel:
        return f"for n in {numbers}; do {command} & done; wait"
    return f"for n in {numbers}; do {command}; done"


def _curl(call: Call) -> str:
    parts = ["curl", "-i", "-X", call.method, call.url]
    for name, text in call.headers.items():
        parts += ["-H", f"{name}: {text}"]
    if call.is_chunked:
        parts += ["-H", "Transfer-Encoding: chunked"]
    parts += ["--data-binary", call.body.decode("utf-8", "replace")]
    return " ".join(map(shlex.quote, parts))
