"""The checks of the first event, and of the connection that it comes over."""

from service.receiver.caller import Call, Missing, NoReply, Reply
from service.receiver.check import OTHER_SECRET
from service.receiver.judging import Finding, Run, Skipped, answered


async def connection(run: Run) -> Finding | None:
    """A connection can be made, whatever is answered over it."""
    call, reply = await run.first()
    if isinstance(reply, NoReply) and reply.missing is Missing.CONNECTION:
        return Finding(
            cause=f"No request arrived: {reply.detail}.",
            mending="Start the receiver, and check the host, the port, DNS and the firewall.",
            call=call,
        )
    return None


async def tls(run: Run) -> Finding | Skipped | None:
    """The certificate is accepted, with its chain."""
    if run.requests.target.scheme != "https":
        return Skipped("the URL is http://, which a service refuses outside of development")
    call, reply = await run.first()
    if isinstance(reply, NoReply) and reply.missing is Missing.TLS:
        return Finding(
            cause=f"The connection is not trusted: {reply.detail}.",
            mending="Use a certificate for this host from a public authority, and send the whole"
            " chain with it.",
            call=call,
        )
    return None


async def event_paid(run: Run) -> Finding | None:
    """An event is accepted."""
    call, reply = await run.first()
    is_unauthorized = isinstance(reply, Reply) and reply.status_code in (401, 403)
    mending = (
        "Give check-receiver the signing secret that the receiver has, with --secret, and verify"
        " the bytes of the body as they arrived."
        if is_unauthorized
        else "Serve the path of the callback below this URL, and answer as declared."
    )
    return run.judge(call, reply, "A correct event", mending)


async def keep_alive(run: Run) -> Finding | Skipped | None:
    """Requests follow each other on one connection, one that is refused among them."""
    forged = run.requests.event(secrets=(OTHER_SECRET,))
    calls = (run.requests.event(), run.requests.event(), forged, run.requests.event())
    async with run.caller.kept_connection() as send:
        for number, call in enumerate(calls, 1):
            reply = await send(call)
            if cause := _broken(run, call, reply, is_refused=call is forged, number=number):
                return Finding(
                    cause=f"Request {number} on a kept connection: {cause}.",
                    mending="Read the whole body of each request before you answer it, and say"
                    " Connection: close in the answer before you close a connection.",
                    call=call,
                    count=number,
                )
            if isinstance(reply, Reply) and reply.is_truncated:
                return None
            if isinstance(reply, Reply) and reply.is_closing:
                if call is forged:
                    return None
                return Skipped("the receiver closes each connection: allowed, and slow with TLS")
    return None


def _broken(
    run: Run, call: Call, reply: Reply | NoReply, *, is_refused: bool, number: int
) -> str | None:
    """What is wrong with the connection on which *reply* came, if anything."""
    if isinstance(reply, Reply) and reply.is_first and number > 1:
        return "the receiver had closed it, and did not say so"
    if isinstance(reply, NoReply) or not (is_refused or run.is_accepted(reply)):
        return answered(reply)
    return None
