"""How lists are paged: by a cursor, so that what arrives meanwhile neither repeats nor skips."""

from __future__ import annotations

from marshmallow import RAISE, Schema, validate

from schemas.fields import Text, WholeNumber

LIMIT_MAX = 200


class PageQuerySchema(Schema):
    """Which page of a list."""

    class Meta:
        """Closed: what is not declared is refused, because it is most likely a typing mistake."""

        unknown = RAISE

    after = Text(
        validate=validate.Length(min=1, max=200),
        metadata={
            "description": "The `next` of the page before; left out, the first page.",
        },
    )
    limit = WholeNumber(
        load_default=50,
        validate=validate.Range(1, LIMIT_MAX),
        metadata={"description": "How many items a page has at most."},
    )
