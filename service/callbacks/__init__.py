"""
The heart of the service: callbacks as declarations, and the runtime expressions in them.

It knows no web server and no database.
"""

from service.callbacks.declaration import Callback, DeclaredOperation, InvalidAnswer
from service.callbacks.exchange import ABSENT, Exchange, Message
from service.callbacks.expression import Expression, Template
from service.callbacks.grammar import parse_expression, parse_template
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.callbacks.url import CallbackUrl, parse_url

__all__ = [
    "ABSENT",
    "INVOICE_NOTIFICATION",
    "Callback",
    "CallbackUrl",
    "DeclaredOperation",
    "Exchange",
    "Expression",
    "InvalidAnswer",
    "Message",
    "Template",
    "parse_expression",
    "parse_template",
    "parse_url",
]
