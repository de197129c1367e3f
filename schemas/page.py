"""Pagination by cursor: items that are added between two pages cause no repeats and no gaps."""

from marshmallow import RAISE, Schema, fields, validate

from schemas.documented import documented
from schemas.fields import Text, WholeNumber

LIMIT_MAX = 200


class PageQuerySchema(Schema):
    """The query parameters of a page."""

    class Meta:
        """Closed: an undeclared parameter is refused, because it is probably a misspelled name."""

        unknown = RAISE

    after = Text(
        validate=validate.Length(min=1, max=200),
        metadata=documented("Cursor: the `next` of the previous page. Without it, the first page."),
    )
    limit = WholeNumber(
        load_default=50,
        validate=validate.Range(1, LIMIT_MAX),
        metadata=documented("Maximum number of items on a page. A page may have fewer."),
    )


def next_cursor() -> fields.String:
    """The field `next` of a page."""
    return fields.String(
        allow_none=True,
        metadata=documented(
            "Cursor: pass it as `after` to get the next page; null on the last. A page that is not "
            "the last may have fewer items than `limit`, or none: it has looked at so many that do "
            "not match, or they are large.",
            example=None,
        ),
    )
