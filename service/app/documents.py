"""The OpenAPI documents that a service with given settings serves; nothing is started."""

from collections.abc import Sequence
from typing import Any

from service import __version__
from service.api.application import OPERATIONS
from service.api.callbacks import example_exchange
from service.api.hosted_pages import HOSTED_PAGES
from service.api.openapi import build_document
from service.api.operations import Operation
from service.receiver.document import Promise, Version, build_receiver_document
from service.settings import Settings


def document_of(
    settings: Settings,
    operations: Sequence[Operation] = OPERATIONS,
    *,
    is_development: bool = False,
) -> dict[str, Any]:
    """
    The OpenAPI document, without starting anything; in development no operation needs a key.

    Raises:
        DeclarationError: if a callback uses what its operation does not declare.
    """
    return build_document(
        operations,
        version=__version__,
        public_url=settings.public_url,
        callback_timeout=settings.callback_timeout,
        is_strict=settings.receiver_contract == "strict",
        is_development=is_development,
        pages=HOSTED_PAGES,
    )


def receiver_document_of(
    settings: Settings,
    operations: Sequence[Operation] = OPERATIONS,
    *,
    openapi: Version = "3.0.3",
) -> dict[str, Any]:
    """
    The document of the API that receives the callbacks of *operations*, without starting anything.

    Raises:
        DeclarationError: if the expression of a callback cannot be turned round.
    """
    return build_receiver_document(
        (
            Promise(callback, example_exchange(operation))
            for operation in operations
            for callback in operation.callbacks
        ),
        version=__version__,
        timeout=settings.callback_timeout,
        is_strict=settings.receiver_contract == "strict",
        openapi=openapi,
    )
