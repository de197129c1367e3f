"""Options that several commands have, with the same names, checks and words."""

import click

from service.delivery.signing import Signer
from service.development import DEV_SECRET

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def _signing_secret(_context: click.Context, _option: click.Parameter, text: str) -> str:
    try:
        Signer((text,))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return text


SECRET = click.option(
    "--secret",
    callback=_signing_secret,
    default=DEV_SECRET,
    show_default="the public one of the dev account",
    help="The signing secret of the account, whsec_….",
)
