"""`invoices spec`: the OpenAPI documents, without starting anything."""

import click
import orjson

from service.api.docs import as_yaml
from service.app.documents import document_of, receiver_document_of
from service.receiver.document import VERSIONS
from service.settings import read_settings


@click.command("spec")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "yaml"]),
    default="json",
    show_default=True,
    help="The format of the document.",
)
@click.option(
    "--receiver",
    "is_of_receiver",
    is_flag=True,
    help="Print the document of the API that receives the callbacks.",
)
@click.option(
    "--openapi",
    type=click.Choice(["3.0", "3.1"]),
    default="3.0",
    show_default=True,
    help="The version of OpenAPI of the receiver's document; that of the API is always 3.1.",
)
def spec_command(form: str, openapi: str, *, is_of_receiver: bool) -> None:
    """
    Print the OpenAPI document, without starting anything.

    A running service has it at http://127.0.0.1:8080/api/docs/openapi.json, and that of the
    receiver at http://127.0.0.1:8080/api/docs/receiver.json.
    """
    settings = read_settings()
    if is_of_receiver:
        (version,) = [one for one in VERSIONS if one.startswith(openapi)]
        document = receiver_document_of(settings, openapi=version)
    else:
        document = document_of(settings)
    if form == "yaml":
        click.echo(as_yaml(document), nl=False)
    else:
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
