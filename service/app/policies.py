"""What settings permit: which URLs and addresses are called, and who signs what is sent there."""

from collections.abc import Awaitable, Callable
from functools import lru_cache

from service.accounts.signing_secrets import SigningSecrets
from service.callbacks.listening import ListenUrls
from service.callbacks.url import CallbackUrl
from service.delivery.egress import EgressPolicy, is_single_label
from service.delivery.signing import Signer
from service.development import DEV_ACCOUNT, DEV_SECRET
from service.settings import Settings


def judge_of(
    settings: Settings, *, is_development: bool = False
) -> Callable[[CallbackUrl], str | None]:
    """The function that returns why a URL may not be called; it reveals nothing of our network."""
    # Many invoices have the same receiver.
    permits_host = lru_cache(maxsize=4096)(egress_policy_of(settings).permits_host)
    listen_urls = ListenUrls(settings.public_url)

    def judge(url: CallbackUrl) -> str | None:
        if settings.callback_require_https and url.scheme != "https":
            return "must be an https:// URL"
        if not permits_host(url.host):
            return "is an address that cannot be called"
        if not is_development and is_single_label(url.host):
            return "must have a complete host name, such as api.example.com"
        return listen_urls.mistake_in(url)

    return judge


def egress_policy_of(settings: Settings) -> EgressPolicy:
    """Which addresses may be connected to."""
    return EgressPolicy(settings.callback_allow, settings.callback_nat64_prefixes)


def signer_of(signing_secrets: SigningSecrets) -> Callable[[str], Awaitable[Signer]]:
    """The function that finds the signer of an account; the development secret is public."""
    signer_with = lru_cache(maxsize=4096)(Signer)

    async def find(account_id: str) -> Signer:
        if account_id == DEV_ACCOUNT:
            return signer_with((DEV_SECRET,))
        return signer_with(await signing_secrets.secrets_of(account_id))

    return find
