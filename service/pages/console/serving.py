"""The routes of the console."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service.pages.console.contract import Contract
from service.pages.console.deliveries import Deliveries
from service.pages.console.delivery import Delivery
from service.pages.console.invoices import Invoices
from service.pages.console.overview import Overview
from service.pages.console.receivers import Receivers
from service.pages.console.rendering import Pages
from service.pages.console.screens import Screens
from service.pages.console.searching import Searching
from service.pages.console.signing_in import SigningIn
from service.pages.console.streams import Streams
from service.pages.console.visits import HOME
from service.pages.console.wiring import Console
from service.web.middlewares import ERROR_PAGES, EXPECT

GET, POST = hdrs.METH_GET, hdrs.METH_POST

Route = tuple[str, str, Handler]


def add_console(app: web.Application, console: Console) -> None:
    """Serve the console below /console."""
    pages, streams = Pages(console.public_path), Streams(console.streams_max, console.clock)
    screens = Screens(console, pages, streams)
    for method, path, handler in (*_around(console, pages, screens), *_screens(console, screens)):
        for form in _forms(HOME + path):
            app.router.add_route(method, form, handler, expect_handler=app[EXPECT])
            if method == GET:
                app.router.add_route(hdrs.METH_HEAD, form, handler, expect_handler=app[EXPECT])

    app[ERROR_PAGES][HOME] = screens.error_page

    async def warmed(_: web.Application) -> AsyncIterator[None]:
        warming = asyncio.create_task(_warm(pages))
        yield
        warming.cancel()
        await asyncio.gather(warming, return_exceptions=True)

    app.cleanup_ctx.append(warmed)

    async def stop(_: web.Application) -> None:
        streams.stop()

    app.on_shutdown.append(stop)


async def _warm(pages: Pages) -> None:
    """
    Compile the templates behind the first page that somebody is shown.

    The first look at each page would take 20 ms more. Compiled, all of them occupy 3 MiB, which a
    process does not need whose console nobody opens.
    """
    await pages.is_looked_at.wait()
    await pages.warm()


def _around(console: Console, pages: Pages, screens: Screens) -> Iterable[Route]:
    """Signing in and out, and the files that every page loads."""
    signing_in = SigningIn(console, pages, screens)
    guarded = screens.guarded
    return (
        (GET, "/sign-in", guarded(signing_in.show)),
        (POST, "/sign-in", guarded(signing_in.sign_in)),
        (POST, "/sign-out", guarded(signing_in.sign_out)),
        (GET, "/link/{token}", guarded(signing_in.show_link)),
        (POST, "/link/{token}", guarded(signing_in.take_link)),
        (GET, "/accounts", guarded(signing_in.choose)),
        (GET, "/assets/{digest}/{name}", guarded(pages.send_asset)),
    )


def _screens(console: Console, screens: Screens) -> Iterable[Route]:
    """The screens, in the order of the navigation, and what their forms do."""
    searching, deliveries, delivery = Searching(console), Deliveries(console), Delivery(console)
    receivers = Receivers(console)
    invoices, overview, contract = Invoices(console), Overview(console), Contract(console)
    showing, doing = screens.showing, screens.doing
    return (
        (GET, "/", showing(searching.show)),
        (GET, "/deliveries", showing(deliveries.show, is_live=True)),
        (GET, "/deliveries/redeliver", showing(deliveries.confirm)),
        (POST, "/deliveries/redeliver", doing(deliveries.redeliver)),
        (GET, "/deliveries/{id}", showing(delivery.show, is_live=True)),
        (POST, "/deliveries/{id}/redeliver", doing(delivery.redeliver)),
        (POST, "/deliveries/{id}/cancel", doing(delivery.cancel)),
        (GET, "/receivers", showing(receivers.show, is_live=True)),
        (POST, "/receivers/{id}/pause", doing(receivers.pause)),
        (POST, "/receivers/{id}/resume", doing(receivers.resume)),
        (POST, "/receivers/{id}/test", doing(receivers.test)),
        (GET, "/invoices", showing(invoices.show, is_live=True)),
        (GET, "/invoices/{id}", showing(invoices.show_one, is_live=True)),
        (GET, "/overview", showing(overview.show, is_live=True)),
        (GET, "/contract", showing(contract.show)),
        (POST, "/contract/check", doing(contract.check)),
    )


def _forms(path: str) -> tuple[str, str]:
    """The path with and without the slash at its end; an id may have any character in it."""
    pattern = path.replace("{id}", "{id:[^/]+}").rstrip("/")
    return pattern, f"{pattern}/"
