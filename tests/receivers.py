"""
Receivers with one defect each, and sound ones.

`Sound` does everything right, one step in each method; a defect overrides one of them.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from datetime import UTC, datetime
from urllib.parse import unquote

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from service.development import DEV_SECRET

SLOW_SECONDS = 0.02
REFUSED = (WebhookVerificationError, ValueError)


class Sound:
    """A receiver that does everything right."""

    def __init__(self):
        self.processed = {}
        self.webhook = Webhook(DEV_SECRET)

    def application(self):
        """The application that serves every path below `/invoices/`."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self.receive)
        return app

    async def receive(self, request):
        """One request, from the route to the answer."""
        if not (found := re.fullmatch(self.route(), self.path(request))):
            return web.json_response({"error": "not found"}, status=404)
        body = await self.read(request)
        try:
            self.verify(body, self.headers(request))
        except REFUSED as error:
            return self.refuse(error)
        try:
            event = json.loads(body)
        except ValueError:
            return self.malformed()
        if refusal := self.judge(event, request):
            return refusal
        if event["invoice_id"] != self.decoded(found[1]):
            return web.json_response({"error": "the path has another invoice"}, status=400)
        return await self.process(request, event)

    def route(self):
        """The pattern of the paths that are served."""
        return "/invoices/([^/]+)"

    def path(self, request):
        """The path as it arrived."""
        return request.raw_path

    def decoded(self, segment):
        """The id of the invoice in the path."""
        return unquote(segment)

    async def read(self, request):
        """The body."""
        return await request.read()

    def headers(self, request):
        """The headers, whose names ignore case."""
        return dict(request.headers)

    def verify(self, body, headers):
        """Raise an error unless the request is authentic."""
        self.webhook.verify(body, headers, json_parse=False)

    def refuse(self, error):
        """The answer to a request that is not authentic."""
        return web.json_response({"error": str(error)}, status=401)

    def malformed(self):
        """The answer to a body that is not JSON."""
        return web.json_response({"error": "not JSON"}, status=400)

    def judge(self, event, request):
        """A refusal of an event, if there is a reason."""

    async def process(self, request, event):
        """Process an event once, and answer."""
        self.processed.setdefault(request.headers["webhook-id"], event)
        return await self.answer()

    async def answer(self):
        """The acknowledgement."""
        return web.json_response({"ok": True})


# --- The other sound ones.


class AnswersMore(Sound):
    """Answers 201, with more fields and a charset, and closes each connection."""

    async def answer(self):
        answer = web.json_response({"ok": True, "seen": 1}, status=201)
        answer.force_close()
        return answer


class Strict(Sound):
    """Refuses with other statuses, and without a body."""

    def refuse(self, error):
        return web.Response(status=403)

    def malformed(self):
        return web.Response(status=422)


class WithMark(Sound):
    """Answers with a byte order mark and blanks, and another type of JSON."""

    async def answer(self):
        body = b'\xef\xbb\xbf {"ok": true}\n'
        return web.Response(body=body, content_type="application/vnd.shop+json")


SOUND = {one.__name__: one for one in (Sound, AnswersMore, Strict, WithMark)}


# --- One defect each, and the checks that have to fail.


class Broken(Sound):
    async def answer(self):
        return web.Response(status=500)


class Redirects(Sound):
    async def receive(self, request):
        return web.Response(status=308, headers={"Location": "/elsewhere"})


class WrongPath(Sound):
    def route(self):
        return "/invoice/([^/]+)"


class OtherSecret(Sound):
    def __init__(self):
        super().__init__()
        self.webhook = Webhook("whsec_c29tZSBvdGhlciBzZWNyZXQgb2Ygc29tZSBvbmU=")


class TakesPaidOnly(Sound):
    def judge(self, event, request):
        return None if event["paid"] else web.Response(status=422)


class RefusesUnknownFields(Sound):
    def judge(self, event, request):
        known = {"description", "paid", "invoice_id"}
        return web.Response(status=400) if event.keys() - known else None


class VerifiesParsedBody(Sound):
    def verify(self, body, headers):
        try:
            body = json.dumps(json.loads(body), separators=(",", ":")).encode()
        except ValueError:
            return
        super().verify(body, headers)

    def malformed(self):
        return web.Response(status=400)


class WantsLength(Sound):
    async def read(self, request):
        if request.content_length is None:
            raise web.HTTPLengthRequired
        return await request.read()


class WantsLowerCase(Sound):
    def headers(self, request):
        return {
            name.decode(): text.decode() for name, text in request.raw_headers if name.islower()
        }


class FirstSignatureOnly(Sound):
    def headers(self, request):
        headers = {name.lower(): text for name, text in request.headers.items()}
        first = headers.get("webhook-signature", "").split(" ")[0]
        return headers | {"webhook-signature": first}


class LastSignatureOnly(Sound):
    def headers(self, request):
        headers = {name.lower(): text for name, text in request.headers.items()}
        last = headers.get("webhook-signature", "").split(" ")[-1]
        return headers | {"webhook-signature": last}


class Trusting(Sound):
    def verify(self, body, headers):
        pass

    def malformed(self):
        return web.Response(status=400)


class SignsHeadersOnly(Sound):
    """Accepts what carries a good signature of some body with the same id and timestamp."""

    def verify(self, body, headers):
        body = body.replace(b"~", b"d", 1)
        super().verify(body, headers)


class CrashesOnForgery(Sound):
    def refuse(self, error):
        return web.Response(status=500)


class TakesUnsigned(Sound):
    def verify(self, body, headers):
        if "webhook-signature" in {name.lower() for name in headers}:
            super().verify(body, headers)


class Timeless(Sound):
    """Verifies everything but the timestamp, as far as *is_accepted* says."""

    def is_accepted(self, age):
        raise NotImplementedError

    def verify(self, body, headers):
        headers = {name.lower(): text for name, text in headers.items()}
        timestamp = headers.get("webhook-timestamp", "0")
        age = datetime.now(UTC).timestamp() - int(timestamp)
        if 300 < abs(age) < 1000 and self.is_accepted(age):
            at = datetime.fromtimestamp(int(timestamp), UTC)
            signed = self.webhook.sign(headers["webhook-id"], at, body.decode())
            if signed == headers["webhook-signature"]:
                return
        super().verify(body, headers)


class TakesOld(Timeless):
    def is_accepted(self, age):
        return age > 0


class TakesFuture(Timeless):
    def is_accepted(self, age):
        return age < 0


class CrashesOnMalformed(Sound):
    def malformed(self):
        return web.Response(status=500)


class TakesMalformed(Sound):
    def malformed(self):
        return web.json_response({"ok": True})


class DecodesFirst(Sound):
    def path(self, request):
        return unquote(request.raw_path)

    def decoded(self, segment):
        return segment


class NoBraces(Sound):
    def route(self):
        return "/invoices/((?:(?!%7B|%7D|/).)+)"


class AsciiIds(Sound):
    def route(self):
        return "/invoices/((?:(?!%[89A-F]|/).)+)"


class DecodesTwice(Sound):
    def path(self, request):
        return "/invoices/" + unquote(unquote(request.raw_path.rpartition("/")[2]))

    def route(self):
        return "/invoices/([^%]+)"


class NoBlanks(Sound):
    def route(self):
        return "/invoices/((?:(?!%20|/).)+)"


class RefusesRepeated(Sound):
    async def process(self, request, event):
        if request.headers["webhook-id"] in self.processed:
            return web.Response(status=409)
        return await super().process(request, event)


class Races(Sound):
    """Looks for the id first and inserts it later, under a unique index."""

    async def process(self, request, event):
        webhook_id = request.headers["webhook-id"]
        if webhook_id not in self.processed:
            await asyncio.sleep(0.01)
            if webhook_id in self.processed:
                return web.Response(status=500)
        return await super().process(request, event)


class LeavesHalf(Sound):
    """Marks an event as begun, and never ends it if the connection is lost."""

    def __init__(self):
        super().__init__()
        self.begun = set()

    async def process(self, request, event):
        webhook_id = request.headers["webhook-id"]
        for _ in range(60):
            if webhook_id not in self.begun:
                break
            await asyncio.sleep(0.01)
        else:
            return web.Response(status=503)
        self.begun.add(webhook_id)
        # Cancelled where the connection is lost.
        await asyncio.sleep(0.05)
        self.begun.discard(webhook_id)
        return await super().process(request, event)


class OncePerInvoice(Sound):
    """Takes any second event of an invoice for a repetition, and refuses it."""

    async def process(self, request, event):
        if request.raw_path in self.processed:
            known = self.processed[request.raw_path] == request.headers["webhook-id"]
            return await self.answer() if known else web.Response(status=409)
        self.processed[request.raw_path] = request.headers["webhook-id"]
        return await self.answer()


class SaysNoToRepeated(Sound):
    async def process(self, request, event):
        if request.headers["webhook-id"] in self.processed:
            return web.json_response({"ok": False})
        return await super().process(request, event)


class NoBodyForUnpaid(Sound):
    def judge(self, event, request):
        return None if event["paid"] else web.Response(status=204)


class HangsOnRepeated(Sound):
    async def process(self, request, event):
        if request.headers["webhook-id"] in self.processed:
            await asyncio.sleep(60)
        return await super().process(request, event)


class WantsOrder(Sound):
    def judge(self, event, request):
        timestamp = int(request.headers["webhook-timestamp"])
        latest = self.processed.setdefault(request.raw_path, timestamp)
        return web.Response(status=409) if timestamp < latest else None


class ClosesSilently(Sound):
    async def process(self, request, event):
        answer = await super().process(request, event)
        await answer.prepare(request)
        await answer.write_eof()
        request.transport.close()
        return answer


class AnswersText(Sound):
    async def answer(self):
        return web.Response(text='{"ok": true}')


class SaysNo(Sound):
    async def answer(self):
        return web.json_response({"ok": False})


class SaysTextTrue(Sound):
    async def answer(self):
        return web.json_response({"ok": "true"})


class AnswersPage(Sound):
    async def answer(self):
        return web.json_response("<html>Welcome</html>")


class AnswersMuch(Sound):
    async def answer(self):
        return web.json_response({"ok": True, "log": "x" * 100_000})


class Compresses(Sound):
    async def answer(self):
        return web.Response(
            body=gzip.compress(b'{"ok": true}'),
            headers={"Content-Encoding": "gzip"},
            content_type="application/json",
        )


class Slow(Sound):
    async def answer(self):
        await asyncio.sleep(SLOW_SECONDS)
        return await super().answer()


class Hangs(Sound):
    async def answer(self):
        await asyncio.sleep(60)


class HangsOnForgery(Sound):
    async def receive(self, request):
        answer = await super().receive(request)
        if answer.status == 401:
            await asyncio.sleep(60)
        return answer


DEFECTS = {
    Broken: {"event_paid"},
    Redirects: {"event_paid"},
    WrongPath: {"event_paid"},
    OtherSecret: {"event_paid"},
    TakesPaidOnly: {"event_not_paid", "second_event", "turned_order"},
    NoBodyForUnpaid: {"event_not_paid", "second_event", "turned_order"},
    RefusesUnknownFields: {"unknown_field"},
    VerifiesParsedBody: {"body_bytes", "id_not_ascii"},
    WantsLength: {"chunked_body"},
    WantsLowerCase: {"header_case"},
    FirstSignatureOnly: {"two_signatures"},
    LastSignatureOnly: {"two_signatures"},
    Trusting: {
        *("wrong_signature", "changed_byte", "timestamp_too_old", "timestamp_ahead"),
        *("without_webhook-timestamp", "without_webhook-signature"),
        "without_webhook-id",
    },
    SignsHeadersOnly: {"changed_byte"},
    CrashesOnForgery: {
        *("wrong_signature", "changed_byte", "timestamp_too_old", "timestamp_ahead"),
        *("without_webhook-id", "without_webhook-timestamp", "without_webhook-signature"),
    },
    TakesUnsigned: {"without_webhook-signature"},
    TakesOld: {"timestamp_too_old"},
    TakesFuture: {"timestamp_ahead"},
    CrashesOnMalformed: {"malformed_json"},
    TakesMalformed: {"malformed_json"},
    DecodesFirst: {"id_with_slash"},
    NoBraces: {"id_with_braces"},
    AsciiIds: {"id_not_ascii"},
    DecodesTwice: {"id_with_percent"},
    NoBlanks: {"id_with_blank"},
    RefusesRepeated: {"repeated_event", "repeated_at_once", "repeated_after_cut"},
    SaysNoToRepeated: {"repeated_event", "repeated_at_once", "repeated_after_cut"},
    HangsOnRepeated: {"repeated_event", "repeated_at_once", "repeated_after_cut"},
    OncePerInvoice: {"second_event", "turned_order"},
    Races: {"repeated_at_once"},
    LeavesHalf: {"repeated_after_cut"},
    WantsOrder: {"turned_order"},
    ClosesSilently: {"keep_alive"},
    AnswersText: {"answer_content_type"},
    SaysNo: {"answer_body"},
    SaysTextTrue: {"answer_body"},
    AnswersPage: {"answer_body"},
    AnswersMuch: {"answer_size"},
    Compresses: {"answer_body"},
    Slow: {"answer_time"},
    Hangs: {"event_paid", "answer_time"},
}
"""Receivers and the names of the checks that fail for them."""
